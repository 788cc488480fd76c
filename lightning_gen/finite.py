"""Finds the first loss or term that is NaN or infinite, without waiting for the device at each iteration."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from datamodules.errors import UserError

NEVER = 2**62


class NonFinite(UserError):
    """Training has diverged."""


class FiniteCheck:
    """Keeps on the device, for each player, the first iteration at which each of its values was not finite."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}
        self.names: dict[str, tuple[str, ...]] = {}

    def add(self, player: str, iteration: int, loss: Tensor, logs: dict[str, Tensor]) -> None:
        """Note a move's loss and terms."""
        values = torch.stack([loss, *logs.values()])  # (1 + terms,)
        if player not in self.first:
            self.first[player] = torch.full(values.shape, NEVER, device=values.device)
            self.names[player] = ("loss", *logs)
        now = torch.where(values.isfinite(), NEVER, iteration)
        torch.minimum(self.first[player], now, out=self.first[player])

    def check(self, parameters: Iterable[Tensor] = ()) -> None:
        """Wait for the device and look.

        Raises:
            NonFinite: a noted value, or one of the given parameters, is NaN or infinite.
        """
        for player, first in self.first.items():
            iteration = int(first.min())
            if iteration < NEVER:
                since = zip(self.names[player], first.tolist(), strict=True)
                terms = [name for name, when in since if when == iteration and name != "loss"]
                raise NonFinite(
                    f"the loss of player {player!r} became NaN or infinite at iteration {iteration}, first in: "
                    f"{', '.join(terms) or 'loss'}. Nothing was saved since: the last checkpoint is good. "
                    " Try a smaller --model.lr, --model.clip 1, or another likelihood"
                )
        if not all(bool(p.isfinite().all()) for p in parameters):
            raise NonFinite(
                "a weight became NaN or infinite; nothing was saved since: the last checkpoint is good. "
                "Try a smaller --model.lr or --model.clip 1"
            )
