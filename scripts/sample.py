"""Draw new examples: ``python scripts/sample.py RUN -n 64 --seed 0``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("sample")
