"""Train a model: ``python scripts/fit.py --model vae``; without arguments it lists models and data."""

from lightning_gen.commands.fit import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
