"""Set runs side by side: ``python scripts/compare.py RUN RUN``."""

from lightning_gen.cli import run
from lightning_gen.compare import main

if __name__ == "__main__":
    run(main)
