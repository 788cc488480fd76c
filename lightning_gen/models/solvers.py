"""Solvers: from noise to data along a path, by a number of evaluations of the network.

    dx/dt = alpha'(t) x^ + sigma'(t) e^        x^ the network's estimate of x at (x_t, t), e^ = (x_t - alpha x^) / sigma

All take ``denoise(x_t, t) -> x^`` with t (B,), and end at t = 1, where x_t is x^; sigma may be 0 there, so the network
is never asked at that time. A solver that draws noise takes that of step k from ``noise(k)``.

Karras et al. 2022, https://arxiv.org/abs/2206.00364; Song et al. 2021, https://arxiv.org/abs/2010.02502; Ho et al.
2020, https://arxiv.org/abs/2006.11239; Lu et al. 2022, https://arxiv.org/abs/2211.01095; Dormand and Prince 1980.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.objectives.flow_times import shifted
from lightning_gen.objectives.paths import Path, over

Denoise = Callable[[Tensor, Tensor], Tensor]
StepNoise = Callable[[int], Tensor]  # k -> standard normal noise (B, *shape) of step k
Field = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> dx/dt
MOST = 1000  # evaluations
CHURN = 0.5  # share of a step by which "sde-heun" goes back towards the noise


def velocity(denoise: Denoise, path: Path) -> Field:
    """dx/dt (B, *shape) at (x_t, t), t (B,) below 1."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        guess = denoise(x, t)
        return path.velocity(guess, path.noise(guess, x, t), t)

    return field


class Solver(NamedTuple):
    """A row of ``SOLVERS``.

    Args:
        run: (denoise, path, x, times (K + 1,), noise) -> x at the last time.
        steps: evaluations -> K.
        draws: whether it draws noise on the way: it has then no inverse.
    """

    run: Callable[[Denoise, Path, Tensor, Tensor, StepNoise], Tensor]
    steps: Callable[[int], int]
    draws: bool = False


def _at(t: float | Tensor, x: Tensor) -> Tensor:
    return torch.full((len(x),), float(t), device=x.device)


def one_step(field: Field, x: Tensor, t: Tensor, s: Tensor, order: str) -> Tensor:
    """A step of an explicit Runge-Kutta method from times t (B,) to s (B,), of x (B, *shape).

    The step to t = 1 is Euler's, whose field there is not asked for.
    """
    h, here = over(s - t, x), field(x, t)
    if order == "midpoint":
        return x + h * field(x + h / 2 * here, (t + s) / 2)
    if order == "heun" and bool((s < 1).all()):
        return x + h / 2 * (here + field(x + h * here, s))
    return x + h * here


def _runge_kutta(order: str) -> Callable[..., Tensor]:
    def run(denoise: Denoise, path: Path, x: Tensor, times: Tensor, noise: StepNoise) -> Tensor:
        field = velocity(denoise, path)
        for t, s in pairwise(times):
            x = one_step(field, x, _at(t, x), _at(s, x), order)
        return x

    return run


def run_heun(field: Field, x: Tensor, times: Tensor) -> Tensor:
    """x (B, *shape) at the last of the times (K + 1,), which may run either way and must not hold t = 1."""
    for t, s in pairwise(times):
        x = one_step(field, x, _at(t, x), _at(s, x), "heun")
    return x


def ancestral(eta: float) -> Callable[..., Tensor]:
    """Steps of q(x_s | x_t, x^), its standard deviation times eta: 0 is DDIM, 1 is DDPM (Song et al. 2021, eq. 16)."""

    def run(denoise: Denoise, path: Path, x: Tensor, times: Tensor, noise: StepNoise) -> Tensor:
        for k, (t, s) in enumerate(pairwise(times)):
            guess = denoise(x, _at(t, x))
            e = path.noise(guess, x, _at(t, x))
            alpha_s, sigma_s = path.alpha(s), path.sigma(s)
            spread = eta * _posterior_std(path, t, s)
            x = alpha_s * guess + (sigma_s**2 - spread**2).clamp(min=0).sqrt() * e
            x = x + spread * noise(k) if eta else x
        return x

    return run


def _posterior_std(path: Path, t: Tensor, s: Tensor) -> Tensor:
    """Of q(x_s | x_t, x) where s is nearer to the data: sigma_s / sigma_t sqrt(1 - (alpha_t / alpha_s)^2 ...), ()."""
    alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    return sigma_s * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2).clamp(min=0).sqrt()


