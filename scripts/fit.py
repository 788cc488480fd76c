"""Train a model: ``python scripts/fit.py --model vae``; without arguments it lists models and data."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("fit")
