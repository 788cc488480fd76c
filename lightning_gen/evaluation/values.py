"""A measured number with how it was obtained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

UNTRANSLATED = "_untranslated"  # suffix of the baseline's values: untranslated images, beside those of translations
Number = float | int | Tensor


@dataclass(slots=True)
class Value:
    """One number of a report.

    Args:
        value: the number.
        n: examples that it is over.
        how: a sentence: what it is, and of what.
        better: "lower", "higher", "near X", or None for a description that ranks nothing.
        floor: the same of as many other real examples, drawn at random, in place of the samples.
        std: its spread or standard error; ``how`` says which.
        k: neighbours, importance samples or subset size; ``how`` says which.
        likelihood: the likelihood of its nats, where it is in nats: those of different likelihoods do not compare.
        given: what the model was told of each example, "class" or "text", where it was: -log p(x|y) is another quantity
            than -log p(x), and samples of evenly spread classes are another task.
        extractor: name of the feature extractor and the start of its hash.
        details: more of it: per class, per dimension.
        note: a caveat for the reader, if any.
        seconds: that its group took.
    """

    value: Number
    n: int
    how: str
    better: str | None = None
    floor: Number | None = None
    std: Number | None = None
    k: int | None = None
    likelihood: str | None = None
    given: str | None = None
    extractor: str | None = None
    details: Any = None
    note: str | None = None
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; infinite and undefined numbers as text."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def mean_with_stderr(values: Tensor, how: str, better: str | None, **more: Any) -> Value:
    """The mean over examples (n,), with its standard error, which one example has not."""
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else None
    return Value(values.mean(), len(values), how, better, std=error, **more)
