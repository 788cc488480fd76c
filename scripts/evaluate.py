"""Measure a trained model: ``python scripts/evaluate.py RUN``."""

from lightning_gen.commands.evaluate import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
