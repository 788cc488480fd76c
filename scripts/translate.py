"""Translate pictures: ``python scripts/translate.py RUN photos --out translated --direction a2b``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("translate")
