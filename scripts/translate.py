"""Translate pictures: ``python scripts/translate.py RUN photos --out translated --direction a2b``."""

from lightning_gen.commands.translate import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
