"""Train and measure models under one budget: ``python scripts/benchmark.py --models vae beta-vae --budget 10m``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("benchmark")
