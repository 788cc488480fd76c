"""Which values stand beside each other, which of them is the best, and how a value is written.

One rule for compare.py, whose rows are runs, and for RESULTS.md, whose rows are models with several seeds.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gen.evaluation.metric_names import OF_REFERENCE, OF_TEST_EXAMPLES, STANDARD_ERRORS, base_of
from lightning_gen.evaluation.samplers import describe_sampler

MISSING, NONE, PRIOR = "-", "none", "prior"
GIVEN = " †"  # marks values of a model that was told the class or the text of each example
FEWEST = 1_000  # examples, below which no value is called the best
EARLIER_FLOOR = "validation, then training examples"  # of evaluations that do not say it
TOO_FEW, TOO_CLOSE = f"N below {FEWEST:,}", "a difference within the error over examples"
OF_VALUES = ("N", "k", "likelihood", "extractor", "reference", "given", "version")  # without which no two compare
IN_HEAD = ("N", "k", "likelihood")  # said once for most values of a metric
IN_VALUE = (*IN_HEAD, "extractor", "reference", "better")  # said of a value that is not like most


class Measurement(NamedTuple):
    """A value of evaluation.json or of a benchmark's cell, the setting of its evaluation, the seed of its training."""

    entry: Mapping[str, Any]
    setting: Mapping[str, Any]
    seed: int | None = None


Rows = Mapping[str, Sequence[Measurement]]  # of one metric


class Ranking(NamedTuple):
    """The rows with the best value; or what keeps all from being called so: condition -> a few words with the rows."""

    best: set[str]
    reasons: dict[str, str]


def rank(metric: str, rows: Rows) -> Ranking:
    """The rows with the best mean of a metric, if all were measured alike and the next is farther than the error.

    Rows that were told the class or the text of each example compete only where all of them were.
    """
    better = next((m.entry.get("better") for own in rows.values() for m in own), None)
    untold = {row: own for row, own in rows.items() if not _told(own)}
    rivals = untold or rows
    if better is None or len(rows) < 2:
        return Ranking(set(), {})
    if len(rivals) < 2:
        return Ranking(set(), {"given": describe("given", differences(metric, rows)["given"])})
    reasons = {name: describe(name, texts) for name, texts in differences(metric, rivals).items()}
    if any(m.entry.get("n") is not None and m.entry["n"] < FEWEST for own in rivals.values() for m in own):
        reasons[TOO_FEW] = TOO_FEW
    if reasons:
        return Ranking(set(), reasons)
    means = {row: mean_of(m.entry["value"] for m in own) for row, own in rivals.items()}
    if _within_error(means, better, {row: error_of(metric, own) or 0.0 for row, own in rivals.items()}):
        return Ranking(set(), {TOO_CLOSE: TOO_CLOSE})
    return Ranking(best_of(means, better), {})


def conditions(metric: str, m: Measurement) -> dict[str, str]:
    """All that must agree for two values to be ranked beside each other: name -> text."""
    entry, setting = m.entry, m.setting
    own = {"N": "n", "k": "k", "likelihood": "likelihood", "given": "given", "better": "better"}
    found = {name: NONE if entry.get(key) is None else format_number(entry[key]) for name, key in own.items()}
    if entry.get("n") is None:  # a value of the training's, no evaluation's
        return found
    found |= {"reference": short_hash(setting, "reference"), "checkpoint": _checkpoint(setting)}
    found["weights"] = "averaged" if setting.get("averaged_weights") else "as trained"
    found["version"] = str(setting.get("version"))  # of the metrics
    if base_of(metric) not in OF_TEST_EXAMPLES:
        takes_extractor = entry.get("extractor", "the setting's") is not None
        found["extractor"] = (
            f"{setting.get('extractor')} {short_hash(setting, 'extractor')}" if takes_extractor else NONE
        )
        found["sampler"] = _sampler(setting)
    return found


def differences(metric: str, rows: Rows) -> dict[str, dict[str, str]]:
    """The conditions in which values differ: condition -> row -> text."""
    unlike = {
        name: texts for name, texts in _texts(metric, rows).items() if len({*itertools.chain(*texts.values())}) > 1
    }
    return {name: {row: " and ".join(own) for row, own in texts.items()} for name, texts in unlike.items()}


def _texts(metric: str, rows: Rows) -> dict[str, dict[str, list[str]]]:
    """Condition -> row -> the texts of its values, each once."""
    found: dict[str, dict[str, list[str]]] = {}
    for row, own in rows.items():
        for name, text in (pair for m in own for pair in conditions(metric, m).items()):
            texts = found.setdefault(name, {}).setdefault(row, [])
            texts += [text] if text not in texts else []
        found.setdefault("seeds", {})[row] = [format_seeds(m.seed for m in own)]
    return found


def describe(what: str, texts: Mapping[str, str]) -> str:
    """Row -> text as "N 297 (a, b), 500 (c)"."""
    return f"{what} " + ", ".join(f"{text} ({', '.join(rows)})" for text, rows in group(texts.items()).items())


def group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """(name, text) -> text -> names, each once, in order."""
    found: dict[str, dict[str, None]] = {}
    for name, text in pairs:
        found.setdefault(text, {})[name] = None
    return {text: list(names) for text, names in found.items()}


def summarise(pairs: Iterable[tuple[str, str]]) -> str:
    """(name, text) as "text (a, b); other text (c)"; a single text without the names."""
    found = group(pairs)
    return "; ".join(f"{text} ({', '.join(names)})" if len(found) > 1 else text for text, names in found.items())


def source_of(setting: Mapping[str, Any]) -> str:
    """What a row's values are of: "best", "last, averaged, gmm of 10 components"."""
    averaged, sampler = ["averaged"] if setting.get("averaged_weights") else [], _sampler(setting)
    return ", ".join([_checkpoint(setting), *averaged, *([sampler] if sampler != PRIOR else [])])


def floor_of(metric: str, setting: Mapping[str, Any]) -> str:
    """The real examples that were measured in the place of the samples."""
    return "the reference itself" if base_of(metric) in OF_REFERENCE else setting.get("floor_of") or EARLIER_FLOOR


def head_marks(metric: str, rows: Rows) -> str:
    """What most values of a metric share, to be said once: "N 10,000, k 5"."""
    texts = _texts(metric, rows)
    common = {name: _common(texts.get(name, {})) for name in IN_HEAD}
    return ", ".join(_mark(name, text, texts[name]) for name, text in common.items() if text and text != [NONE])


def value_marks(metric: str, row: str, rows: Rows) -> list[str]:
    """What is said of a value alone: its error over examples, and what it does not share with most of its metric."""
    texts, error = _texts(metric, rows), error_of(metric, rows[row])
    own = {name: texts[name][row] for name in IN_VALUE if row in texts.get(name, {})}
    marks = [_mark(name, text, texts[name]) for name, text in own.items() if text != _common(texts[name])]
    return [*([f"±{format_like(error, error)}"] if error is not None else []), *marks]


def _common(texts: Mapping[str, list[str]]) -> list[str] | None:
    """What more than half of the rows share, if there is such a thing."""
    return next((own for own in texts.values() if 2 * list(texts.values()).count(own) > len(texts)), None)


def _mark(name: str, texts: Sequence[str], among: Mapping[str, list[str]]) -> str:
    """ "N 100"; of a likelihood as much as tells it from the others: "Gaussian", not "Gaussian of uint8 values"."""
    if name != "likelihood":
        return f"{name} {' and '.join(texts)}"
    every = {*itertools.chain(*among.values())}
    short = len({text.partition(" of ")[0] for text in every}) == len(every)
    return " and ".join(text.partition(" of ")[0] if short else text for text in texts)


def error_of(metric: str, own: Sequence[Measurement]) -> float | None:
    """The standard error over examples of a row's mean: at most the mean of its seeds', which see the same examples."""
    errors = [m.entry.get("std") for m in own] if base_of(metric) in STANDARD_ERRORS else []
    found = [error for error in errors if isinstance(error, int | float)]
    return statistics.fmean(found) if found else None


def mean_of(values: Iterable[Any]) -> float:
    """The mean; nan where there is no value, or one that is not finite (in JSON a text)."""
    numbers = [value if isinstance(value, int | float) else math.nan for value in values]
    return statistics.fmean(numbers) if numbers and all(map(math.isfinite, numbers)) else math.nan


def best_of(values: Mapping[str, float], better: str | None) -> set[str]:
    """The names of the best of these comparable values by "lower", "higher" or "near X"; none if all read the same."""
    cost = _costs(values, better)
    least = format_number(min(filter(math.isfinite, cost.values()), default=None))
    best = {name for name in cost if format_number(cost[name]) == least}
    return best if len(best) < len(values) else set()


def _costs(values: Mapping[str, float], better: str | None) -> dict[str, float]:
    """What is to be small; empty where nothing says so."""
    kind, _, target = (better or "").partition(" ")
    if kind not in ("lower", "higher", "near"):
        return {}
    return {n: abs(v - float(target)) if kind == "near" else -v if kind == "higher" else v for n, v in values.items()}


def _within_error(means: Mapping[str, float], better: str, errors: Mapping[str, float]) -> bool:
    """Whether the two best differ by no more than the larger of their errors over examples, if they have any."""
    costs = {row: cost for row, cost in _costs(means, better).items() if math.isfinite(cost)}
    two = sorted(costs, key=costs.__getitem__)[:2]
    error = max((errors[row] for row in two), default=0.0)
    return len(two) == 2 and error > 0 and costs[two[1]] - costs[two[0]] <= error


def _told(own: Sequence[Measurement]) -> bool:
    return any(m.entry.get("given") for m in own)


def short_hash(setting: Mapping[str, Any], what: str) -> str:
    """The begin of the SHA-256 of the "extractor" or "reference"."""
    return f"[{str(setting.get(f'{what}_sha256') or 'no hash')[:12]}]"


def _checkpoint(setting: Mapping[str, Any]) -> str:
    return Path(str(setting.get("checkpoint") or MISSING)).stem


def _sampler(setting: Mapping[str, Any]) -> str:
    return describe_sampler(dict(setting)) if "sampler" in setting else PRIOR


def format_seeds(seeds: Iterable[int | None]) -> str:
    """Their numbers: "0-2", "0, 2"."""
    known = sorted({seed for seed in seeds if seed is not None})
    if len(known) > 2 and known[-1] - known[0] == len(known) - 1:
        return f"{known[0]}-{known[-1]}"
    return ", ".join(map(str, known)) or "unknown"


def format_number(value: Any, digits: int = 4) -> str:
    """A number rounded, of a large one the whole part; text as it is."""
    if not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.{digits}g}"


def format_like(number: float, spread: float) -> str:
    """A number as exact as two digits of its spread."""
    places = 1 - int(f"{spread:.1e}".partition("e")[2])
    return f"{round(number, places):,.{max(places, 0)}f}"
