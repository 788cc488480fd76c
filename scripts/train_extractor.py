"""Train a feature extractor for your own labelled images: ``python scripts/train_extractor.py --data FOLDER``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("train-extractor")
