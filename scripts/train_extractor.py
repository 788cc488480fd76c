"""Train a feature extractor for your own labelled images: ``python scripts/train_extractor.py --data FOLDER``."""

from lightning_gen.commands.train_extractor import main
from lightning_gen.exits import run_main

if __name__ == "__main__":
    run_main(main)
