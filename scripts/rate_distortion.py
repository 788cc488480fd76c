"""Rate against distortion of VAEs and VQ-VAEs: ``python scripts/rate_distortion.py --data digits``."""

from lightning_gen.exits import run
from lightning_gen.rate_distortion import main

if __name__ == "__main__":
    run(main)
