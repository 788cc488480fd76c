"""Schedules: a number, or a ramp written as text, for any weight, rate or probability.

==========================  =========================================================================
``4`` or ``"4"``            constant
``"0..1@10000"``            linear from 0 to 1 over the first 10,000 iterations, then 1
``"0..1@2000..10000"``      0 until iteration 2,000, linear to 1 at iteration 10,000
``"1..0@50%..100%"``        1 for the first half of the run, then linear to 0 at its end
``"2e-3..1e-5@100% cos"``   half a cosine from 2e-3 to 1e-5 over the whole run
==========================  =========================================================================
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from lightning_gen.datamodules.errors import UserError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RAMP = re.compile(rf"({_NUMBER})\.\.({_NUMBER})@(?:({_NUMBER}%?)\.\.)?({_NUMBER}%?)(\s+cos)?")


class _Point(NamedTuple):
    """A moment of the run: an iteration, or a share of all iterations."""

    value: float
    relative: bool

    def at(self, total: int | None) -> float:
        if not self.relative:
            return self.value
        if not total:
            raise UserError("a ramp in % needs a run of known length: give --steps or --epochs, or write iterations")
        return self.value * total


class Schedule(NamedTuple):
    """A value that depends on the iteration: ``schedule(iteration, total)``; a constant is a schedule too."""

    first: float
    end: float
    start: _Point = _Point(0.0, False)
    stop: _Point = _Point(0.0, False)
    cosine: bool = False

    def __call__(self, iteration: int, total: int | None = None) -> float:
        """The value at an iteration (counted from 0) of a run of ``total`` iterations."""
        if self.constant:
            return self.end
        start, stop = self.start.at(total), self.stop.at(total)
        share = min(max((iteration - start) / (stop - start), 0.0), 1.0) if stop > start else float(iteration >= stop)
        if self.cosine:
            share = (1.0 - math.cos(math.pi * share)) / 2.0
        return self.first + (self.end - self.first) * share

    @property
    def constant(self) -> bool:
        return self.first == self.end

    @property
    def relative(self) -> bool:
        """Whether the schedule changes when the length of the run does."""
        return not self.constant and (self.start.relative or self.stop.relative)


def schedule(value: float | str | Schedule) -> Schedule:
    """Read a number or a ramp.

    Raises:
        UserError: the text is neither.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Schedule(float(value), float(value))
    text = str(value).strip()
    if re.fullmatch(_NUMBER, text):
        return Schedule(float(text), float(text))
    match = _RAMP.fullmatch(text)
    if not match:
        raise UserError(
            f"{value!r} is neither a number nor a ramp: write for example 0..1@10000, 1..0@50%..100% or "
            "'0.002..0.00001@100% cos'"
        )
    first, end, start, stop, cosine = match.groups()
    return Schedule(float(first), float(end), _point(start or "0"), _point(stop), bool(cosine))


def _point(text: str) -> _Point:
    return _Point(float(text[:-1]) / 100.0, True) if text.endswith("%") else _Point(float(text), False)
