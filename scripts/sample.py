"""Draw new examples: ``python scripts/sample.py RUN -n 64 --seed 0``."""

from lightning_gen.exits import run
from lightning_gen.sample import main

if __name__ == "__main__":
    run(main)
