"""Classes: labels of any kind as ids 0..K-1 with names, and the words for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .spec import DataSpec

FEW = 10  # training examples of a class: fewer are named at the start of a run
SHOWN, LONGEST = 10, 40  # classes in one line, and characters of a name there


def number_classes(labels: np.ndarray, where: str, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as ids 0..K-1 in the order of their values, and the name of each id, which is its value as text.

    Args:
        labels: (N,) whole numbers of any size and type, truth values or texts.
        where: what holds them, for the error's text.
        count: N.

    Returns:
        (N,) int64 ids, and K names.

    Raises:
        UserError: labels of another form, of fractions, or that are not finite.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "biufUS":
        raise UserError(
            f"{where} holds labels of type {labels.dtype} and shape {labels.shape}: expected the classes of {count:,} "
            "examples, as whole numbers or texts"
        )
    if labels.dtype.kind == "f":
        odd = np.flatnonzero(~np.isfinite(labels) | (labels != np.rint(labels)))
        if len(odd):
            more = f", and {len(odd) - 1:,} more like it" if len(odd) > 1 else ""
            found = f"holds the label {labels[odd[0]]:g} in row {odd[0]}{more}"
            raise UserError(f"{where} {found}: a class is a whole number or a text")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "surrogateescape")
    values, ids = np.unique(labels, return_inverse=True)
    names = tuple(str(int(value)) if labels.dtype.kind == "f" else str(value) for value in values.tolist())
    return torch.from_numpy(ids.reshape(-1).astype(np.int64)), names


class ClassTable:
    """Ids of labels that come one at a time, where the classes are known.

    Args:
        names: of the classes; empty where they are just numbers below ``total``.
        total: number of classes.
        by_value: a number is a label, whose name is the number as text; otherwise it is an id. Texts are names.
    """

    def __init__(self, names: Sequence[str], total: int, by_value: bool = False) -> None:
        self.names, self.total, self.by_value = tuple(names), total, by_value
        self._ids = {name: k for k, name in enumerate(self.names)}

    def id(self, label: Any, where: str) -> int:
        """The id of a label.

        Args:
            label: a text, a number, or a tensor or array of one number.
            where: the example, for the error's text.

        Raises:
            UserError: no class of the table.
        """
        if isinstance(label, str):
            found = self._ids.get(label)
            if found is None:
                raise UserError(f"{where}: {unknown_class(label, self.names, self.total)}")
            return found
        whole = _whole(label)
        found = self._ids.get(str(whole), -1) if self.by_value else whole
        if found is None or not 0 <= found < self.total:
            possible = _listed(self.names) if self.by_value else f"whole numbers from 0 to {self.total - 1:,}"
            raise UserError(f"{where} has the label {short(str(label))}: possible are {possible}")
        return found


def _whole(label: Any) -> int | None:
    """A label as int; None of a fraction, NaN, infinity, and of what is no number."""
    try:
        return int(label) if label == int(label) else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor of several numbers
        return None


def find_class(given: str | int, spec: DataSpec) -> int:
    """The id of the class that a user names: of the class with this name, else the one with this number.

    Args:
        given: a name, or a number as text or int.
        spec: of the data.

    Raises:
        UserError: neither a name nor a number of a class.
    """
    names, text = spec.class_names, str(given)
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdigit() and len(text) < LONGEST and int(text) < spec.num_classes:
        return int(text)
    raise UserError(unknown_class(text, names, spec.num_classes))


def list_classes(spec: DataSpec) -> str:
    """The classes that a user may name, in one line that is not too long."""
    return _possible(spec.class_names, spec.num_classes)


def unknown_class(given: str, names: Sequence[str], total: int) -> str:
    """What to say of a class that is not known: with the nearest name and a list that is not too long."""
    near = get_close_matches(given, names, n=1) if len(given) <= LONGEST and not given.isdecimal() else []
    hint = f" did you mean {short(near[0])!r}?" if near else ""
    return f"unknown class {short(given)!r}:{hint} known: {_possible(names, total)}"


def _possible(names: Sequence[str], total: int) -> str:
    """The classes that a user may name."""
    numbers = f"0 to {total - 1:,}"
    return numbers if tuple(names) in ((), tuple(map(str, range(total)))) else f"{_listed(names)}, or {numbers}"


def class_name(k: int, spec: DataSpec) -> str:
    """The name of a class; its number where it has none."""
    return spec.class_names[k] if k < len(spec.class_names) else str(k)


def short(name: str) -> str:
    """A name that fits into a line."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def describe_classes(spec: DataSpec, counts: Tensor | None) -> list[str]:
    """What the classes are, and which have few training examples: a line each, for the start of a run.

    Args:
        spec: of the data.
        counts: (K,) training examples of each class, where they are known.
    """
    total = spec.num_classes
    if not total:
        return []
    what = f"{total:,} class" + "es" * (total > 1)
    if counts is None:
        return [f"{what}: {_listed([class_name(k, spec) for k in range(min(total, SHOWN))], total)}"]
    words = [f"{short(class_name(k, spec))} ({n:,})" for k, n in enumerate(counts[:SHOWN].tolist())]
    lines = [f"{what}: {_listed(words, total)}"]
    few = (counts < FEW).nonzero().flatten().tolist()
    if few and total > 1:
        words = [f"{short(class_name(k, spec))} ({int(counts[k]):,})" for k in few[:SHOWN]]
        lines.append(
            f"fewer than {FEW} training examples in {len(few):,} of them: {_listed(words, len(few))}; "
            "--data.balance true draws all classes equally"
        )
    return lines


