"""Losses of two players, of whom one tells real from fake and the other makes the fake."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


class Pair(NamedTuple):
    """What both players minimise: functions of the discriminator's logits (B,) for real and for fake -> (B,).

    Args:
        discriminator: loss of the player that tells them apart.
        generator: loss of the player that makes the fake; only the fake logits carry gradients to it.
    """

    discriminator: Loss
    generator: Loss


def _discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(g)) with D = sigmoid(logit): Goodfellow et al. 2014, equation 1."""
    return F.softplus(-real_logits) + F.softplus(fake_logits)


def _non_saturating(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(g), whose gradient does not vanish where D is sure: Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake_logits)


ADVERSARIAL: dict[str, Pair] = {"non_saturating": Pair(_discriminator, _non_saturating)}
