"""Pass images through a model: ``python scripts/reconstruct.py RUN IMAGES... --out DIR``."""

from lightning_gen.commands.reconstruct import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
