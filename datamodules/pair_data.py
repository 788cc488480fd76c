"""Data of two sides, a and b: their sources, their base class, and one side alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from . import pixels
from .base import DataModule
from .errors import unknown
from .order import BatchOrder, Order, SideOrders
from .sources import Batch, Source
from .spec import DataSpec

DIRECTIONS = ("a2b", "b2a")


class PairSource:
    """Examples of two sources as ``{"a", "b", "index"}``; the shorter one is repeated from its start.

    An example that one of the sources cannot read is left out as a whole.

    Args:
        a: source of side a, with "x".
        b: source of side b, with "x".
    """

    def __init__(self, a: Source, b: Source) -> None:
        self.a, self.b = a, b

    def __len__(self) -> int:
        return max(len(self.a), len(self.b)) if len(self.a) and len(self.b) else 0

    def fetch(self, index: Tensor) -> Batch:
        """The examples at these positions (B,), or at those of each side (B, 2), of which "index" gives side a's."""
        columns = index.unbind(1) if index.ndim == 2 else (index % len(self.a), index % len(self.b))
        batches = [side.fetch(rows) for side, rows in zip((self.a, self.b), columns, strict=True)]
        read = [was_read(rows, batch["index"]) for rows, batch in zip(columns, batches, strict=True)]
        both = read[0] & read[1]
        a, b = (batch["x"] if both.all() else batch["x"][both[own]] for batch, own in zip(batches, read, strict=True))
        result: Batch = {"a": a, "b": b, "index": (index if index.ndim == 1 else columns[0])[both]}
        skipped = [item for batch in batches for item in batch.get("skipped", [])]
        return {**result, "skipped": skipped} if skipped else result


def was_read(asked: Tensor, got: Tensor) -> Tensor:
    """Which of the requested positions (B,) were read; all for a full batch, also when images were replaced."""
    return torch.ones(len(asked), dtype=torch.bool) if len(got) == len(asked) else torch.isin(asked, got)


class OneSide:
    """One side as examples of their own, cut at the centre.

    Args:
        source: of the side, where ``name`` is "x", or of both.
        name: entry of its batches.
        shape: (C, H, W) of the side.
    """

    def __init__(self, source: Source, name: str, shape: tuple[int, ...]) -> None:
        self.source, self.name, self.shape = source, name, shape

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, index: Tensor) -> Batch:
        """``{"x", "index"}``, and "skipped"."""
        batch = self.source.fetch(index)
        height, width = self.shape[-2:]
        x = pixels.crop(batch.pop(self.name), height, width)
        return {"x": x, **{name: batch[name] for name in ("index", "skipped") if name in batch}}


class PairData(DataModule):
    """Data of two sides, of which a model learns to map a to b; the base of all such sets.

    ``spec.pairs`` says where the two sides of an example belong together. Where they do not in training, each side is
    shuffled for itself, and "index" is the position of side a.

    Args:
        direction: "b2a" swaps the sides.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(self, *, direction: Literal["a2b", "b2a"] = "a2b", **options: Any) -> None:
        super().__init__(**options)
        if direction not in DIRECTIONS:
            raise unknown("direction", direction, DIRECTIONS)
        self.direction = direction

    @abstractmethod
    def splits(self) -> dict[str, Source]:
        """Sources of batches with "a" and "b"; ``PairSource`` where training is unpaired."""

    def has_pairs(self, split: str) -> bool:
        """Whether the two sides of each example of "train", "val" or "test" belong together."""
        return self.spec.pairs == "all" or (self.spec.pairs == "held_out" and split != "train")

    def side(self, name: str) -> DataModule:
        """The images of side "a" or "b" as data of kind "image", each once; they share the memory of these data."""
        if name not in ("a", "b"):
            raise unknown("side", name, ("a", "b"))
        return SideData(self, name)

    def swap_for_direction(self, a: Any, b: Any) -> tuple[Any, Any]:
        """Swap the two sides if the direction is b2a."""
        return (a, b) if self.direction == "a2b" else (b, a)

    def _order(self) -> BatchOrder:
        source = self._splits["train"]
        if self.has_pairs("train"):
            return Order(len(source), self.batch_size, self.seed)
        assert isinstance(source, PairSource)
        return SideOrders((len(source.a), len(source.b)), self.batch_size, self.seed)


class SideData(DataModule):
    """The images of one side of pair data: each once, in the same splits, neither cropped nor flipped at random.

    Args:
        data: the pair data.
        which: "a" or "b".
    """

    def __init__(self, data: PairData, which: str) -> None:
        data.setup()
        super().__init__(batch_size=data.batch_size, seed=data.seed, num_workers=data.num_workers)
        self.data, self.which = data, which
        self._sources = {split: self._one(source) for split, source in data._splits.items()}
        for split in ("val", "test"):
            if not data.has_own_examples(split):
                self._sources[split] = self._sources["train"]

    def describe(self) -> DataSpec:
        """The shape and the number of training images of the side."""
        own, size = self.data.spec, len(self._sources["train"])
        return DataSpec(shape=self._shape, values=own.values, size=size, range=own.range, bits=own.bits)

    def splits(self) -> dict[str, Source]:
        """Those of the pair data."""
        return dict(self._sources)

    def record_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """Done by the pair data."""
        self.data.record_skipped(skipped)

    def report(self) -> str | None:
        """Of the pair data."""
        return self.data.report()

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.data.spec.shape if self.which == "a" else self.data.spec.shape_b

    def _one(self, source: Source) -> Source:
        if isinstance(source, PairSource):
            return OneSide(source.a if self.which == "a" else source.b, "x", self._shape)
        return OneSide(source, self.which, self._shape)
