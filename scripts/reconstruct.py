"""Pass images through a model: ``python scripts/reconstruct.py RUN IMAGES... --out DIR``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("reconstruct")
