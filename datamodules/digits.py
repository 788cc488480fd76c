"""Digits: the data set that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from .base import DataModule
from .order import fixed_split
from .sources import Source, Tensors, subsets
from .spec import DataSpec

SIZE, VAL, TEST = 1797, 200, 297
LEVELS = np.rint(np.arange(17) * (255 / 16)).astype(np.uint8)


class Digits(DataModule):
    """The 1,797 real handwritten digits 8x8 inside scikit-learn (Alpaydin and Kaynak 1998), 10 classes.

    The 17 grey levels 0..16 are stretched to 0..255. A fixed permutation gives 1,300 training, 200 validation and
    297 test images.
    """

    def describe(self) -> DataSpec:
        """(1, 8, 8) uint8, 10 classes."""
        names = tuple("0123456789")
        levels = tuple(LEVELS.tolist())
        return DataSpec(shape=(1, 8, 8), size=SIZE - VAL - TEST, num_classes=10, class_names=names, levels=levels)

    def splits(self) -> dict[str, Source]:
        """Read the digits out of scikit-learn."""
        from sklearn.datasets import load_digits  # here: it takes a second to import

        data = load_digits()
        x = torch.from_numpy(LEVELS[data.images.astype(np.int64)]).unsqueeze(1)  # (N, 1, 8, 8)
        y = torch.from_numpy(data.target.astype(np.int64))
        return subsets(Tensors(x=x, y=y), fixed_split(SIZE, VAL, TEST))
