"""The time of a flow as a network sees it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
