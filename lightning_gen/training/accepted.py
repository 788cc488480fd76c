"""What a model takes: the spec of its data, the options of its constructor, and what its methods are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import lightning as L
import numpy as np
from torch import Tensor

from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of

F = TypeVar("F", bound=Callable[..., Any])
OURS = __name__.partition(".")[0]


def accepted(spec: DataSpec | Mapping[str, Any], model: type) -> DataSpec:
    """The spec that a model is built from, checked.

    Args:
        spec: of the data, the dict that a checkpoint holds, or the data themselves, which have one.
        model: the class; only one that can ``translate`` takes data of two sides, and one may take no tokens.

    Raises:
        UserError: no spec, one of a later format, an unknown kind, a shape that is not of the kind, tokens or a side
            too many.
    """
    spec = DataSpec.of(_found(spec, model))
    kind = kind_of(spec)
    kind.check(spec)
    if spec.has_two_sides and not translates(model):
        known = f"--model {kind.translator} translates between them" if kind.translator else "no model takes such yet"
        raise UserError(f"{model.__name__} takes data of one side, and these have two, a and b: {known}")
    if spec.values == "tokens" and not getattr(model, "takes_tokens", True):
        raise UserError(
            f"{model.__name__} takes numbers, not tokens: take data of values uint8, unit, binary or real, or a model "
            "of tokens, such as vae"
        )
    return spec


def _found(spec: Any, model: type) -> Any:
    """A spec, or that of a data set given in its place."""
    if isinstance(spec, (DataSpec, Mapping)):
        return spec
    if isinstance(own := getattr(spec, "spec", None), DataSpec):
        return own
    name = model.__name__
    if isinstance(spec, (list, tuple)) and all(isinstance(size, int) for size in spec):
        kind = {1: ', "vector", "real"', 3: ', "image", "uint8"'}.get(len(spec), ", kind=..., values=...")
        raise UserError(
            f"{name}({tuple(spec)}): a shape does not say what its numbers are: give {name}(data.spec), or "
            f"{name}(DataSpec({tuple(spec)}{kind}))"
        )
    given = spec.__name__ if isinstance(spec, type) else type(spec).__name__
    raise UserError(f"{name}({given}): expected the spec of the data, such as {name}(data.spec)")


def translates(model: type) -> bool:
    """Whether the models of a class map one side of an example to the other."""
    return callable(getattr(model, "translate", None))


def check_options(model: type, given: Mapping[str, Any]) -> None:
    """Refuse options that no constructor of a model takes; where one is the user's own, Python does so.

    Raises:
        UserError: with the nearest name and the list.
    """
    known: list[str] = []
    for base in inspect.getmro(model):
        init = vars(base).get("__init__")
        if init is None:
            continue
        if base.__module__.partition(".")[0] != OURS:  # it may take options out of **options before it passes them on
            return
        parameters = list(inspect.signature(init).parameters.values())[1:]
        known += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    for name in given:
        if name not in known:
            raise unknown(f"option of {model.__name__}", name, [name for name in known if name != "spec"])


def of_examples(method: F) -> F:
    """A method of examples x, of which a wrong shape or type is one line.

    Raises:
        UserError: x is no tensor (B, *shape) of numbers as they reach the model.
    """

    @wraps(method)
    def checked(self: Any, x: Tensor, *arguments: Any, **options: Any) -> Any:
        check_examples(x, self.spec, f"{type(self).__name__}.{method.__name__}")
        return method(self, x, *arguments, **options)

    return checked  # type: ignore[return-value]


def check_examples(x: Any, spec: DataSpec, where: str) -> None:
    """Refuse what is no batch of examples.

    Raises:
        UserError: that says what was given and what is possible.
    """
    if isinstance(x, Tensor) and x.shape[1:] == spec.shape and (spec.values == "tokens" or x.is_floating_point()):
        return
    wanted = f"(B, {', '.join(map(str, spec.shape))})"
    if not isinstance(x, Tensor):
        raise UserError(f"{where} takes a tensor {wanted}, not {type(x).__name__}")
    if tuple(x.shape[1:]) != spec.shape:
        one = ": add an axis for the batch, x[None]" if tuple(x.shape) == spec.shape else ""
        raise UserError(f"{where} takes examples {wanted}, not {tuple(x.shape)}{one}")
    raise UserError(
        f"{where} takes floats as they reach the model, not {x.dtype}: lightning_gen.datamodules.units.to_model(x, "
        "model.spec) makes them"
    )


def check_pictures(x: Any, channels: int, stride: int, where: str) -> None:
    """Refuse what is no batch of pictures of any size that fits a stride.

    Raises:
        UserError: that says what was given and what is possible.
    """
    wanted = f"pictures (B, {channels}, H, W)"
    if not isinstance(x, Tensor):
        raise UserError(f"{where} takes {wanted}, not {type(x).__name__}")
    if x.ndim != 4 or x.shape[1] != channels:
        raise UserError(f"{where} takes {wanted}, not {tuple(x.shape)}")
    if x.shape[2] % stride or x.shape[3] % stride:
        raise UserError(f"{where} takes {wanted} with sides that are multiples of {stride}, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise UserError(f"{where} takes floats in [-1, 1], not {x.dtype}")


def check_count(n: Any, start: Any = 0) -> None:
    """Refuse numbers of samples that are none.

    Raises:
        UserError: n or the index of the first is no whole number of at least 0.
    """
    for name, value in (("n", n), ("start", start)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise UserError(f"sample({name}={value!r}): it must be a whole number, at least 0")


def check_same_data(model: L.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to go on with a run on other data, before weights of other shapes are loaded.

    Raises:
        UserError: that says what has changed.
    """
    trainer = model._trainer  # None where a model is loaded to be used
    data = getattr(trainer, "datamodule", None)
    if trainer is not None and trainer.state.fn == "fit" and isinstance(data, DataModule):
        data.check_identity(checkpoint.get(type(data).__qualname__, {}))
