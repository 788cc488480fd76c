"""The log-likelihood of a continuous flow, by the change of density along its way to the noise.

    log p(x) = log N(x_0; 0, sigma(0)^2 I) - integral of tr(dv/dx) dt          Chen et al. 2018, arXiv:1806.07366, eq. 8

The trace is exact below 8 dimensions; above, it is Hutchinson's estimate by one vector of signs for each example
(Grathwohl et al. 2019, arXiv:1810.01367, section 3.1), which is unbiased: its error over examples averages out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gen.models.solvers import Field, integrate
from lightning_gen.objectives.paths import Path
from lightning_gen.training.noise import indexed_noise

EXACT = 8  # dimensions below which the trace is exact


def log_prob(field: Field, x: Tensor, path: Path, start: float, numbers: list[int], seed: int) -> Tensor:
    """log p(x) (B,) in nats.

    Args:
        field: dx/dt (B, *shape) of x_t (B, *shape) and t (B,).
        x: (B, *shape), as the flow sees them.
        path: of the flow.
        start: time at which x is put in, just below 1.
        numbers: of the examples, on which the signs depend.
        seed: of the signs.
    """
    with torch.inference_mode(False), torch.enable_grad():  # an evaluation has switched gradients off
        shape, dims = x.shape[1:], math.prod(x.shape[1:])
        signs = None
        if dims >= EXACT:
            signs = indexed_noise(numbers, tuple(shape), seed, "hutchinson").to(x).sign()

        def grown(state: Tensor, t: Tensor) -> Tensor:
            """d(x, integral of the trace)/dt (B, D + 1)."""
            at = state[:, :-1].detach().unflatten(1, shape).requires_grad_()
            slope = field(at, t)
            return torch.cat([slope.detach().flatten(1), _trace(slope, at, signs)[:, None]], 1)

        alpha = float(path.alpha(torch.tensor(start)))  # x at that time is shrunk, and its noise negligible
        state = torch.cat([alpha * x.clone().flatten(1), x.new_zeros(len(x), 1)], 1)
        ended, _ = integrate(grown, state, start, 0.0)
        size = float(path.sigma(torch.zeros(())))
        noise, trace = ended[:, :-1] / size, ended[:, -1]
        return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(1) + dims * math.log(alpha / size) + trace


def _trace(slope: Tensor, x: Tensor, signs: Tensor | None) -> Tensor:
    """tr(dv/dx) (B,), or its estimate."""
    if signs is not None:
        (product,) = torch.autograd.grad((slope * signs).sum(), x)
        return (product * signs).flatten(1).sum(1).detach()
    flat, total = slope.flatten(1), x.new_zeros(len(x))
    for k in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, k].sum(), x, retain_graph=True)
        total = total + row.flatten(1)[:, k]
    return total.detach()
