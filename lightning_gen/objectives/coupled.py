"""Terms that look at all codes of a batch at once, over all ranks: total correlation, moments, distances to the prior.

Every rank sees the codes of all ranks, with gradients: a loss averaged over ranks is then that of the global batch.
Without gradients a term is that of the step that it is given: in validation these are groups of a fixed size, so that
the value depends on no batch size and no number of devices. Under ``accumulate`` they see the chunk. Each result (B,)
carries the batch's value as shares whose mean it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.objectives.groups import couples_examples
from lightning_gen.objectives.latent import Step, gaussian_log_density, needed


def all_gather_with_grad(values: Tensor) -> Tensor:
    """(B, ...) -> (ranks * B, ...), in the order of ranks, with gradients to each."""
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    return _Gather.apply(values)


class _Gather(torch.autograd.Function):
    """dist.all_gather with a gradient: each rank's part has a share in the losses of all ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def aggregate_densities(s: Step) -> tuple[Tensor, Tensor, Tensor]:
    """log q(z|x), log q(z) and sum_j log q(z_j) at the draws of the batch, each (B,).

    q(z) is the mean of q(z|x) over the N training examples, of which the batch is a stratified sample: the draw's own
    example counts 1/N, the B - 1 others the rest (Chen et al. 2018, appendix C.2, minibatch stratified sampling).

    Returns:
        three (B,) nats.
    """
    if "densities" not in s.cache:
        s.cache["densities"] = _aggregate_densities(s)
    return s.cache["densities"]


def _aggregate_densities(s: Step) -> tuple[Tensor, Tensor, Tensor]:
    log_var = needed(s.log_var, "tc")
    own = gaussian_log_density(s.z, s.mean, log_var)  # (B,)
    means, log_vars = all_gather_with_grad(s.mean), all_gather_with_grad(log_var)  # (M, Z)
    z = s.z.unsqueeze(1)
    pairs = -0.5 * ((z - means).square() * torch.exp(-log_vars) + log_vars + math.log(2 * math.pi))  # (B, M, Z)
    log_share = _log_shares(len(s.z), len(means), s.size, s.z).unsqueeze(2)  # (B, M, 1)
    joint = torch.logsumexp(pairs.sum(2) + log_share.squeeze(2), 1)
    product = torch.logsumexp(pairs + log_share, 1).sum(1)
    return own, joint, product


def _log_shares(rows: int, columns: int, size: int, like: Tensor) -> Tensor:
    """Weights (B, M) of the batch's examples in q(z): 1/N for a draw's own, (N - 1) / (N (M - 1)) for the others."""
    size = max(size, columns)
    shares = like.new_full((rows, columns), (size - 1) / (size * max(1, columns - 1)))
    rank = dist.get_rank() if columns > rows else 0
    shares[torch.arange(rows), torch.arange(rows) + rank * rows] = 1 / size
    return shares.log()


@couples_examples
def mi(s: Step) -> Tensor:
    """log q(z|x) - log q(z): its mean is the mutual information of code and example (Chen et al. 2018, eq. 2), (B,)."""
    own, joint, _ = aggregate_densities(s)
    return own - joint


@couples_examples
def tc(s: Step) -> Tensor:
    """log q(z) - sum_j log q(z_j): its mean is the total correlation (Chen et al. 2018, eq. 2), (B,)."""
    _, joint, product = aggregate_densities(s)
    return joint - product


@couples_examples
def dkl(s: Step) -> Tensor:
    """sum_j log q(z_j) - log p(z_j), p = N(0, 1): the dimension-wise KL (Chen et al. 2018, eq. 2), (B,)."""
    product = aggregate_densities(s)[2]
    zeros = torch.zeros_like(s.z)
    return product - gaussian_log_density(s.z, zeros, zeros)


@couples_examples
def dip(s: Step, kind: int = 1, diagonal: float = 10.0) -> Tensor:
    """sum_{i != j} C_ij^2 + diagonal * sum_i (C_ii - 1)^2, Kumar et al. 2018, equations 6 and 7.

    Args:
        s: the step.
        kind: 1: C is the covariance of the posterior means (DIP-VAE-I); 2: of z, which adds the mean of their
            variances to the diagonal (DIP-VAE-II).
        diagonal: lambda_d / lambda_od; the term's weight is lambda_od.

    Returns:
        (B,), all the same.
    """
    if kind not in (1, 2):
        raise UserError(f"term 'dip' of kind {kind}: possible are 1 (DIP-VAE-I) and 2 (DIP-VAE-II)")
    means = all_gather_with_grad(s.mean)
    centred = means - means.mean(0)
    with torch.autocast(centred.device.type, enabled=False):
        covariance = centred.T @ (centred / len(means))  # (Z, Z)
    if kind == 2:
        covariance = covariance + torch.diag(all_gather_with_grad(needed(s.log_var, "dip")).exp().mean(0))
    variances = covariance.diagonal()
    value = covariance.square().sum() - variances.square().sum() + diagonal * (variances - 1).square().sum()
    return value.expand(len(s.mean))


@couples_examples
def mmd(s: Step, kernel: str = "imq") -> Tensor:
    """Squared maximum mean discrepancy of codes and prior, unbiased (Tolstikhin et al. 2018, algorithm 2; Zhao 2019).

    Args:
        s: the step.
        kernel: "imq", the sum over s of C / (C + |a - b|^2) with C = 2 Z s, s in {0.1, 0.2, 0.5, 1, 2, 5, 10}; or
            "rbf", exp(-|a - b|^2 / Z).

    Returns:
        (B,), all the same; its expectation is zero where both distributions agree, so a value may be negative.
    """
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    assert s.prior is not None
    z, p = all_gather_with_grad(s.z), all_gather_with_grad(s.prior())
    dims, count = z.shape[1], len(z)
    k = KERNELS[kernel]
    within = k(_squared(z, z), dims) + k(_squared(p, p), dims)  # (M, M)
    value = (within.sum() - within.diagonal().sum()) / max(1, count * (count - 1))
    return (value - 2 * k(_squared(z, p), dims).mean()).expand(len(s.z))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """(M, Z), (N, Z) -> (M, N) squared distances."""
    return (a.unsqueeze(1) - b).square().sum(2)


def _imq(distance: Tensor, dims: int) -> Tensor:
    scales = (2.0 * dims * scale for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    return torch.stack([c / (c + distance) for c in scales]).sum(0)


def _rbf(distance: Tensor, dims: int) -> Tensor:
    return torch.exp(-distance / dims)


KERNELS = {"imq": _imq, "rbf": _rbf}
