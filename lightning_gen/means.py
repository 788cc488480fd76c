"""Means over a whole data set, exact for uneven batches and ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Means:
    """Sums of per-example values in float64 on the CPU, and the number of examples."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Values (B, ...) of each example of a batch."""
        for name, value in values.items():
            total = value.detach().cpu().double().sum(0)  # (...)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.count += len(next(iter(values.values()), ()))

    def reduce(self, world_size: int = 1) -> dict[str, Tensor]:
        """The means (...) over all examples of all ranks, the same on each; ranks may have seen nothing."""
        parts: list[Any] = [(self.sums, self.count)]
        if world_size > 1:
            parts = [None] * world_size
            torch.distributed.all_gather_object(parts, (self.sums, self.count))
        parts = [part for part in parts if part[1]]
        count = sum(seen for _, seen in parts)
        return {name: sum(sums[name] for sums, _ in parts) / count for name in parts[0][0]} if parts else {}
