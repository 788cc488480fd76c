"""The times at which a flow is trained, and where a solver places its steps: functions of uniform u (...) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_gen.objectives.paths import time_of_edm_sigma


def shifted(u: Tensor, shift: float) -> Tensor:
    """u (...) in [0, 1] moved towards the data where shift < 1, and towards the noise above; 1 leaves it.

    Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 5.3.2, with time running towards the data.
    """
    return u / (u + (1 - u) * shift)


def normal(u: Tensor) -> Tensor:
    """Uniform u (...) -> standard normal, at most 4.8."""
    return torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))


def logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """Uniform u (...) -> t = sigmoid(mean + std n) with n normal; Esser et al. 2024, section 3.1."""
    return torch.sigmoid(mean + std * normal(u))


def log_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """Uniform u (...) -> times at which "edm" has noise exp(mean + std n), n normal; Karras et al. 2022, table 1."""
    return time_of_edm_sigma(torch.exp(mean + std * normal(u))).clamp(0, 1)


TIMES: dict[str, Callable[..., Tensor]] = {  # uniform u (...) -> times of training
    "uniform": lambda u: u,
    "logit_normal": lambda u, mean=0.0, std=1.0: logit_normal(u, mean, std),
    "shifted": lambda u, shift=0.25: shifted(u, shift),
    "log_normal": lambda u, mean=-1.2, std=1.2: log_normal(u, mean, std),  # of the path "edm"
}
