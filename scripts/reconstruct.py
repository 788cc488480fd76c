"""Pass images through a model: ``python scripts/reconstruct.py RUN IMAGES... --out DIR``."""

from lightning_gen.exits import run
from lightning_gen.reconstruct import main

if __name__ == "__main__":
    run(main)
