"""Translate pictures: ``python scripts/translate.py RUN photos --out translated --direction a2b``."""

from lightning_gen.exits import run
from lightning_gen.translate import main

if __name__ == "__main__":
    run(main)
