"""Stacked MNIST: three digits as the colours of one image, 1000 known modes."""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .base import DataModule
from .mnist import MNIST
from .order import derive_seed
from .sources import Batch, Source
from .spec import DataSpec

# As in the paper: 128,000 for training, and 26,000, so that as many samples can be compared with the test examples.
SIZES = {"train": 128_000, "val": 5_000, "test": 26_000}


@runtime_checkable
class StackedData(Protocol):
    """Data whose channels are examples of another data set, by which an evaluation classifies a sample.

    The class of an example is made of the channels' classes by ``joint_class``.
    """

    def channel_dataset(self) -> tuple[str, DataSpec]:
        """The other data set: its name in ``DATASETS`` and its spec."""
        ...


def joint_class(classes: Tensor, base: int) -> Tensor:
    """Classes (B, S) in [0, K) of the channels -> (B,) in [0, K^S): the number with these digits, the first leading.

    Args:
        classes: of the channels.
        base: K.
    """
    values = base ** torch.arange(classes.shape[1], device=classes.device).flip(0)  # (S,)
    return (classes * values).sum(1)  # a matrix product of integers exists on the CPU only


class StackedSource:
    """Examples of another source, several stacked along the channels of each.

    Args:
        source: of examples with classes, x (N, C, H, W).
        rows: (n, S) positions in it.
        base: K, its number of classes.
    """

    def __init__(self, source: Source, rows: Tensor, base: int) -> None:
        self.source, self.rows, self.base = source, rows, base

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, index: Tensor) -> Batch:
        """``x`` (B, S * C, H, W) and ``y`` (B,) in [0, K^S)."""
        rows = self.rows.index_select(0, index)  # (B, S)
        batch = self.source.fetch(rows.flatten())
        x = batch["x"].unflatten(0, rows.shape).flatten(1, 2)  # (B, S * C, H, W)
        return {"x": x, "y": joint_class(batch["y"].view(rows.shape), self.base), "index": index}


class StackedMNIST(DataModule):
    """Stacked MNIST (Metz et al. 2017; Lin et al. 2018, section 4.2): 1000 classes, 100 a + 10 b + c.

    Red, green and blue of a 28x28 image are three digits a, b, c of MNIST, drawn at random from a fixed seed: 128,000
    images of its training digits, 5,000 of its validation and 26,000 of its test digits, put together when a batch is
    requested. The digits are downloaded on first use, 12 MB.

    Args:
        root: folder of the data; the digits lie in its subfolder MNIST/raw.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(**options)
        self.digits = MNIST(root)

    def describe(self) -> DataSpec:
        """(3, 28, 28) uint8, 1000 classes."""
        channels, *side = self.digits.spec.shape
        names = tuple("".join(digits) for digits in product(self.digits.spec.class_names, repeat=3))
        return DataSpec((3 * channels, *side), size=SIZES["train"], num_classes=len(names), class_names=names)

    def channel_dataset(self) -> tuple[str, DataSpec]:
        """MNIST."""
        return MNIST.dataset_name, self.digits.spec

    def prepare_data(self) -> None:
        """Download and verify the digits, unless they are there."""
        self.digits.prepare_data()

    def splits(self) -> dict[str, Source]:
        """Read the digits and draw the triples."""
        sources: dict[str, Source] = {}
        for split, digits in self.digits.splits().items():
            generator = torch.Generator().manual_seed(derive_seed("stacked-mnist", split))
            rows = torch.randint(len(digits), (SIZES[split], 3), generator=generator)
            sources[split] = StackedSource(digits, rows, self.digits.spec.num_classes)
        return sources
