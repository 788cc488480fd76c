"""One order of memory for all that enters a model.

Convolutions of channels-last and of contiguous memory differ in the last digits. What is promised bit-equal (codes,
samples, values of an evaluation, a resumed run) would depend on how a caller came to its tensors: a picture decoded to
(H, W, C) and permuted has other strides than the same one taken from a file of numbers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from torch import Tensor

ENTRIES = (  # methods that take examples, codes or tokens from outside
    *("forward", "training_step", "validation_step", "test_step", "predict_step"),
    *("encode", "posterior", "reconstruct", "decode", "output", "draw", "translate"),
    *("elbo", "log_likelihood", "discriminate", "tokens", "from_tokens", "code_length"),
)


def contiguous(value: Any) -> Any:
    """A tensor, or those of a batch, in contiguous memory; what is so already is no copy."""
    if isinstance(value, Tensor):
        return value.contiguous()
    if isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values()):
        return {name: contiguous(entry) for name, entry in value.items()}
    return value


class ContiguousInputs:
    """Makes the arguments of ``ENTRIES`` contiguous, in all its subclasses and the classes that they are mixed with."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for owner in cls.__mro__:
            if issubclass(L.LightningModule, owner):  # what Lightning and torch define is left as it is
                continue
            for name in ENTRIES:
                method = vars(owner).get(name)
                if inspect.isfunction(method) and not hasattr(method, "takes_contiguous"):
                    setattr(owner, name, _with_contiguous_arguments(method))


def _with_contiguous_arguments(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        given = {name: contiguous(value) for name, value in named.items()}
        return method(self, *map(contiguous, arguments), **given)

    wrapped.takes_contiguous = True  # type: ignore[attr-defined]
    return wrapped
