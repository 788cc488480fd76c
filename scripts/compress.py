"""Compress examples with a trained model: ``python scripts/compress.py encode RUN IMAGE ... --out FILE``."""

from lightning_gen.commands.compress import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
