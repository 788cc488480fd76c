"""Compress examples with a trained model: ``python scripts/compress.py encode RUN IMAGE ... --out FILE``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("compress")
