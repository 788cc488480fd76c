"""Paths from noise to data, x_t = alpha(t) x + sigma(t) e with e ~ N(0, I), t = 0 noise and t = 1 data.

Everything that a network may be asked for follows from one estimate of x, since x_t is known:

    e = (x_t - alpha x) / sigma        v = dx_t / dt = alpha' x + sigma' e        score = -e / sigma

Lipman et al. 2023, https://arxiv.org/abs/2210.02747; Ho et al. 2020, https://arxiv.org/abs/2006.11239; Karras et al.
2022, https://arxiv.org/abs/2206.00364. Functions are per example; t is (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CLOSEST = 0.05  # least sigma by which a loss divides (Li and He 2025, https://arxiv.org/abs/2511.13720, section 4)
SNR = 5.0  # Hang et al. 2023, https://arxiv.org/abs/2303.09556: the largest weight by signal and noise
HIGHEST, LOWEST, RHO = 80.0, 0.002, 7.0  # noise of "edm", Karras et al. 2022, table 1

Function = Callable[[Tensor], Tensor]


class Path(NamedTuple):
    """alpha, sigma and their derivatives, functions of t (...) in [0, 1]."""

    alpha: Function
    sigma: Function
    d_alpha: Function
    d_sigma: Function

    def at(self, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """x_t (B, *shape) of examples and noise (B, *shape)."""
        return over(self.alpha(t), x) * x + over(self.sigma(t), x) * e

    def velocity(self, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """v (B, *shape)."""
        return over(self.d_alpha(t), x) * x + over(self.d_sigma(t), x) * e

    def noise(self, x: Tensor, x_t: Tensor, t: Tensor, least: float = 0.0) -> Tensor:
        """e (B, *shape), divided by at least ``least``."""
        return (x_t - over(self.alpha(t), x) * x) / over(self.sigma(t).clamp(min=least), x)


def over(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to be multiplied with (B, *shape)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _edm_sigma(t: Tensor) -> Tensor:
    high, low = HIGHEST ** (1 / RHO), LOWEST ** (1 / RHO)
    return (high + t * (low - high)) ** RHO


def _edm_d_sigma(t: Tensor) -> Tensor:
    high, low = HIGHEST ** (1 / RHO), LOWEST ** (1 / RHO)
    return RHO * (low - high) * (high + t * (low - high)) ** (RHO - 1)


def time_of_edm_sigma(sigma: Tensor) -> Tensor:
    """The time of "edm" at which the noise has this size; the inverse of its sigma(t)."""
    high, low = HIGHEST ** (1 / RHO), LOWEST ** (1 / RHO)
    return (sigma ** (1 / RHO) - high) / (low - high)


HALF_PI = math.pi / 2
PATHS: dict[str, Path] = {
    # straight lines, Lipman et al. 2023, section 4.1; Liu et al. 2023, https://arxiv.org/abs/2209.03003
    "linear": Path(lambda t: t, lambda t: 1 - t, torch.ones_like, lambda t: -torch.ones_like(t)),
    # of constant variance, Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672
    "cosine": Path(
        lambda t: torch.sin(HALF_PI * t),
        lambda t: torch.cos(HALF_PI * t),
        lambda t: HALF_PI * torch.cos(HALF_PI * t),
        lambda t: -HALF_PI * torch.sin(HALF_PI * t),
    ),
    # noise of growing size on data that keep theirs, Karras et al. 2022, equation 5
    "edm": Path(torch.ones_like, _edm_sigma, torch.zeros_like, _edm_d_sigma),
}


class Prediction(NamedTuple):
    """What a network's output F means.

    Args:
        denoised: (path, F, x_t, t, size of the data's values) -> the estimate of x (B, *shape).
        target: the name of what F itself estimates, in whose loss F is compared without a division.
    """

    denoised: Callable[[Path, Tensor, Tensor, Tensor, float], Tensor]
    target: str


def _from_e(path: Path, out: Tensor, x_t: Tensor, t: Tensor, size: float) -> Tensor:
    alpha, sigma = over(path.alpha(t).clamp(min=1e-3), x_t), over(path.sigma(t), x_t)
    return (x_t - sigma * out) / alpha


def _from_v(path: Path, out: Tensor, x_t: Tensor, t: Tensor, size: float) -> Tensor:
    alpha, sigma, d_alpha, d_sigma = (over(f(t), x_t) for f in path)
    return (d_sigma * x_t - sigma * out) / (d_sigma * alpha - sigma * d_alpha)


def preconditioning(path: Path, t: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in (B,) of Karras et al. 2022, table 1, of any path, for data of this standard deviation."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    variance = (alpha * size) ** 2 + sigma**2
    return alpha * size**2 / variance, sigma * size / variance.sqrt(), variance.rsqrt()


def _from_f(path: Path, out: Tensor, x_t: Tensor, t: Tensor, size: float) -> Tensor:
    skip, scale, _ = preconditioning(path, t, size)
    return over(skip, x_t) * x_t + over(scale, x_t) * out


PREDICTIONS: dict[str, Prediction] = {
    "x": Prediction(lambda path, out, x_t, t, size: out, "x"),
    "e": Prediction(_from_e, "e"),
    "v": Prediction(_from_v, "v"),
    "f": Prediction(_from_f, "f"),  # what is left of x beside the best linear guess, of unit size (Karras et al. 2022)
}


def _minimal_snr(path: Path, t: Tensor) -> Tensor:
    snr = (path.alpha(t) / path.sigma(t).clamp(min=1e-3)) ** 2
    return snr.clamp(max=SNR)


def _of_v(path: Path, t: Tensor) -> Tensor:
    sigma = path.sigma(t).clamp(min=CLOSEST)
    return (path.d_alpha(t) - path.d_sigma(t) * path.alpha(t) / sigma) ** 2


def _of_f(path: Path, t: Tensor, size: float) -> Tensor:
    return (preconditioning(path, t, size)[2] * path.sigma(t).clamp(min=CLOSEST) * size) ** -2


def _of_e(path: Path, t: Tensor) -> Tensor:
    return (path.alpha(t) / path.sigma(t).clamp(min=CLOSEST)) ** 2


WEIGHTS: dict[str, Callable[[Path, Tensor, float], Tensor]] = {  # (path, t, size) -> weight (B,) of |x^ - x|^2
    "x": lambda path, t, size: torch.ones_like(t),
    "v": lambda path, t, size: _of_v(path, t),
    "e": lambda path, t, size: _of_e(path, t),
    "f": lambda path, t, size: _of_f(path, t, size),  # Karras et al. 2022, table 1
    "min_snr": lambda path, t, size: _minimal_snr(path, t),
}


def denoising_error(
    path: Path, predict: str, weight: str, out: Tensor, x: Tensor, e: Tensor, t: Tensor, size: float = 1.0
) -> Tensor:
    """The weighted squared error of a network's output, the mean over the elements, (B,).

    Where the network estimates what the weight is named for, the output is compared as it is: so nothing is divided by
    a small sigma and multiplied by it again.

    Args:
        path: a row of ``PATHS``.
        predict: a name of ``PREDICTIONS``.
        weight: a name of ``WEIGHTS``.
        out: F (B, *shape), the network's output for x_t.
        x: (B, *shape) data.
        e: (B, *shape) noise.
        t: (B,).
        size: standard deviation of the data's values.
    """
    if predict == weight:
        return (out - _target(path, predict, x, e, t, size)).square().flatten(1).mean(1)
    guess = PREDICTIONS[predict].denoised(path, out, path.at(x, e, t), t, size)
    return WEIGHTS[weight](path, t, size) * (guess - x).square().flatten(1).mean(1)


def _target(path: Path, predict: str, x: Tensor, e: Tensor, t: Tensor, size: float) -> Tensor:
    if predict == "f":
        grown = over(
            preconditioning(path, t, size)[2], x
        )  # (x - c_skip x_t) / c_out, where nothing is divided by sigma
        return grown * (over(path.sigma(t), x) * x - over(path.alpha(t), x) * size**2 * e) / size
    return {"x": lambda: x, "e": lambda: e, "v": lambda: path.velocity(x, e, t)}[predict]()