def _listed(words: Sequence[str], total: int | None = None) -> str:
    """The first words of a list of ``total``, and how many more there are."""
    more = (len(words) if total is None else total) - len(words[:SHOWN])
    return ", ".join([*map(short, words[:SHOWN]), *([f"{more:,} more"] if more else [])])


def classes_of_dataset(
    dataset: Any, names: Sequence[str], total: int, label_of: Callable[[int], Any]
) -> ClassTable | None:
    """The classes of a map-style Dataset; None where nothing says what they are.

    They are the ``names`` or the ``total`` of the user, else the Dataset's ``classes``, else the values of its
    ``targets``, else those of its labels where these are texts, for which all examples are read once.

    Args:
        dataset: with ``__len__`` and ``__getitem__``, perhaps a ``Subset`` of one with ``classes``.
        names: of the classes, or none.
        total: number of classes, or 0.
        label_of: the label of an example, None where it has none.

    Raises:
        UserError: its labels are no classes.
    """
    names = names or tuple(map(str, getattr(dataset, "classes", getattr(_inner(dataset), "classes", ()))))
    if names or total:
        if names and total and len(names) != total:
            raise UserError(f"num_classes {total} and the names of {len(names)} classes: give one of both")
        if len(set(names)) < len(names):
            raise UserError(f"the names of classes must differ: {_listed(sorted(names))}")
        return ClassTable(names, total or len(names))
    given = targets_of(dataset)
    if given is None and isinstance(label_of(0), str):
        given = np.array([str(label_of(k)) for k in range(len(dataset))])
    if given is None:
        return None
    _, names = number_classes(given, f"the Dataset {type(dataset).__name__}", len(dataset))
    return ClassTable(names, len(names), by_value=True)


def targets_of(dataset: Any) -> np.ndarray | None:
    """The labels (N,), whole numbers or texts, that a Dataset of torchvision's kind holds; None where it has none."""
    for targets in (getattr(dataset, name, None) for name in ("targets", "labels")):
        if isinstance(targets, list | tuple | np.ndarray | Tensor) and len(targets) == len(dataset):
            array = np.asarray(targets)
            return array if array.ndim == 1 and array.dtype.kind in "biuUS" else None
    return None


def _inner(dataset: Any) -> Any:
    """The Dataset that a ``Subset`` is of, also of a subset."""
    while hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset
