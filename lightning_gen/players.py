"""Small parts of the training loop: a player's options, and the chunks of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from datamodules.errors import UserError, unknown
from lightning_gen.schedule import schedule

OPTIMIZER = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "l1": 0.0}


def optimizer_options(
    players: Mapping[str, tuple[str, ...]], given: Mapping[str, Mapping[str, Any]], lr: float | str | None
) -> dict[str, dict[str, Any]]:
    """player -> all options of its optimizer, the learning rate as a schedule.

    Raises:
        UserError: an unknown player or option.
    """
    for player, options in given.items():
        if player not in players:
            raise unknown("player", player, players)
        for name in options:
            if name not in OPTIMIZER:
                raise unknown(f"option of optimizers.{player}", name, OPTIMIZER)
    merged = {player: {**OPTIMIZER, **given.get(player, {})} for player in players}
    return {player: {**o, "lr": schedule(o["lr"] if lr is None else lr)} for player, o in merged.items()}


def size_of(batch: Mapping[str, Tensor]) -> int:
    """Number of examples of a batch."""
    return len(next(iter(batch.values())))


def chunks(batch: dict[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """A batch in equal parts.

    Raises:
        UserError: it does not divide.
    """
    if count == 1:
        yield batch
        return
    size = size_of(batch)
    if size % count:
        raise UserError(f"a batch of {size} per device cannot be split into accumulate={count} equal chunks")
    for start in range(0, size, size // count):
        yield {name: values[start : start + size // count] for name, values in batch.items()}
