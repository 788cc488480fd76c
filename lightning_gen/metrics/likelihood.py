"""Likelihoods in bits per dimension: which discrete data a likelihood describes, and how its nats become theirs."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.objectives.categorical import Categorical
from lightning_gen.objectives.levels import stored_levels
from lightning_gen.objectives.likelihood import Bernoulli, DiscretizedLogistic, Gaussian, Laplace
from lightning_gen.objectives.likelihood_base import Likelihood
from lightning_gen.objectives.mixture import DiscretizedLogisticMixture


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
        dequantise: whether the model has to be given levels that ``objectives.levels.dequantise`` has spread.
    """

    levels: int
    how: str
    dequantise: bool


def discretisation(likelihood: Likelihood | None, spec: DataSpec) -> Discretisation:
    """The discrete data that a likelihood describes.

    A discretised likelihood gives the probability of a level under ``objectives.levels.counting_levels``, a density
    bounds it by ``objectives.levels.dequantise``.

    Raises:
        Inapplicable: for continuous data, for Bernoulli on grey values, and for a likelihood that is not known here.
    """
    name = type(likelihood).__name__
    if isinstance(likelihood, Bernoulli):
        if spec.values == "binary":
            return Discretisation(2, "exact: Bernoulli probabilities of 2 levels", False)
        raise Inapplicable(
            "Bernoulli on grey values is a cross-entropy, not a normalised density: no bits per dimension"
        )
    if isinstance(likelihood, Categorical):
        return Discretisation(likelihood.vocab, f"exact: probabilities of {likelihood.vocab} tokens", False)
    if not isinstance(likelihood, DiscretizedLogistic | DiscretizedLogisticMixture | Gaussian | Laplace):
        raise Inapplicable(f"it is not known what the nats of likelihood {name} measure: no bits per dimension")
    if spec.values != "uint8":
        raise Inapplicable(f"{name} on {spec.values!r} data is a density of continuous values, which have no levels")
    levels = len(stored_levels(spec))
    if isinstance(likelihood, DiscretizedLogistic | DiscretizedLogisticMixture):
        return Discretisation(levels, f"exact: discretised logistic probabilities of {levels} levels", False)
    how = f"bound: {name} density of {levels} levels with uniform noise (Theis et al. 2016)"
    return Discretisation(levels, how, True)
