"""Set runs side by side: ``python scripts/compare.py RUN RUN``."""

from lightning_gen.commands.compare import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
