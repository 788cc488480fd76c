"""Likelihoods in bits per dimension: which discrete data a likelihood describes, and how its nats become theirs."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.objectives.categorical import Categorical
from lightning_gen.objectives.likelihood import Bernoulli, DiscretizedLogistic, Gaussian, Laplace
from lightning_gen.objectives.likelihood_base import Likelihood
from lightning_gen.objectives.mixture import DiscretizedLogisticMixture

HALF_RANGE = 127.5  # levels in one unit of the data as the model sees them, x = level / 127.5 - 1


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """-log P / (D log 2).

    Args:
        nats: (...) negative log-probability of an example in nats.
        dims: D, the number of elements of one example.

    Returns:
        (...) bits per dimension.
    """
    return nats / (dims * math.log(2))


class Discretisation(NamedTuple):
    """How the probability of discrete data follows from a likelihood.

    Args:
        levels: number of values of one element.
        how: a sentence for the report.
        dequantise: whether the model has to be given ``add_dequantisation_noise`` data.
        offset: nats per dimension to add to -log p in the model's units to get -log P of the levels.
    """

    levels: int
    how: str
    dequantise: bool
    offset: float


def discretisation(likelihood: Likelihood | None, spec: DataSpec) -> Discretisation:
    """The discrete data that a likelihood describes.

    A density of x = level / 127.5 - 1 bounds the probability of the level by Jensen's inequality (Theis et al. 2016,
    section 3.1): log P(level) >= E_u log p(x + u / 127.5) - log 127.5 for each element, with u ~ U(-1/2, 1/2).

    Raises:
        Inapplicable: for continuous data, for Bernoulli on grey values, and for a likelihood that is not known here.
    """
    name = type(likelihood).__name__
    if isinstance(likelihood, Bernoulli):
        if spec.values == "binary":
            return Discretisation(2, "exact: Bernoulli probabilities of 2 levels", False, 0.0)
        raise Inapplicable(
            "Bernoulli on grey values is a cross-entropy, not a normalised density: no bits per dimension"
        )
    if isinstance(likelihood, Categorical):
        return Discretisation(likelihood.vocab, f"exact: probabilities of {likelihood.vocab} tokens", False, 0.0)
    if not isinstance(likelihood, DiscretizedLogistic | DiscretizedLogisticMixture | Gaussian | Laplace):
        raise Inapplicable(f"it is not known what the nats of likelihood {name} measure: no bits per dimension")
    if spec.values != "uint8":
        raise Inapplicable(f"{name} on {spec.values!r} data is a density of continuous values, which have no levels")
    if isinstance(likelihood, DiscretizedLogistic | DiscretizedLogisticMixture):
        return Discretisation(256, "exact: discretised logistic probabilities of 256 levels", False, 0.0)
    how = f"bound: {name} density of 256 levels with uniform noise (Theis et al. 2016)"
    return Discretisation(256, how, True, math.log(HALF_RANGE))


def add_dequantisation_noise(x: Tensor, noise: Tensor) -> Tensor:
    """x + u / 127.5: each of 256 levels spread over the interval between its neighbours.

    Args:
        x: (B, *shape) levels in [-1, 1].
        noise: u, (B, *shape) uniform in [-1/2, 1/2).

    Returns:
        (B, *shape) in [-1 - 1/255, 1 + 1/255).
    """
    return x + noise / HALF_RANGE
