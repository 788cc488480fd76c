"""The paired differences of a section's models to its first one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from lightning_gen.benchmarking.results import Models
from lightning_gen.benchmarking.table import markdown_table, measurements, metric_head, metrics_of
from lightning_gen.evaluation.ranking import MISSING, OF_VALUES, Measurement, differences, format_like, format_number

LEVEL = 0.95


class Difference(NamedTuple):
    """A mean difference, the half of its interval (None of a single pair), and the number of pairs."""

    mean: float
    half: float | None
    n: int


def paired_difference(differences: Sequence[float]) -> Difference:
    """d +- t s / sqrt(n), t the quantile of Student's t with n - 1 degrees of freedom, of n >= 1 differences."""
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return Difference(mean, None, n)
    t = float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return Difference(mean, t * statistics.stdev(differences) / math.sqrt(n), n)


def difference_table(models: Models) -> str:
    """Metrics by models, without the first: the mean difference to it on equal seeds, with its interval."""
    first, *others = models
    lines = [["value", *others]]
    for metric in metrics_of(models):
        rows = measurements(models, metric)
        better = next(m.entry.get("better") for own in rows.values() for m in own)
        texts = [_text(metric, rows.get(first, []), rows.get(other, [])) for other in others]
        lines.append([metric_head(metric, better), *texts])
    return markdown_table([line for line in lines if set(line[1:]) != {MISSING}])


def _text(metric: str, first: Sequence[Measurement], other: Sequence[Measurement]) -> str:
    """Of one metric; missing where there is no pair, or where the two were measured otherwise."""
    before, after = (
        {m.seed: m.entry["value"] for m in own if isinstance(m.entry["value"], int | float)} for own in (first, other)
    )
    pairs = [value - before[seed] for seed, value in after.items() if seed in before]
    if not pairs or set(OF_VALUES) & set(differences(metric, {"first": first, "other": other})):
        return MISSING
    found = paired_difference(pairs)
    if found.half is None:
        return f"{format_number(found.mean)} (n 1)"
    spread = found.half or abs(found.mean) or 1.0  # equal differences have an interval of no width
    mean, low, high = (format_like(v, spread) for v in (found.mean, found.mean - found.half, found.mean + found.half))
    return f"{mean} [{low}, {high}] (n {found.n})"
