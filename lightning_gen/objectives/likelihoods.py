"""LIKELIHOODS: p(x | z) by name, and the one that a model gets."""

from __future__ import annotations

import inspect
from typing import Any

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import expect_class, resolve
from lightning_gen.objectives.categorical import Categorical
from lightning_gen.objectives.likelihood import Bernoulli, DiscretizedLogistic, Gaussian, Laplace, LocationScale
from lightning_gen.objectives.likelihood_base import Likelihood
from lightning_gen.objectives.mixture import DiscretizedLogisticMixture

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "discretized_logistic": DiscretizedLogistic,
    "discretized_logistic_mixture": DiscretizedLogisticMixture,
    "categorical": Categorical,
}
_AUTO = {
    "binary": "bernoulli",
    "unit": "gaussian",
    "uint8": "discretized_logistic",
    "real": "gaussian",
    "tokens": "categorical",
}


def auto(spec: DataSpec) -> str:
    """The likelihood that fits the data's values: binary Bernoulli, unit and real Gaussian, uint8 discretized logistic,
    tokens categorical.

    Raises:
        UserError: for data that no likelihood fits yet.
    """
    if spec.values not in _AUTO:
        raise UserError(f"no likelihood fits data of values {spec.values!r}: possible are {', '.join(_AUTO)}")
    return _AUTO[spec.values]


def build(name: Any, spec: DataSpec, scale: float | str | None = None) -> Likelihood:
    """The likelihood of a model.

    Args:
        name: "auto", a name of ``LIKELIHOODS``, an import path, a class, or a ready likelihood.
        spec: what one example looks like.
        scale: "learned", "pixel" or a number > 0, where the likelihood has a scale; None for its default.

    Raises:
        UserError: for an unknown name, a misfit, or a scale given to a likelihood that has none.
    """
    likelihood: Any = resolve(auto(spec) if name == "auto" else name, LIKELIHOODS, "likelihood")
    if not isinstance(likelihood, Likelihood):
        expect_class(likelihood, Likelihood, f"likelihood {name!r}")
        if spec.values not in likelihood.values:
            fitting = ", ".join(row for row, other in LIKELIHOODS.items() if spec.values in other.values)
            raise UserError(f"{likelihood.misfit(spec)}: for these data take one of: {fitting or '(none yet)'}")
    if scale is None:
        return likelihood if isinstance(likelihood, Likelihood) else likelihood(spec)
    if isinstance(likelihood, Likelihood) or "scale" not in inspect.signature(likelihood).parameters:
        scaled = ", ".join(n for n, c in LIKELIHOODS.items() if issubclass(c, LocationScale))
        raise UserError(f"likelihood {name!r} takes no scale, but {scale!r} was given: those with one are {scaled}")
    return likelihood(spec, scale=scale)
