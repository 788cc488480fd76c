"""Base class of likelihoods, and the mass of a level under a logistic distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec

HALF = 1 / 255  # half the distance of two levels in [-1, 1]


class Likelihood(nn.Module, ABC):
    """p(x | z), given the output of a decoder, with x as it reaches the model.

    Data of values "binary", "unit" and "uint8" reach the model in [-1, 1], "real" ones as they are, or standardized:
    then nats are those of standardized values, and ``VAEBase.log_px`` gives those of the data's units. The decoder
    gives logits or locations, never squashed.

    Args:
        spec: what one example looks like.

    Raises:
        UserError: the data's values are not among those that it supports.
    """

    values: ClassVar[tuple[str, ...]]

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.values not in self.values:
            raise UserError(self.misfit(spec))
        self.shape = tuple(spec.shape)
        self.bounded = spec.values != "real"

    @classmethod
    def misfit(cls, spec: DataSpec) -> str:
        """The text of the error for data whose values it does not fit."""
        return f"likelihood {cls.__name__} does not fit data of values {spec.values!r}, but {', '.join(cls.values)}"

    def params(self) -> tuple[int, ...]:
        """Shape of the decoder's output for one example."""
        return self.shape

    @abstractmethod
    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x | z) in nats, summed over the elements.

        Args:
            x: (..., *shape) data.
            out: (..., *params) the decoder's output; leading dimensions broadcast.

        Returns:
            (...) nats.
        """

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """(..., *params) -> (..., *shape): the mean of p(x | z), in the range of the data."""

    @abstractmethod
    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(..., *params) -> (..., *shape): a draw of x, in the range of the data; the generator is on out's device."""

    def _sum(self, per_element: Tensor) -> Tensor:
        return per_element.sum(tuple(range(-len(self.shape), 0)))  # (..., *shape) -> (...)

    def _in_range(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1) if self.bounded else x


def bound_log_scale(raw: Tensor) -> Tensor:
    """A log-scale from a network's output or a parameter: softly bounded from below by -8, near -1 where raw is 0."""
    return F.softplus(raw + 7) - 8


def discretized_logistic_log_prob(
    x: Tensor, location: Tensor, log_scale: Tensor, edges: Tensor | None = None
) -> Tensor:
    """log(sigma(a) - sigma(b)), a = (x - mu + 1/255) / s, b = (x - mu - 1/255) / s: the mass of one of 256 levels.

    Salimans et al. 2017 (PixelCNN++), equation 2, with open tails at the first and the last level. The difference of
    sigmoids cannot cancel in its log-space form, log sigma(a) + log sigma(-b) + log(1 - exp(b - a)).

    Args:
        x: (...) levels in [-1, 1].
        location: (...) mu.
        log_scale: (...) log s; all broadcast.
        edges: (L - 1,) between the levels, ascending, where these are others than the 256.

    Returns:
        (...) nats.
    """
    inverse = torch.exp(-log_scale)
    if edges is not None:
        open_edges = F.pad(F.pad(edges.to(x), (1, 0), value=-torch.inf), (0, 1), value=torch.inf)
        place = torch.bucketize(x.contiguous(), edges.to(x))
        lower, upper = open_edges[place], open_edges[place + 1]
        log_below, log_above = F.logsigmoid((upper - location) * inverse), F.logsigmoid((location - lower) * inverse)
        return log_below + log_above + torch.log(-torch.expm1((lower - upper) * inverse))
    log_below = F.logsigmoid((x - location + HALF) * inverse)  # log P(level <= x)
    log_above = F.logsigmoid((location - x + HALF) * inverse)  # log P(level >= x)
    log_inside = log_below + log_above + torch.log(-torch.expm1(-2 * HALF * inverse))
    return torch.where(x < HALF - 1, log_below, torch.where(x > 1 - HALF, log_above, log_inside))


def sample_discretized_logistic(location: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws from logistic distributions, rounded to the distance of the levels and not clamped to their range."""
    uniform = torch.rand(location.shape, generator=generator, dtype=location.dtype, device=location.device)
    return torch.round(127.5 * (location + scale * torch.logit(uniform)) + 127.5) / 127.5 - 1
