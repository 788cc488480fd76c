"""A preset's model in Python, as ``fit.py --model NAME`` trains it."""

from __future__ import annotations

from typing import Any

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import resolve
from lightning_gen.presets import preset
from lightning_gen.presets.layers import drop_network_options, merge
from lightning_gen.training.module import GenerativeModule


def make(name: str, data: Any, **options: Any) -> GenerativeModule:
    """The model of a preset for some data, untrained.

    Args:
        name: of the preset, such as "beta-vae".
        data: a data set of this package, or a spec.
        **options: of the model, over the preset's; dicts merge key by key: ``terms={"kl": 2}``. None removes a term.

    Raises:
        UserError: an unknown preset or option, data without a spec, or data that do not fit the model.
    """
    row = preset(name)
    spec = data if isinstance(data, DataSpec) else getattr(data, "spec", None)
    if not isinstance(spec, DataSpec):
        raise UserError(f"{type(data).__name__} {data!r} says nothing about examples: give a data set, or a DataSpec")
    arguments = dict(row.arguments)
    drop_network_options(arguments, options)
    return resolve(row.model, {}, "model class")(spec, **merge(arguments, options))
