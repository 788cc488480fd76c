"""Translate pictures: ``python scripts/translate.py RUN photos --out translated --direction a2b``."""

from lightning_gen.commands.translate import main
from lightning_gen.exits import run

if __name__ == "__main__":
    run(main)
