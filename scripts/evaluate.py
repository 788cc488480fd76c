"""Measure a trained model: ``python scripts/evaluate.py RUN``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("evaluate")
