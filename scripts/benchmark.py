"""Train and measure models under one budget: ``python scripts/benchmark.py --models vae beta-vae --budget 10m``."""

from lightning_gen.commands.benchmark import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
