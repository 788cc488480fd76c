"""Which of several comparable values is the best, and how a value is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "-"
ALIKE = ("n", "k", "likelihood", "given")  # entries of values: only those that share them are ranked beside each other


def best_of(values: Mapping[str, float], better: str | None) -> set[str]:
    """The names of the best of these comparable values by "lower", "higher" or "near X"; none if all read the same."""
    kind, _, target = (better or "").partition(" ")
    if kind not in ("lower", "higher", "near"):
        return set()
    cost = {n: abs(v - float(target)) if kind == "near" else -v if kind == "higher" else v for n, v in values.items()}
    least = format_number(min(filter(math.isfinite, cost.values()), default=None))
    best = {name for name in values if format_number(cost[name]) == least}
    return best if len(best) < len(values) else set()


def format_number(value: Any, digits: int = 4) -> str:
    """A number rounded, of a large one the whole part; text as it is."""
    if not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.{digits}g}"
