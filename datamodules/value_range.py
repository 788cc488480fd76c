"""The range of the values of a data set of picture files: one for all of them, from their depth or by the user."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from .decode import Picture, open_picture, read_depth
from .errors import UserError
from .spec import DataSpec

MANY = 5000  # files from which on a look at all of them shows its progress
LOOKED_AT = 64  # pictures that are decoded to see which values they use
LITTLE = 0.25  # of the range, below which the start warns


class ValueRange(NamedTuple):
    """The range of a data set's values, and what is to be said of it.

    Args:
        range: (low, high) in the units of the files; empty: uint8.
        bits: of the files that keep their values; others are brought to the range.
        notices: a line each.
    """

    range: tuple[float, ...] = ()
    bits: int = 8
    notices: tuple[str, ...] = ()

    @property
    def of_spec(self) -> dict[str, Any]:
        """Entries of a ``DataSpec``."""
        return {"values": "unit", "range": self.range, "bits": self.bits} if self.range else {"values": "uint8"}


def find_range(files: Sequence[str], training: Sequence[str], given: tuple[float, ...], max_pixels: int) -> ValueRange:
    """The range of the values of all these files.

    Args:
        files: all of the data set.
        training: those of training, over which floats are measured.
        given: (low, high) by the user; empty: from the depth of the files.
        max_pixels: most pixels that a picture may have.

    Raises:
        UserError: floats or 32-bit numbers, none of which can be read.
    """
    depths = [depth for depth in _in_threads(read_depth, files, "looking at depths") if depth is not None]
    reduced = sum(depth.is_reduced for depth in depths)
    notices = [f"{_pictures(reduced)} of 16 bits in a form of which only 8 are read"] if reduced else []
    kinds = Counter(depth._replace(is_reduced=False) for depth in depths)
    bits = max((depth.bits for depth in kinds), default=8)
    if bits == 8 and not given:
        return ValueRange(notices=tuple(notices))
    deepest = [depth for depth in kinds if depth.bits == bits]
    count = sum(kinds[depth] for depth in deepest)
    if given:
        found, source = given, "by --data.range"
    elif bits == 32:
        found, measured = measure_range(training, max_pixels)
        source = f"measured over {measured:,} training pictures: --data.range LOW HIGH fixes it"
    else:
        found = min(depth.black for depth in deepest), max(depth.white or 0.0 for depth in deepest)
        source = f"of {_pictures(count)} of {bits} bits"
    notices.append(f"values {format_range(found)}, {source}; of outputs too")
    others = Counter(depth.bits for depth in depths if depth.bits != bits)
    for other, n in sorted(others.items()):
        factor = (found[1] - found[0]) / (2**other - 1)
        exact = f" (x{factor:g})" if found[0] == 0 and factor == int(factor) else ""
        notices.append(
            f"{_pictures(n)} of {other} bits among {count:,} of {_name(bits)}: widened to {format_range(found)}{exact}"
        )
    return ValueRange(found, bits, tuple(notices))


def measure_range(files: Sequence[str], max_pixels: int) -> tuple[tuple[float, float], int]:
    """(low, high) of the values of all these files that hold floats or 32-bit numbers, and how many these are.

    Raises:
        UserError: none can be read, or all values are equal.
    """
    found = _extremes(files, max_pixels, lambda picture: picture.depth.white is None, "measuring values")
    low, high = min((pair[0] for pair in found), default=0.0), max((pair[1] for pair in found), default=0.0)
    if not low < high:
        raise UserError(
            f"floats or 32-bit numbers, which {len(found):,} of {len(files):,} training pictures hold, have no two "
            "values that differ: give the lowest and the highest one, --data.range LOW HIGH"
        )
    return (low, high), len(found)


def use_of_range(files: Sequence[str], values: ValueRange, max_pixels: int) -> list[str]:
    """What is to be said of the part of the range that some of these pictures use.

    Args:
        files: of training.
        values: the data set's.
        max_pixels: most pixels that a picture may have.
    """
    if not values.range:  # all of 8 bits, and of no range by the user
        return []
    some = files[:: max(1, math.ceil(len(files) / LOOKED_AT))]
    found = _extremes(some, max_pixels, lambda picture: picture.depth.bits == values.bits)
    if not found:
        return []
    return describe_use(found, values.range, f"{len(found):,} of {len(files):,} training pictures looked at")


def describe_use(extremes: Sequence[tuple[float, float]], of: tuple[float, ...], looked: str) -> list[str]:
    """What is to be said of the part of a range that examples use: nothing, or one line.

    Args:
        extremes: lowest and highest value of each example.
        of: the range (low, high).
        looked: how many these are of how many.
    """
    low, high = min(pair[0] for pair in extremes), max(pair[1] for pair in extremes)
    used = f"{format_range((low, high))} of {format_range(of)}"
    if outside := sum(pair[0] < of[0] or pair[1] > of[1] for pair in extremes):
        found = f"{outside:,} of {looked} hold such, {format_range((low, high))}"
        return [f"values outside of {format_range(of)} are cut: {found}"]
    if low == high or high - low >= LITTLE * (of[1] - of[0]):
        return []
    return [f"warning: values use {used} only ({looked}); if that is their range: --data.range {_suggested(low, high)}"]


def _extremes(
    files: Sequence[str], max_pixels: int, counts: Callable[[Picture], bool], title: str = ""
) -> list[tuple[float, float]]:
    """The lowest and the highest value of each file that can be read and counts."""

    def look_at(path: str) -> tuple[float, float] | None:
        try:
            picture = open_picture(path, max_pixels=max_pixels)
        except Exception:  # reading it again will give the reason
            return None
        if not counts(picture):
            return None
        values = picture.values(3) if not isinstance(picture.pixels, np.ndarray) else picture.pixels
        return float(values.min()), float(values.max())

    return [pair for pair in _in_threads(look_at, files, title) if pair is not None]


def _suggested(low: float, high: float) -> str:
    """The whole range of as many bits as these values need; of others themselves."""
    if low < 0 or not float(high).is_integer():
        return f"{low:g} {high:g}"
    return f"0 {max(1, 2 ** int(high).bit_length() - 1)}"


def _in_threads(work: Callable[[str], Any], files: Sequence[str], title: str = "") -> list[Any]:
    with ThreadPoolExecutor() as pool:
        return list(track(pool.map(work, files), title, len(files), disable=not title or len(files) < MANY))


def _pictures(n: int) -> str:
    """Not of files, which may hold many pages."""
    return f"{n:,} picture" + "s" * (n != 1)


def _name(bits: int) -> str:
    return f"{bits} bits" if bits < 32 else "floats or 32-bit numbers"


def check_same_range(model: DataSpec, data: DataSpec) -> None:
    """Refuse data whose values a model would take for others.

    Raises:
        UserError: the ranges differ; names the option.
    """
    if model.range == data.range:
        return
    own, given = (f"values {format_range(spec.range)}" if spec.range else "no range" for spec in (model, data))
    option = f": --data.range {' '.join(f'{bound:.10g}' for bound in model.range)}" if model.range else ""
    raise UserError(f"the model was trained on data of {own}, these data have {given}{option}")


def format_range(pair: tuple[float, ...]) -> str:
    """(low, high) as text."""
    return " to ".join(f"{bound:g}" if abs(bound) < 1e6 else f"{bound:.7g}" for bound in pair)
