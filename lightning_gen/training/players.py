"""Small parts of the training loop: a player's options, and the chunks of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError, unknown
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
    options = {player: {**o, "lr": schedule(o["lr"] if lr is None else lr)} for player, o in merged.items()}
    for player, o in options.items():
        if min(o["lr"].first, o["lr"].end) < 0:
            raise UserError(f"learning rate {o['lr'].first:g} of player {player!r}: it must not be negative")
        for name in ("eps", "weight_decay", "l1"):
            if not (isinstance(o[name], (int, float)) and o[name] >= 0):
                raise UserError(f"optimizers.{player}.{name} {o[name]!r}: it must be a number, at least 0")
        betas = o["betas"]
        if not (isinstance(betas, (list, tuple)) and len(betas) == 2 and all(_is_share(beta) for beta in betas)):
            raise UserError(f"optimizers.{player}.betas {betas!r}: give two numbers in [0, 1), such as [0.9, 0.999]")
    return options


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < 1


def adamw(parameters: Sequence[nn.Parameter], options: Mapping[str, Any], fused: bool) -> torch.optim.AdamW:
    """AdamW with these options; at weight decay 0 it is Adam.

    Raises:
        UserError: there is nothing to train.
    """
    if not parameters:
        raise UserError("no weight of a player takes gradients: load(..., train=True) gives a model to train further")
    return torch.optim.AdamW(
        parameters,
        lr=float(options["lr"].first),
        betas=(float(options["betas"][0]), float(options["betas"][1])),
        eps=float(options["eps"]),
        weight_decay=float(options["weight_decay"]),
        fused=fused,
    )


def freeze_all_but(mover: str, owned: Mapping[str, Sequence[nn.Parameter]]) -> None:
    """Enable gradients for the parameters of the updated player only."""
    if len(owned) > 1:
        for player, parameters in owned.items():
            for parameter in parameters:
                parameter.requires_grad_(player == mover)


def l1_norm(parameters: Sequence[nn.Parameter], weight: float) -> Tensor:
    """weight * sum |w|."""
    return weight * torch.stack([p.abs().sum() for p in parameters]).sum()


def size_of(batch: Mapping[str, Tensor]) -> int:
    """Number of examples of a batch."""
    return len(next(iter(batch.values())))


def split_batch(batch: dict[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """A batch in equal parts.

    Raises:
        UserError: it does not divide.
    """
    if count == 1:
        yield batch
        return
    size = size_of(batch)
    if size % count:
        raise UserError(f"a batch of {size} per device cannot be split into {count} equal chunks (accumulate)")
    for start in range(0, size, size // count):
        yield {name: values[start : start + size // count] for name, values in batch.items()}
