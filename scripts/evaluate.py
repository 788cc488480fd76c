"""Measure a trained model: ``python scripts/evaluate.py RUN``."""

from lightning_gen.cli import run
from lightning_gen.evaluate import main

if __name__ == "__main__":
    run(main)
