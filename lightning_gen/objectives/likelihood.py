"""Likelihoods p(x | z) of a decoder's raw output: log p in nats, mean, and draws."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.objectives.likelihood_base import (
    Likelihood,
    bound_log_scale,
    discretized_logistic_log_prob,
    sample_discretized_logistic,
)

LOG_SCALE_LR_MULTIPLIER = (
    10.0  # a learned scale has several units to travel, a weight a fraction of one: at equal learning rates it lags
)


class Bernoulli(Likelihood):
    """log p(x | z) = sum_i t_i log sigma(l_i) + (1 - t_i) log(1 - sigma(l_i)), with t = (x + 1) / 2 and logits l.

    Kingma & Welling 2013, appendix C.1, equation 11. On grey values it is the customary cross-entropy: the expected
    log-likelihood of the randomly binarised image, comparable between models, but no normalised density of x.
    """

    values = ("binary", "unit", "uint8")

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        target, out = torch.broadcast_tensors(torch.add(x.new_tensor(0.5), x, alpha=0.5), out.to(x.dtype))
        return -self._sum(F.binary_cross_entropy_with_logits(out, target, reduction="none"))

    def mean(self, out: Tensor) -> Tensor:
        return 2 * torch.sigmoid(out) - 1

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return 2 * torch.bernoulli(torch.sigmoid(out), generator=generator) - 1


class LocationScale(Likelihood):
    """x = mu + s * noise in every element, with mu from the decoder and a scale s.

    A scale that is not fixed starts near s = exp(-1) and is bounded softly from below, log s = softplus(raw + 7) - 8,
    so that a perfect fit cannot drive the density to infinity. From above log p bounds it: it falls by a nat per unit.

    Args:
        spec: what one example looks like.
        scale: "learned": one scale per channel, shared by all examples and elements (sigma-VAE, Rybkin et al. 2021);
            "pixel": the decoder predicts a scale for every element, in a second half of its channels;
            a number > 0: fixed, in the units in which the data reach the model.
    """

    def __init__(self, spec: DataSpec, scale: float | str = "learned") -> None:
        super().__init__(spec)
        self.scale = scale
        if scale == "learned":
            self.raw_scale = nn.Parameter(torch.zeros(_per_channel(self.shape)))
        elif scale != "pixel" and not _is_positive(scale):
            raise UserError(f"scale {scale!r}: possible are 'learned', 'pixel' or a number > 0")

    def params(self) -> tuple[int, ...]:
        channels, *rest = self.shape
        return (2 * channels, *rest) if self.scale == "pixel" else self.shape

    def location_and_log_scale(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """(..., *params) -> location (..., *shape) and a log-scale that broadcasts against it."""
        if self.scale == "pixel":
            location, raw = out.chunk(2, dim=-len(self.shape))  # (..., 2C, H, W) -> twice (..., C, H, W)
            return location, bound_log_scale(raw)
        if self.scale == "learned":
            return out, bound_log_scale(LOG_SCALE_LR_MULTIPLIER * self.raw_scale).to(out.dtype)
        return out, out.new_tensor(math.log(float(self.scale)))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return self._sum(self._log_density(x, *self.location_and_log_scale(out.to(x.dtype))))

    def mean(self, out: Tensor) -> Tensor:
        return self._in_range(self.location_and_log_scale(out)[0])

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        location, log_scale = self.location_and_log_scale(out)
        return self._in_range(self._draw(location, log_scale.exp(), generator))

    @abstractmethod
    def _log_density(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """log p of every element, (..., *shape)."""

    @abstractmethod
    def _draw(self, location: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw of every element, (..., *shape), not yet clamped to the range of the data."""


class Gaussian(LocationScale):
    """log p(x | z) = sum_i -(x_i - mu_i)^2 / (2 s^2) - log s - 1/2 log 2 pi (Kingma & Welling 2013, appendix C.2).

    A density: of x in [-1, 1] for images, where a nat is a nat of that scale.
    """

    values = ("unit", "uint8", "real")

    def _log_density(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        standard = (x - location) * torch.exp(-log_scale)
        return -0.5 * standard.square() - (log_scale + 0.5 * math.log(2 * math.pi))

    def _draw(self, location: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(location.shape, generator=generator, dtype=location.dtype, device=location.device)
        return location + scale * noise


class Laplace(LocationScale):
    """log p(x | z) = sum_i -|x_i - mu_i| / s - log 2 s: absolute error, hence medians and sharper edges."""

    values = ("unit", "uint8", "real")

    def _log_density(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        return -(x - location).abs() * torch.exp(-log_scale) - (log_scale + math.log(2))

    def _draw(self, location: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
        positive = torch.empty_like(location).exponential_(generator=generator)
        negative = torch.empty_like(location).exponential_(generator=generator)
        return location + scale * (positive - negative)


class DiscretizedLogistic(LocationScale):
    """P(x | z) = prod_i sigma(a_i) - sigma(b_i), a = (x - mu + 1/255) / s, b = (x - mu - 1/255) / s.

    Kingma et al. 2016; Salimans et al. 2017 (PixelCNN++), equation 2: the mass of one of 256 levels in [-1, 1], with
    open tails at the first and the last.
    """

    values = ("uint8",)
    edges: Tensor | None = None  # between the levels, where ``counting_levels`` counts fewer than 256

    def _log_density(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        return discretized_logistic_log_prob(x, location, log_scale, self.edges)

    def _draw(self, location: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
        return sample_discretized_logistic(location, scale, generator)


def _per_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *[1] * (len(shape) - 1)) if len(shape) > 1 else (1,)


def _is_positive(scale: float | str) -> bool:
    return isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < math.inf
