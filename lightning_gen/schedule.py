"""Schedules: a number, or a ramp written as text, for any weight, rate or probability.

==========================  =========================================================================
``4`` or ``"4"``            constant
``"0..1@10000"``            linear from 0 to 1 over the first 10,000 iterations, then 1
``"0..1@2000..10000"``      0 until iteration 2,000, linear to 1 at iteration 10,000
``"1..0@50%..100%"``        1 for the first half of the run, then linear to 0 at its end
``"2e-3..1e-5@100% cos"``   half a cosine from 2e-3 to 1e-5 over the whole run
``"0..1@25% x4"``           four ramps from 0 to 1, each over a quarter of the run
``"0..1@12.5% x4"``         four times linear from 0 to 1 in an eighth of the run, then 1 for an eighth
==========================  =========================================================================

A ramp that is repeated N times begins anew at each N-th of the run (Fu et al. 2019, https://arxiv.org/abs/1903.10145,
equation 6). Its shares are of the whole run, so they end at 100% / N; its iterations count from each beginning.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from lightning_gen.datamodules.errors import UserError

ROUNDING = 1e-3  # share by which a repeated ramp may be too long: 33.33% x3
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RAMP = re.compile(rf"({_NUMBER})\.\.({_NUMBER})@(?:({_NUMBER}%?)\.\.)?({_NUMBER}%?)(\s+cos)?(?:\s+x(\d+))?")


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
    repeats: int = 1

    def __call__(self, iteration: int, total: int | None = None) -> float:
        """The value at an iteration (counted from 0) of a run of ``total`` iterations."""
        if self.constant:
            return self.end
        start, stop = self.start.at(total), self.stop.at(total)
        if self.repeats > 1:
            return self._repeated(iteration, total, start, stop)
        return self._ramp(iteration, start, stop)

    def _repeated(self, iteration: int, total: int | None, start: float, stop: float) -> float:
        """The value in one of ``repeats`` equal parts of the run, which begin with the ramp each; after it, the end."""
        if not total:
            raise UserError(
                f"a ramp that is repeated x{self.repeats} needs a run of known length: give --steps or --epochs"
            )
        if stop * self.repeats > total * (1 + ROUNDING):
            raise UserError(
                f"a ramp to iteration {stop:g} that is repeated x{self.repeats} in {total:,} iterations: it must end "
                f"by iteration {total / self.repeats:g}"
            )
        if iteration >= total:
            return self.end
        return self._ramp(iteration * self.repeats % total / self.repeats, start, stop)

    def _ramp(self, iteration: float, start: float, stop: float) -> float:
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
        return not self.constant and (self.start.relative or self.stop.relative or self.repeats > 1)


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
            f"{value!r} is neither a number nor a ramp: write for example 0..1@10000, 1..0@50%..100%, "
            "'0.002..0.00001@100% cos' or '0..1@25% x4'"
        )
    first, end, start, stop, cosine, repeats = match.groups()
    ramp = Schedule(float(first), float(end), _point(start or "0"), _point(stop), bool(cosine), int(repeats or 1))
    if ramp.repeats < 1:
        raise UserError(f"{value!r}: a ramp is repeated at least once, x1")
    if ramp.repeats > 1 and ramp.stop.relative and ramp.stop.value * ramp.repeats > 1 + ROUNDING:
        raise UserError(f"{value!r}: a ramp that is repeated x{ramp.repeats} must end by {100 / ramp.repeats:g}%")
    return ramp


def _point(text: str) -> _Point:
    return _Point(float(text[:-1]) / 100.0, True) if text.endswith("%") else _Point(float(text), False)