def _dpmpp2m(denoise: Denoise, path: Path, x: Tensor, times: Tensor, noise: StepNoise) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2; of first order where a half log signal-to-noise is infinite."""
    log_snr = (path.alpha(times) / path.sigma(times)).log()
    before: tuple[Tensor, Tensor] | None = None
    for k, (t, s) in enumerate(pairwise(times)):
        guess, h = denoise(x, _at(t, x)), log_snr[k + 1] - log_snr[k]
        used = guess
        if before is not None and h.isfinite() and before[1].isfinite():
            half = h / (2 * before[1])
            used = (1 + half) * guess - half * before[0]
        shrink = path.sigma(s) / path.sigma(t)
        x = shrink * x + (path.alpha(s) - shrink * path.alpha(t)) * used
        before = guess, h
    return x


def _sde_heun(denoise: Denoise, path: Path, x: Tensor, times: Tensor, noise: StepNoise) -> Tensor:
    """Heun's steps, each after a part of a step back towards the noise (Karras et al. 2022, algorithm 2)."""
    field = velocity(denoise, path)
    for k, (t, s) in enumerate(pairwise(times)):
        back = (t - CHURN * (s - t)).clamp(min=0)
        if k and path.alpha(back) > 0:
            scale = path.alpha(back) / path.alpha(t)
            added = (path.sigma(back) ** 2 - (scale * path.sigma(t)) ** 2).clamp(min=0).sqrt()
            x, t = scale * x + added * noise(k), back
        x = one_step(field, x, _at(t, x), _at(s, x), "heun")
    return x


# Dormand and Prince 1980: the nodes, the rows of the tableau, and the difference of the fifth and the fourth order
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ROWS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
TOLERANCE, SAFETY, SHRINK, GROW = 1e-5, 0.9, 0.2, 5.0


def integrate(field: Field, x: Tensor, start: float, end: float, tolerance: float = TOLERANCE) -> tuple[Tensor, int]:
    """x (B, *shape) at ``end`` of dx/dt = field(x, t), by an adaptive method of order 5, and the evaluations.

    Each example has its own step, so that its result does not depend on its neighbours.

    Args:
        field: (x, t) -> dx/dt, t (B,).
        x: (B, *shape) at ``start``.
        start: time.
        end: time, before or after ``start``.
        tolerance: largest error of a step, absolute and relative.

    Raises:
        UserError: more than 1,000 steps: the field is too steep, or not finite.
    """
    t, way = _at(start, x), 1.0 if end > start else -1.0
    h, used = torch.full_like(t, 0.05), 0
    for _ in range(MOST):
        left = (end - t) * way
        if not bool((left > 0).any()):
            return x, used
        step = over(way * torch.minimum(h, left.clamp(min=0)), x)
        slopes: list[Tensor] = []
        for node, row in zip(NODES, ROWS, strict=True):
            at = x + step * sum((a * k for a, k in zip(row, slopes, strict=True)), torch.zeros_like(x))
            slopes.append(field(at, t + node * step.view(-1)))
        used += len(NODES)
        error = step * sum(w * k for w, k in zip(ERROR, slopes, strict=True))
        allowed = tolerance * (1 + torch.maximum(x.abs(), at.abs()))
        ratio = (error / allowed).square().flatten(1).mean(1).sqrt()  # (B,), at most 1 where the step is taken
        taken = (ratio <= 1) & (left > 0)
        x = torch.where(over(taken, x), at, x)
        t = torch.where(taken, torch.where(left <= h, torch.full_like(t, end), t + step.view(-1)), t)
        h = h.minimum(left.clamp(min=1e-12)) * (SAFETY * ratio.clamp(min=1e-10) ** -0.2).clamp(SHRINK, GROW)
    raise UserError(
        f"the solver dopri5 has not arrived after {MOST:,} steps: has this model diverged? try --solver heun"
    )


def _dopri5(denoise: Denoise, path: Path, x: Tensor, times: Tensor, noise: StepNoise) -> Tensor:
    """To the last time but one, and from there in one step, since the field at t = 1 may not be finite."""
    field, near = velocity(denoise, path), float(times[-2])
    x, _ = integrate(field, x, float(times[0]), near)
    return one_step(field, x, _at(near, x), _at(times[-1], x), "euler")


SOLVERS: dict[str, Solver] = {
    "euler": Solver(_runge_kutta("euler"), lambda nfe: nfe),
    "midpoint": Solver(_runge_kutta("midpoint"), lambda nfe: nfe // 2),
    "heun": Solver(_runge_kutta("heun"), lambda nfe: (nfe + 1) // 2),
    "ddim": Solver(ancestral(0.0), lambda nfe: nfe),
    "dpmpp2m": Solver(_dpmpp2m, lambda nfe: nfe),
    "dopri5": Solver(_dopri5, lambda nfe: 1000),  # decides itself how often it evaluates
    "ddpm": Solver(ancestral(1.0), lambda nfe: nfe, draws=True),
    "sde-heun": Solver(_sde_heun, lambda nfe: (nfe + 1) // 2, draws=True),
}


def find_solver(name: str, nfe: int) -> Solver:
    """A row of ``SOLVERS`` for a number of evaluations.

    Raises:
        UserError: an unknown name, or an impossible number.
    """
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    if not 1 <= nfe <= MOST:
        raise UserError(f"nfe {nfe}: the evaluations of the network for a sample, possible are 1 to {MOST:,}")
    if not SOLVERS[name].steps(nfe):
        raise UserError(f"nfe {nfe}: a step of {name} takes two evaluations, so it is at least 2")
    return SOLVERS[name]


def time_grid(steps: int, shift: float) -> Tensor:
    """Times (steps + 1,) from 0 to 1, placed later where shift < 1."""
    return shifted(torch.linspace(0, 1, steps + 1), shift)
