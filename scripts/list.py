"""Show the models and data sets: ``python scripts/list.py``, or all of a family: ``python scripts/list.py gan``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("list")
