"""Train a feature extractor for your own labelled images: ``python scripts/train_extractor.py --data FOLDER``."""

from lightning_gen.exits import run
from lightning_gen.train_extractor import main

if __name__ == "__main__":
    run(main)
