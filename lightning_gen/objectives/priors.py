"""Priors p(z) of a latent code: log-density in nats, and draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import check_arguments, check_at_least_one, expect_class, resolve
from lightning_gen.objectives.latent import gaussian_log_density, kl_normal

Posterior = Callable[[Tensor], tuple[Tensor, Tensor]]  # x (B, *shape) -> mean and log-variance (B, Z)


class Prior(nn.Module, ABC):
    """p(z).

    Args:
        spec: what one example looks like.
        latent_dim: Z.
    """

    draw_dim: int  # size of the noise vector of one draw

    def __init__(self, spec: DataSpec, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = self.draw_dim = latent_dim

    @abstractmethod
    def log_prob(self, z: Tensor, posterior: Posterior) -> Tensor:
        """z (..., Z) -> (...) nats; ``posterior`` is q(z|x), for a prior that is made of it."""

    @abstractmethod
    def draw(self, noise: Tensor, posterior: Posterior) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z (n, Z)."""

    def kl(self, z: Tensor, mean: Tensor, log_var: Tensor, posterior: Posterior) -> Tensor:
        """log q(z|x) - log p(z) at the draws z (B, Z): an estimate of KL(q(z|x) || p(z)), (B, 1)."""
        return (gaussian_log_density(z, mean, log_var) - self.log_prob(z, posterior)).unsqueeze(1)


class Normal(Prior):
    """N(0, I)."""

    def log_prob(self, z: Tensor, posterior: Posterior) -> Tensor:
        zeros = torch.zeros_like(z)
        return gaussian_log_density(z, zeros, zeros)

    def draw(self, noise: Tensor, posterior: Posterior) -> Tensor:
        return noise

    def kl(self, z: Tensor, mean: Tensor, log_var: Tensor, posterior: Posterior) -> Tensor:
        """In closed form, by dimension: (B, Z)."""
        return kl_normal(mean, log_var)


class Mixture(Prior):
    """sum_c w_c N(m_c, diag s_c^2) with learned weights, means and variances (Dilokthanakul et al. 2016, in short).

    Args:
        spec: what one example looks like.
        latent_dim: Z.
        components: number of Gaussians.
    """

    def __init__(self, spec: DataSpec, latent_dim: int, components: int = 100) -> None:
        super().__init__(spec, latent_dim)
        check_at_least_one(components=components)
        self.draw_dim = latent_dim + 1  # one more chooses the component
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent_dim))
        self.log_var = nn.Parameter(torch.zeros(components, latent_dim))

    def components(self, posterior: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        """log w (C,), means (C, Z) and log-variances (C, Z)."""
        return self.logits.log_softmax(0), self.mean, self.log_var

    def log_prob(self, z: Tensor, posterior: Posterior) -> Tensor:
        log_weights, mean, log_var = self.components(posterior)
        # The square is multiplied out, so that no (..., C, Z) is needed. Its parts are far larger than their sum where
        # components are narrow and far from 0: in float32 that was off by a nat at |m| = 20. MPS has no float64.
        wide = z.dtype if z.device.type == "mps" else torch.float64
        with torch.autocast(z.device.type, enabled=False):
            points, centres, precision = z.to(wide), mean.to(wide), torch.exp(-log_var.to(wide))  # (C, Z)
            square = points.square() @ precision.T - 2 * points @ (centres * precision).T
            square = (square + (centres.square() * precision).sum(1)).to(z.dtype)  # (..., C)
        constant = log_weights - 0.5 * (log_var.sum(1) + self.latent_dim * math.log(2 * math.pi))
        return torch.logsumexp(constant - 0.5 * square, -1)

    def draw(self, noise: Tensor, posterior: Posterior) -> Tensor:
        log_weights, mean, log_var = self.components(posterior)
        chosen = component(log_weights.exp(), noise[:, -1])
        return mean[chosen] + torch.exp(0.5 * log_var[chosen]) * noise[:, :-1]


class Vamp(Mixture):
    """1/C sum_c q(z | u_c) with learned pseudo-inputs u_c (Tomczak and Welling 2018, equation 9).

    The encoder sees the pseudo-inputs in a batch of their own: take a network without batch norm.

    Args:
        spec: what one example looks like.
        latent_dim: Z.
        components: number of pseudo-inputs.
    """

    def __init__(self, spec: DataSpec, latent_dim: int, components: int = 200) -> None:
        Prior.__init__(self, spec, latent_dim)
        check_at_least_one(components=components)
        self.draw_dim = latent_dim + 1
        self.squash = spec.values != "real"
        dark = -1.5 if self.squash else 0.0  # black, as the background of most images; the paper's start, too
        self.inputs = nn.Parameter(dark + 0.1 * torch.randn(components, *spec.shape))

    def components(self, posterior: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = posterior(self.inputs.tanh() if self.squash else self.inputs)
        return mean.new_full((len(mean),), -math.log(len(mean))), mean, log_var


def component(weights: Tensor, noise: Tensor) -> Tensor:
    """Which component each draw takes: weights (C,) and standard normal noise (n,) -> numbers (n,)."""
    edges = weights.cumsum(0)[:-1].contiguous()
    return torch.bucketize(torch.special.ndtr(noise), edges)


PRIORS: dict[str, type[Prior]] = {"normal": Normal, "mixture": Mixture, "vamp": Vamp}


def build(name: Any, spec: DataSpec, latent_dim: int, options: dict[str, Any]) -> Prior:
    """The prior of a model.

    Args:
        name: a name of ``PRIORS``, an import path, or a class.
        spec: what one example looks like.
        latent_dim: Z.
        options: of the prior, such as ``components``.

    Raises:
        UserError: for an unknown name or option.
    """
    prior: Any = resolve(name, PRIORS, "prior")
    expect_class(prior, Prior, f"prior {name!r}")
    check_arguments(prior, options, f"prior {name!r}", skip=2)
    return prior(spec, latent_dim, **options)
