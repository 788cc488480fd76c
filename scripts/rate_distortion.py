"""Rate against distortion of VAEs and VQ-VAEs: ``python scripts/rate_distortion.py --data digits``."""

from lightning_gen.commands.rate_distortion import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
