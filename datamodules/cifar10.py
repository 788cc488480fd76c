"""CIFAR-10, from its binary version: nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .base import DataModule
from .download import damaged_file_error, download_errors
from .paths import to_path
from .sources import Source, Tensors
from .spec import DataSpec

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FILES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
ROWS, ROW = 10_000, 1 + 3 * 32 * 32  # images per file; bytes per image: its label, then the planes R, G, B
TRAIN, VAL = 45_000, 5_000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(DataModule):
    """60,000 colour images 32x32 (Krizhevsky 2009), 10 classes; 170 MB, downloaded on first use.

    The official training images are split into the first 45,000 for training and the last 5,000 for validation;
    the official 10,000 test images are the test set.

    Args:
        root: folder of the data; they lie in its subfolder cifar-10-batches-bin.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(**options)
        self.root = root

    @property
    def raw(self) -> Path:
        """Where the six files lie."""
        return to_path(self.root) / "cifar-10-batches-bin"

    def describe(self) -> DataSpec:
        """(3, 32, 32) uint8, 10 classes."""
        return DataSpec(shape=(3, 32, 32), size=TRAIN, num_classes=10, class_names=CLASSES)

    def prepare_data(self) -> None:
        """Download and verify, unless all six files are there; a complete folder may be read-only."""
        if all((self.raw / name).is_file() for name in FILES):
            return
        with download_errors("cifar10", self.raw, "the six .bin files of cifar-10-binary.tar.gz"):
            from torchvision.datasets.utils import download_and_extract_archive

            download_and_extract_archive(URL, str(self.raw.parent), md5=MD5)

    def splits(self) -> dict[str, Source]:
        """Read the six files."""
        rows = np.concatenate([self._read(self.raw / name) for name in FILES])  # (60000, 3073)
        y = torch.from_numpy(rows[:, 0].astype(np.int64))
        x = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32))
        parts = zip(("train", "val", "test"), x.split([TRAIN, VAL, ROWS]), y.split([TRAIN, VAL, ROWS]), strict=True)
        return {name: Tensors(x=images.contiguous(), y=labels) for name, images, labels in parts}

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        if not path.is_file() or path.stat().st_size != ROWS * ROW:
            raise damaged_file_error(path)
        return np.fromfile(path, np.uint8).reshape(ROWS, ROW)
