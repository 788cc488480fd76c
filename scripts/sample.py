"""Draw new examples: ``python scripts/sample.py RUN -n 64 --seed 0``."""

from lightning_gen.commands.sample import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
