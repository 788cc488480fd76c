"""Train a model: ``python scripts/fit.py --model vae``; without arguments it lists models and data."""

from lightning_gen.exits import run
from lightning_gen.fit import main

if __name__ == "__main__":
    run(main)
