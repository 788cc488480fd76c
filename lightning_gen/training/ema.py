"""Exponential moving averages of a player's networks, kept as frozen copies in eval mode."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError, unknown


class MovingAverages(nn.ModuleDict):
    """name of a submodule -> its averaged copy.

    The half-life is counted in images, so it does not depend on the batch size; ``rampup`` shortens it early in
    training to that share of the images seen so far (Karras et al. 2020, appendix D):
    decay = 0.5 ** (batch / half-life).
    """

    def __init__(self, networks: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__({name: copy.deepcopy(net).eval().requires_grad_(False) for name, net in networks})

    def train(self, mode: bool = True) -> MovingAverages:
        """Averages stay in eval mode."""
        return self

    def update_parameters(self, networks: Iterable[tuple[str, nn.Module]], decay: float) -> None:
        """average = decay * average + (1 - decay) * network; integer buffers are copied."""
        averaged, current = self._pairs(list(networks))
        torch._foreach_lerp_(averaged, current, 1.0 - decay)

    @torch.no_grad()
    def _pairs(self, networks: list[tuple[str, nn.Module]]) -> tuple[list[Tensor], list[Tensor]]:
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for name, network in networks:
            for ours, theirs in zip(_tensors(self[name]), _tensors(network), strict=True):
                if ours.is_floating_point():
                    averaged.append(ours)
                    current.append(theirs.detach())
                else:
                    ours.copy_(theirs)
        return averaged, current


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def decay(batch: int, images: int, half_life: float, rampup: float = 0.05) -> float:
    """Weight of the old average after a batch, for a half-life in images."""
    half_life = min(half_life, max(images, batch) * rampup)
    return 0.5 ** (batch / max(half_life, 1e-8))


def half_lives(players: Iterable[str], given: Mapping[str, float | None]) -> dict[str, float]:
    """player -> half-life, without those that are switched off.

    Raises:
        UserError: an unknown player.
    """
    for player in given:
        if player not in players:
            raise unknown("player of ema", player, players)
        if (given[player] or 0) < 0:
            raise UserError(f"ema.{player} {given[player]}: a half-life in images, which must not be negative")
    return {player: float(images) for player, images in given.items() if images}
