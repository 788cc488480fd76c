"""Terms and estimates in the latent space of a variational autoencoder, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError

ACTIVE = 0.01  # variance over the data of a posterior mean, above which it is active (Burda et al. 2016, section 4)


@dataclass
class Step:
    """The outputs of one training step of a model with latents, passed to every loss term.

    Args:
        x: (B, *shape) data, as they reach the model.
        y: (B,) class ids, (B, L) tokens of a text condition, or None.
        out: (B, *params) the decoder's output, as its likelihood reads it.
        z: (B, Z) latents drawn from q(z | x), or the code of an autoencoder.
        mean: (B, Z) of q(z | x).
        log_var: (B, Z) of q(z | x), or None where the code is deterministic.
        kl: (B, J) nats, KL(q(z | x) || p(z)) by dimension or by level, or one estimate from z where it has no closed
            form; None where there is no such thing.
        size: number of training examples.
        prior: gives (B, Z) draws from the prior, the same at each call.
        decoder: the network that gave ``out``.
        cache: values that several terms share.
    """

    x: Tensor
    y: Tensor | None
    out: Tensor
    z: Tensor
    mean: Tensor
    log_var: Tensor | None = None
    kl: Tensor | None = None
    size: int = 0
    prior: Callable[[], Tensor] | None = None
    decoder: nn.Module | None = None
    cache: dict[str, Any] = field(default_factory=dict)


def reparameterise(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """z = mu + sigma * eps with eps ~ N(0, I) (Kingma & Welling 2013, section 2.4); leading dimensions broadcast."""
    return mean + torch.exp(0.5 * log_var) * noise


def gaussian_log_density(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mu, sigma^2) = -1/2 sum_j (log 2 pi + log sigma_j^2 + (z_j - mu_j)^2 / sigma_j^2).

    Args:
        z: (..., Z) points.
        mean: (..., Z).
        log_var: (..., Z).

    Returns:
        (...) nats; leading dimensions broadcast.
    """
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mean).square() * torch.exp(-log_var)).sum(-1)


def kl_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = -1/2 (1 + log sigma^2 - mu^2 - sigma^2), Kingma & Welling 2013, appendix B.

    Args:
        mean: (..., Z).
        log_var: (..., Z).

    Returns:
        (..., Z) nats per dimension.
    """
    return 0.5 * (mean.square() + torch.expm1(log_var) - log_var)


def kl_gaussians(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(m, s^2)) = 1/2 (log s^2 / sigma^2 + (sigma^2 + (mu - m)^2) / s^2 - 1), (..., Z) nats."""
    ratio = log_var - other_log_var
    return 0.5 * (torch.expm1(ratio) - ratio + (mean - other_mean).square() * torch.exp(-other_log_var))


def kl(s: Step, free_bits: float = 0.0) -> Tensor:
    """sum_j max(lambda, E_batch KL(q(z_j | x) || p(z_j))), Kingma et al. 2016, equation 15; lambda = 0 is the plain KL.

    Each example carries its own share: the batch mean of the result is the sum above and has its gradient. The
    expectation runs over the batches of all ranks, and decides no more than which dimensions are clamped. Without
    gradients, in validation, it is the plain KL: free bits steer training, and a mean over examples must not depend on
    how they are batched.

    Args:
        s: the step.
        free_bits: lambda, the nats per latent dimension (or level) that cost nothing.

    Returns:
        (B,) nats.
    """
    per_dimension = needed(s.kl, "kl")  # (B, J)
    if free_bits <= 0 or not torch.is_grad_enabled():
        return per_dimension.sum(-1)
    is_free = _mean_over_ranks(per_dimension) <= free_bits  # (J,)
    return torch.where(is_free, free_bits, per_dimension).sum(-1)


def capacity(s: Step, nats: float = 25.0) -> Tensor:
    """|E_batch KL(q(z | x) || p(z)) - C|, Burgess et al. 2018, equation 8, with C usually a ramp from 0 upwards.

    Each example carries its share of the batch's value. Without gradients, in validation, it is KL(x) - C, of whose
    mean over all examples the model takes the absolute value.

    Args:
        s: the step.
        nats: C, the target KL (capacity of the code).

    Returns:
        (B,) nats.
    """
    difference = needed(s.kl, "capacity").sum(-1) - nats
    if not torch.is_grad_enabled():
        return difference
    return difference * _mean_over_ranks(difference).sign()


def needed(value: Tensor | None, term: str) -> Tensor:
    """A part of the step that a term requires.

    Raises:
        UserError: this model does not have it.
    """
    if value is None:
        raise UserError(f"term {term!r} needs a random code, q(z|x), which this model does not have: take a VAE")
    return value


def _mean_over_ranks(values: Tensor) -> Tensor:
    """(B, Z) -> (Z,), without gradient, over the equal shards of all ranks."""
    mean = values.detach().mean(0)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean = mean / dist.get_world_size()
    return mean


def importance_bound(log_w: Tensor) -> Tensor:
    """L_K = log 1/K sum_k w_k with w_k = p(x, z_k) / q(z_k | x), Burda et al. 2016, equation 8.

    Args:
        log_w: (K, B) log importance weights.

    Returns:
        (B,) a lower bound of log p(x) in nats, which tightens as K grows.
    """
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])


def active_units(first: Tensor, second: Tensor, threshold: float = ACTIVE) -> Tensor:
    """Which latents carry information: Cov_x(E_q[z_j | x]) > threshold, Burda et al. 2016, section 4.

    Args:
        first: (Z,) mean over the data of the posterior means, E_x[mu].
        second: (Z,) mean over the data of their squares, E_x[mu^2].
        threshold: variance over the data above which a unit is active.

    Returns:
        (Z,) bool.
    """
    return second - first.square() > threshold


def information_of_moments(first: Tensor, second: Tensor, variance: Tensor, log_variance: Tensor) -> Tensor:
    """E_x KL(q(z_j|x) || N(m_j, s_j^2)) with the moments of q(z_j): how much each dimension carries, (Z,) nats.

    It bounds the mutual information of x and z_j from above, and says under any prior what the KL says under N(0, 1).

    Args:
        first: (Z,) E_x[mu].
        second: (Z,) E_x[mu^2].
        variance: (Z,) E_x[sigma^2].
        log_variance: (Z,) E_x[log sigma^2].
    """
    return 0.5 * (torch.log(second - first.square() + variance) - log_variance)
