"""Mutual information of latents and data, and posterior collapse, in nats."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_gen.objectives.latent import ACTIVE, gaussian_log_density

PAIRS = 2_000_000  # pairs (draw, posterior) at once: 16 MB for each matrix of them
COLLAPSED = 0.01  # nats of KL below which a dimension is the prior
LITTLE = 1.0  # nats: a total KL that cannot distinguish three examples


def mutual_information(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """I_q(x; z) = 1/N sum_i [log q(z_i | x_i) - log 1/N sum_j q(z_i | x_j)], Hoffman & Johnson 2016, section 3.

    Chen et al. 2018 (section 3.1) call it the index-code mutual information. It is at most log N: a value near log N
    is limited by N, and no estimate of the information.

    The squares of the N x N pairs are expanded into a matrix product, which rounds by about 1e-16 (z / sigma)^2 nats:
    1e-6 where sigma is 1e-5 of z. q(z_i | x_i) itself is computed directly.

    Args:
        z: (N, Z), z_i a draw from q(z | x_i).
        mean: (N, Z) of q(z | x_i).
        log_var: (N, Z) of q(z | x_i).

    Returns:
        () nats, float64.
    """
    count = len(z)
    centre = mean.double().mean(0)  # near zero the expansion loses least
    z, mean, log_var = z.double() - centre, mean.double() - centre, log_var.double()
    precision = torch.exp(-log_var)
    factors = torch.cat([-0.5 * precision, mean * precision], 1).T  # (2Z, N)
    constant = -0.5 * (math.log(2 * math.pi) + log_var + mean.square() * precision).sum(1)  # (N,)
    own = gaussian_log_density(z, mean, log_var)  # (N,)
    log_mixture = torch.empty_like(own)
    for rows in torch.arange(count, device=z.device).split(max(1, PAIRS // count)):
        log_q = torch.addmm(constant, torch.cat([z[rows].square(), z[rows]], 1), factors)  # (rows, N)
        log_q[torch.arange(len(rows), device=z.device), rows] = own[rows]
        log_mixture[rows] = torch.logsumexp(log_q, 1)
    return (own - log_mixture).mean() + math.log(count)


def density_ratios(z: Tensor, mean: Tensor, log_var: Tensor, own: Tensor) -> Tensor:
    """q(z_s | x_n) / q(z_s | x_own(s)) in one latent dimension, for draws z_s from the posterior of example own(s).

    Args:
        z: (S,) draws.
        mean: (N,) of q(z | x_n).
        log_var: (N,) of q(z | x_n).
        own: (S,) numbers of the examples that the draws come from.

    Returns:
        (S, N), exactly 1 where n = own(s).
    """
    log_q = (z.unsqueeze(1) - mean).square_().mul_(torch.exp(-log_var)).add_(log_var).mul_(-0.5)  # (S, N) + constant
    return log_q.sub_(log_q.gather(1, own.unsqueeze(1))).exp_()


def dimension_information(z: Tensor, mean: Tensor, log_var: Tensor, draws: int = 1000) -> Tensor:
    """I_q(x; z_j) of each latent dimension, as ``mutual_information``; the sum exceeds it where they are redundant.

    Args:
        z: (N, Z), z_i a draw from q(z | x_i).
        mean: (N, Z) of q(z | x_i).
        log_var: (N, Z) of q(z | x_i).
        draws: about how many of the N draws are used, evenly spaced; all N posteriors make up the mixture.

    Returns:
        (Z,) nats, float64, at most log N.
    """
    count = len(z)
    z, mean, log_var = (value.double().T.contiguous() for value in (z, mean, log_var))  # (Z, N)
    used = torch.arange(0, count, max(1, count // draws), device=z.device)
    total = z.new_zeros(len(z))
    for own in used.split(max(1, PAIRS // count)):
        for j in range(len(z)):
            total[j] += density_ratios(z[j, own], mean[j], log_var[j], own).sum(1).log().sum()
    return math.log(count) - total / len(used)


def collapse_report(kl_per_dimension: Tensor, variance_of_mean: Tensor | None = None) -> dict[str, Any]:
    """Active and collapsed latents, and suggestions where too many have collapsed.

    Args:
        kl_per_dimension: (Z,) mean over the data of KL(q(z_j | x) || p(z_j)) in nats, or by level.
        variance_of_mean: (Z,) variance over the data of the posterior mean, where it is known.

    Returns:
        latents: Z; active: number of units of variance above 0.01 (Burda et al. 2016, section 4), without variances of
        those that are not collapsed; collapsed: number of dimensions with a KL below 0.01 nats, and collapsed_share of
        Z; kl: total in nats; kl_sorted: per dimension, largest first; verdict: a sentence; healthy: whether no
        collapse was found. All plain Python values.
    """
    latents = len(kl_per_dimension)
    assert variance_of_mean is None or len(variance_of_mean) == latents
    used = kl_per_dimension >= COLLAPSED if variance_of_mean is None else variance_of_mean > ACTIVE
    active = int(used.sum())
    collapsed = int((kl_per_dimension < COLLAPSED).sum())
    total = float(kl_per_dimension.double().sum())
    verdict = _verdict(latents, active, total)
    return {
        "latents": latents,
        "active": active,
        "collapsed": collapsed,
        "collapsed_share": collapsed / latents,
        "kl": total,
        "kl_sorted": sorted(kl_per_dimension.tolist(), reverse=True),
        "verdict": verdict,
        "healthy": verdict.startswith("healthy"),
    }


def _verdict(latents: int, active: int, total: float) -> str:
    cure = (
        'try a warm-up of the KL (--model.terms.kl "0..1@N"), free bits ({"kl": {"weight": 1, "free_bits": 0.1}}) '
        "or a weaker decoder"
    )
    if active == 0:
        return f"collapsed: none of the {latents} latents depends on the data; {cure}"
    if total < LITTLE:
        return f"nearly collapsed: the latents carry {total:.2f} nats in all, {active} of {latents} are active; {cure}"
    if active == latents:
        return f"healthy: all {latents} latents are active"
    if 10 * active < latents:
        return f"few: {active} of {latents} latents are active; normal for data of so few dimensions, otherwise {cure}"
    return f"healthy: {active} of {latents} latents are active; unused ones are normal where there are more than needed"
