"""Sources of examples: ``fetch`` a batch of positions, get a batch of examples."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from . import pixels, units
from .spec import DataSpec

Batch = dict[str, Any]


class Source(Protocol):
    """Examples 0..len-1 of one split.

    ``fetch(index (B,)) -> {"x": (B, *shape), "index": (B,)}`` and ``y`` (B,), ``factors`` (B, F) where known. A source
    that meets broken examples says so under "skipped" (a list of (name, reason)), which the loader takes out. One that
    knows its class ids without reading its examples may say them by ``labels() -> (N,)``, see ``labels_of``.
    """

    def __len__(self) -> int: ...

    def fetch(self, index: Tensor) -> Batch:
        """The examples at these positions."""
        ...


def labels_of(source: Source, read: bool = False) -> Tensor | None:
    """The class ids (N,) of all examples of a source, -1 of those that cannot be read; None where they have none.

    Args:
        source: its ``labels()``, where it has such a method, are asked.
        read: fetch all examples of other sources, else their labels are None.
    """
    if hasattr(source, "labels"):
        known = source.labels()
        if known is not None or not read:
            return known
    if not read:
        return None
    y = torch.full((len(source),), -1)
    for rows in torch.arange(len(source)).split(1024):
        batch = source.fetch(rows)
        if "y" not in batch:
            return None
        y[batch["index"]] = batch["y"]
    return y


class Tensors:
    """Examples held in memory: ``x`` (N, *shape) and optional ``y`` (N,), ``factors`` (N, F)."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["x"])

    def fetch(self, index: Tensor) -> Batch:
        """Rows of every column; no Python per example."""
        batch = {name: column.index_select(0, index) for name, column in self.columns.items()}
        batch["index"] = index
        return batch

    def labels(self) -> Tensor | None:
        """(N,)."""
        return self.columns.get("y")


class Subset:
    """Some examples of another source, renumbered 0..len-1.

    Args:
        source: the source of all examples.
        rows: (n,) positions in it.
    """

    def __init__(self, source: Source, rows: Tensor) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, index: Tensor) -> Batch:
        """The examples at these positions of the subset."""
        batch = self.source.fetch(self.rows.index_select(0, index))
        batch["index"] = index
        return batch

    def labels(self) -> Tensor | None:
        """(n,)."""
        known = labels_of(self.source)
        return None if known is None else known[self.rows]


def subsets(source: Source, parts: dict[str, Tensor]) -> dict[str, Source]:
    """One subset for each split."""
    return {name: Subset(source, rows) for name, rows in parts.items()}


def binarize_source(source: Source, spec: DataSpec, seed: int) -> tuple[Tensors, list[tuple[str, str]]]:
    """A copy of all examples in memory, binarised once by coin flips from a fixed seed.

    Returns:
        The examples, as uint8 {0, 255}, and what the source had to skip.
    """
    generator = torch.Generator().manual_seed(seed)
    batches, skipped = [], []
    for rows in torch.arange(len(source)).split(1024):
        batch = source.fetch(rows)
        skipped += batch.pop("skipped", [])
        x = units.to_model(batch["x"], spec)
        x = pixels.binarize(x, torch.empty(x.shape).uniform_(-1, 1, generator=generator))
        batches.append({**batch, "x": (x > 0).to(torch.uint8) * 255})
    names = [name for name in batches[0] if name != "index"] if batches else []
    return Tensors(**{name: torch.cat([batch[name] for batch in batches]) for name in names}), skipped
