"""The time of a flow as a network sees it, and with it the condition."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.networks.condition import Condition, ConditionSpec

PAIRS = 8


class TimeEmbedding(nn.Module):
    """t (B,) in [0, 1] -> (B, 17): t, and sine and cosine of k pi t / 2 for k = 1 to 8.

    Slow on purpose, at most 13 radians: with the customary factor of 1000 the derivative with respect to t, which
    one-step flows are trained on, is useless, and interpolation between the times of training is poor.
    """

    dim = 2 * PAIRS + 1
    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1, PAIRS + 1) * math.pi / 2, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        phases = t[:, None] * self.frequencies
        return torch.cat([t[:, None], phases.sin(), phases.cos()], 1)


class ToldEmbedding(nn.Module):
    """t (B,) and c (B, ...) or None -> (B, width): what blocks of a network are told.

    Args:
        condition: what the network is conditioned on; None for nothing.
        width: of the vector.
    """

    def __init__(self, condition: ConditionSpec | None, width: int) -> None:
        super().__init__()
        self.condition, self.time = Condition(condition), TimeEmbedding()
        given = self.time.dim + self.condition.dim
        self.layers = nn.Sequential(nn.Linear(given, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, c: Tensor | None) -> Tensor:
        return F.silu(self.layers(self.condition.concat(self.time(t), c)))
