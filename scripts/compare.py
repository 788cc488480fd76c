"""Set runs side by side: ``python scripts/compare.py RUN RUN``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("compare")
