"""Data sets: each a ``LightningDataModule`` with a ``spec``, three fixed splits and a resumable order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from .earlier import current_path
from .errors import UserError, unknown
from .spec import DataSpec

if __name__ == "datamodules":  # from the root of the repository, where its classes would be others than the models know
    raise ImportError("the data sets are imported as lightning_gen.datamodules")

__all__ = ["DATASETS", "DataSpec", "Dataset", "UserError", "resolve_dataset"]


class Dataset(NamedTuple):
    """A row of the table of data sets.

    Args:
        target: import path of the class; imported only when used.
        about: one line for the list.
        kind: of its examples, as in its spec.
    """

    target: str
    about: str
    kind: str = "image"


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(f"{__name__}.digits.Digits", "1,797 handwritten digits 8x8, 10 classes; no download"),
    "shapes": Dataset(
        f"{__name__}.shapes.Shapes",
        "dSprites: 737,280 white shapes 64x64 with 5 known factors; drawn here, no download",
    ),
    "toy": Dataset(
        f"{__name__}.toy.Toy", "100,000 points in 2-D: grid25, ring8, swissroll, moons; no download", kind="vector"
    ),
    "mnist": Dataset(f"{__name__}.mnist.MNIST", "70,000 handwritten digits 28x28, 10 classes; downloads 12 MB"),
    "fashion-mnist": Dataset(f"{__name__}.mnist.FashionMNIST", "70,000 clothes 28x28, 10 classes; downloads 31 MB"),
    "stacked-mnist": Dataset(
        f"{__name__}.stacked_mnist.StackedMNIST",
        "MNIST digits in threes, as the colours of a 28x28 image: 1000 classes; downloads 12 MB",
    ),
    "cifar10": Dataset(f"{__name__}.cifar10.CIFAR10", "60,000 colour images 32x32, 10 classes; downloads 170 MB"),
    "outline-shapes": Dataset(
        f"{__name__}.outline_shapes.OutlineShapes",
        "outlines and filled shapes 32x32: two sides with a known truth; drawn here, no download",
    ),
    "coloured-digits": Dataset(
        f"{__name__}.coloured_digits.ColouredDigits",
        "digits in six colours 32x32: two sides with a known truth, one-to-one; no download",
    ),
    "folder": Dataset(f"{__name__}.folder.Folder", "your own images: --data DIRECTORY; subfolders are classes"),
    "unpaired": Dataset(
        f"{__name__}.unpaired.Unpaired",
        "your own images of two kinds: --data.a DIRECTORY --data.b DIRECTORY, or --data.root with trainA, trainB, ...",
    ),
    "paired": Dataset(
        f"{__name__}.paired.Paired",
        "your own pairs: --data.root DIRECTORY of side-by-side pictures, or --data.a and --data.b with equal names",
    ),
}


def resolve_dataset(name: str) -> tuple[str, dict[str, Any]]:
    """Import path and arguments of the data that a name means; the kinds of data recognise a user's files.

    Args:
        name: a row of ``DATASETS``, or the import path of a class.

    Raises:
        UserError: it is neither.
    """
    if name in DATASETS:
        return DATASETS[name].target, {}
    if Path(name).suffix in (".npy", ".npz") or re.search(r"[/\\]", name):
        raise UserError(f"--data {name}: does not exist; known names: {', '.join(DATASETS)}")
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        return current_path(name), {}
    raise unknown("data set", name, DATASETS)
