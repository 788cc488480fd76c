"""Finds the first loss or term that is NaN or infinite, without waiting for the device at each iteration."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError

AT_ONCE = 1000  # optimizer steps after which the values are checked


class NonFinite(UserError):
    """Training has diverged."""


class FiniteCheck:
    """Keeps the losses and terms of the last optimizer steps, on the device, and checks all of them at once."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, dict[str, Tensor]]] = []

    def add(self, player: str, iteration: int, loss: Tensor, logs: dict[str, Tensor]) -> None:
        """Record an optimizer step's loss and terms."""
        values = {name: value.detach() for name, value in logs.items()}
        self.seen.append((player, iteration, {**values, "loss": loss}))

    def find(self, parameters: Iterable[Tensor] = ()) -> NonFinite | None:
        """Wait for the device and check: the error for the first recorded value or parameter that is not finite."""
        flat = [value for _, _, values in self.seen for value in values.values()]
        finite = iter(torch.stack(flat).isfinite().tolist() if flat else [])
        for player, iteration, values in self.seen:
            broken = [name for name in values if not next(finite)]
            if broken:
                terms = [name for name in broken if name != "loss"]
                if iteration == 0:
                    return NonFinite(
                        f"the loss of player {player!r} is NaN or infinite at iteration 0, before a step was taken, "
                        f"first in: {', '.join(terms) or 'loss'}. Look at the size of the data's values, and of "
                        "weights of terms: numbers near 1 suit a network (vectors: --data.standardize true)"
                    )
                return NonFinite(
                    f"the loss of player {player!r} became NaN or infinite at iteration {iteration}, first in: "
                    f"{', '.join(terms) or 'loss'}. Nothing was saved since. "
                    "Try a smaller --model.lr, --model.clip 1, or another likelihood"
                )
        self.seen = []
        if not all(bool(p.isfinite().all()) for p in parameters):
            return NonFinite(
                "a weight became NaN or infinite; nothing was saved since. Try a smaller --model.lr or --model.clip 1"
            )
        return None
