"""Terms that couple the examples of a batch, in validation: they see the codes of all examples in fixed groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor

from lightning_gen.objectives.latent import Step

GROUP = 256  # examples whose codes a coupled term sees together
T = TypeVar("T", bound=Callable[..., Tensor])


def couples_examples(term: T) -> T:
    """Mark a term as a statistic of a batch: it is no mean of what its examples, or parts of the batch, would give.

    In validation it is given the codes of all examples in groups of a fixed size, see ``grouped_steps``; a term without
    the mark gives each example's own value.
    """
    term.couples_examples = True  # type: ignore[attr-defined]
    return term


def grouped_steps(codes: Mapping[str, Tensor], size: int, most: int = GROUP) -> Iterator[Step]:
    """Steps of at most ``most`` of N examples each, of about equal numbers: example i is in group i modulo their count.

    So neighbours, which in many data sets are of one class, are in different groups.

    Args:
        codes: columns (N, Z), ``z``, ``mean`` and, where there are, ``log_var`` and draws of the ``prior``.
        size: number of training examples.
        most: examples of a group.

    Yields:
        steps that hold these columns; x, out are (n, 0), since no pixels are kept.
    """
    count = math.ceil(len(codes["z"]) / most)
    for first in range(count):
        part = {name: column[first::count] for name, column in codes.items()}
        empty, prior = part["z"].new_empty(len(part["z"]), 0), part.get("prior")
        draws = None if prior is None else lambda prior=prior: prior
        yield Step(empty, None, empty, part["z"], part["mean"], part.get("log_var"), size=size, prior=draws)
