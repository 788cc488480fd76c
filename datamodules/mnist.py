"""MNIST and FashionMNIST: 28x28 grey images in the idx format."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .base import DataModule
from .download import damaged_file_error, download_errors
from .paths import to_path
from .sources import Source, Tensors
from .spec import DataSpec

TRAIN, VAL, TEST = 55_000, 5_000, 10_000
FILES = {  # file -> (bytes of its header, shape)
    "train-images-idx3-ubyte": (16, (60_000, 1, 28, 28)),
    "train-labels-idx1-ubyte": (8, (60_000,)),
    "t10k-images-idx3-ubyte": (16, (10_000, 1, 28, 28)),
    "t10k-labels-idx1-ubyte": (8, (10_000,)),
}


def read_idx(folder: Path, name: str) -> Tensor:
    """One idx file, plain or as .gz, as uint8 of the expected shape.

    Raises:
        UserError: it is missing or damaged.
    """
    header, shape = FILES[name]
    size = header + math.prod(shape)
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        if plain.is_file() and plain.stat().st_size == size:
            data = plain.read_bytes()
        else:
            data = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise damaged_file_error(packed) from error
    if len(data) != size:
        raise damaged_file_error(packed)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy())


class MNIST(DataModule):
    """70,000 handwritten digits 28x28 (LeCun et al. 1998), 10 classes; 12 MB, downloaded on first use.

    The official training images are split into the first 55,000 for training and the last 5,000 for validation;
    the official 10,000 test images are the test set.

    Args:
        root: folder of the data; they lie in its subfolder MNIST/raw (FashionMNIST/raw).
        options: those of every data set, see ``DataModule``.
    """

    dataset_name: ClassVar[str] = "mnist"
    folder: ClassVar[str] = "MNIST"  # also the name of torchvision's class
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(**options)
        self.root = root

    @property
    def raw(self) -> Path:
        """Where the four files lie."""
        return to_path(self.root) / self.folder / "raw"

    def describe(self) -> DataSpec:
        """(1, 28, 28) uint8, 10 classes."""
        return DataSpec(shape=(1, 28, 28), size=TRAIN, num_classes=10, class_names=self.class_names)

    def prepare_data(self) -> None:
        """Download and verify, unless all four files are there; a complete folder may be read-only."""
        if all((self.raw / name).is_file() or (self.raw / f"{name}.gz").is_file() for name in FILES):
            return
        with download_errors(self.dataset_name, self.raw, ", ".join(f"{name}.gz" for name in FILES)):
            from torchvision import datasets  # here: a second to import, and needed only once

            getattr(datasets, self.folder)(to_path(self.root), download=True)

    def splits(self) -> dict[str, Source]:
        """Read the four files."""
        images, labels, test_images, test_labels = (read_idx(self.raw, name) for name in FILES)
        labels, test_labels = labels.long(), test_labels.long()
        return {
            "train": Tensors(x=images[:TRAIN], y=labels[:TRAIN]),
            "val": Tensors(x=images[-VAL:], y=labels[-VAL:]),
            "test": Tensors(x=test_images, y=test_labels),
        }


class FashionMNIST(MNIST):
    """70,000 pieces of clothing 28x28 (Xiao et al. 2017), 10 classes; 31 MB, downloaded; split like MNIST."""

    dataset_name = "fashion-mnist"
    folder = "FashionMNIST"
    class_names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
