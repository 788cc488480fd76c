"""Checks the spec of a model's data: a known kind, shapes of that kind, one or two sides as the model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of


def accepted(spec: DataSpec | Mapping[str, Any], model: type) -> DataSpec:
    """The spec that a model is built from, checked.

    Args:
        spec: of the data, or the dict that a checkpoint holds.
        model: the class; only one that can ``translate`` takes data of two sides.

    Raises:
        UserError: a spec of a later format, an unknown kind, a shape that is not of the kind, a side too many.
    """
    spec = DataSpec.of(spec)
    kind = kind_of(spec)
    kind.check(spec)
    if spec.has_two_sides and not translates(model):
        known = f"--model {kind.translator} translates between them" if kind.translator else "no model takes such yet"
        raise UserError(f"{model.__name__} takes data of one side, and these have two, a and b: {known}")
    return spec


def translates(model: type) -> bool:
    """Whether the models of a class map one side of an example to the other."""
    return callable(getattr(model, "translate", None))
