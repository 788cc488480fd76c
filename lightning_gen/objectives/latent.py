"""Terms and estimates in the latent space of a variational autoencoder, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

ACTIVE = (
    0.01  # variance of the posterior mean over the data above which a unit is active (Burda et al. 2016, section 4)
)


@dataclass(slots=True)
class Step:
    """What one training step of a VAE produced: the argument of every term.

    Args:
        x: (B, *shape) data, as they reach the model.
        y: (B,) class ids, or None.
        out: (B, *params) the decoder's output, as its likelihood reads it.
        z: (B, Z) latents drawn from q(z | x).
        mean: (B, Z) of q(z | x).
        log_var: (B, Z) of q(z | x).
    """

    x: Tensor
    y: Tensor | None
    out: Tensor
    z: Tensor
    mean: Tensor
    log_var: Tensor


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


def kl(s: Step, free_bits: float = 0.0) -> Tensor:
    """sum_j max(lambda, E_batch KL(q(z_j | x) || p(z_j))), Kingma et al. 2016, equation 15; lambda = 0 is the plain KL.

    Each example carries its own share: the batch mean of the result is the sum above and has its gradient. The
    expectation runs over the batches of all ranks, and decides no more than which dimensions are clamped. Without
    gradients, in validation, it is the plain KL: free bits steer training, and a mean over examples must not depend on
    how they are batched.

    Args:
        s: the step.
        free_bits: lambda, the nats per latent dimension that cost nothing.

    Returns:
        (B,) nats.
    """
    per_dimension = kl_normal(s.mean, s.log_var)  # (B, Z)
    if free_bits <= 0 or not torch.is_grad_enabled():
        return per_dimension.sum(-1)
    is_free = _mean_over_ranks(per_dimension) <= free_bits  # (Z,)
    return torch.where(is_free, free_bits, per_dimension).sum(-1)


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


TERMS: dict[str, Callable[..., Tensor]] = {"kl": kl}
