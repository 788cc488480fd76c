"""A mixture of discretised logistics: several modes for each pixel, and channels that depend on each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import check_at_least_one
from lightning_gen.objectives.likelihood_base import (
    Likelihood,
    bound_log_scale,
    discretized_logistic_log_prob,
    sample_discretized_logistic,
)


class DiscretizedLogisticMixture(Likelihood):
    """P(x | z) = prod_pixels sum_k pi_k prod_c P(x_c; mu_kc + sum_{j < c} tanh(a_kcj) x_j, s_kc).

    Salimans et al. 2017 (PixelCNN++), equations 2 and 3, for any number C of channels: a pixel's channels share the
    component k, and within it the location of a channel depends on the values of the channels before. For each
    component the decoder gives a logit of pi, C locations, C scales and C (C - 1) / 2 coefficients a, in this order.
    In a vector (D,) every element is a pixel of one channel.

    Args:
        spec: what one example looks like.
        components: K, at least 1.
    """

    values = ("uint8",)
    edges: Tensor | None = None  # between the levels, where ``counting_levels`` counts fewer than 256

    def __init__(self, spec: DataSpec, components: int = 5) -> None:
        super().__init__(spec)
        check_at_least_one(components=components)
        self.components = components
        self.channels = self.shape[0] if len(self.shape) > 1 else 1
        self.sizes = (1, self.channels, self.channels, self.channels * (self.channels - 1) // 2)

    def params(self) -> tuple[int, ...]:
        first, *rest = self.shape
        return (self.components * sum(self.sizes) * first // self.channels, *rest)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        log_weight, location, log_scale, mixing = self._read(out.to(x.dtype))
        pixels = x.flatten(-len(self.shape)).unflatten(-1, (1, self.channels, -1))  # (..., 1, C, N)
        pixels, location = torch.broadcast_tensors(pixels, location)  # (..., K, C, N)
        location, _ = _in_order(location, mixing, lambda c, _: pixels[..., c, :])
        log_mass = discretized_logistic_log_prob(pixels, location, log_scale, self.edges).sum(-2)  # (..., K, N)
        return torch.logsumexp(log_weight + log_mass, -2).sum(-1)

    def mean(self, out: Tensor) -> Tensor:
        """(..., *params) -> (..., *shape): of each component, a channel's location given the means of those before."""
        log_weight, location, _, mixing = self._read(out)
        _, means = _in_order(location, mixing, lambda _, at: at.clamp(-1, 1))
        return self._in_range(self._shaped((log_weight.exp().unsqueeze(-2) * means).sum(-3)))

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        log_weight, *parts = self._read(out)
        race = torch.empty_like(log_weight).exponential_(generator=generator)  # its argmin of race / pi is k ~ pi
        winner = (log_weight - race.log()).argmax(-2, keepdim=True).unsqueeze(-2)  # (..., 1, 1, N)
        location, log_scale, mixing = (torch.take_along_dim(part, winner, -3).squeeze(-3) for part in parts)
        scale = log_scale.exp()  # (..., C, N)

        def draw(c: int, at: Tensor) -> Tensor:
            return sample_discretized_logistic(at, scale[..., c, :], generator).clamp(-1, 1)

        return self._shaped(_in_order(location, mixing, draw)[1])

    def _read(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log pi (..., K, N), locations and log-scales (..., K, C, N), coefficients (..., K, C (C - 1) / 2, N)."""
        grid = (self.components, sum(self.sizes), math.prod(self.shape) // self.channels)
        parts = out.flatten(-len(self.shape)).unflatten(-1, grid)  # (..., *params) -> (..., K, 1 + 2 C + ..., N)
        logits, location, raw, coefficients = parts.split(self.sizes, -2)
        return F.log_softmax(logits.squeeze(-2), -2), location, bound_log_scale(raw), torch.tanh(coefficients)

    def _shaped(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(-2).unflatten(-1, self.shape)  # (..., C, N) -> (..., *shape)


def _in_order(location: Tensor, mixing: Tensor, value: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Channel after channel: its location given the values of the channels before, then its own value.

    Args:
        location: (..., C, N) without the other channels' share.
        mixing: (..., C (C - 1) / 2, N) coefficients of the channels before: the second's, the third's, and so on.
        value: channel and location (..., N) -> (..., N).

    Returns:
        Locations and values, (..., C, N).
    """
    coefficients = iter(mixing.unbind(-2))
    locations: list[Tensor] = []
    values: list[Tensor] = []
    for c, at in enumerate(location.unbind(-2)):
        locations.append(at + sum(next(coefficients) * before for before in values))
        values.append(value(c, locations[-1]))
    return torch.stack(locations, -2), torch.stack(values, -2)
