"""The tables of RESULTS.md: models by metrics, each row and column with what it was measured by."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_gen.benchmarking.results import Cells, Models, duration, values_of
from lightning_gen.evaluation.metric_names import LATENTS, SAMPLES, TRANSLATIONS, base_of, extractor_of
from lightning_gen.evaluation.ranking import (
    GIVEN,
    MISSING,
    Measurement,
    floor_of,
    format_like,
    format_number,
    format_seeds,
    head_marks,
    mean_of,
    rank,
    source_of,
    value_marks,
)
from lightning_gen.evaluation.values import UNTRANSLATED

TABLES = {"Samples": SAMPLES, "Likelihood and latents": LATENTS}  # the columns in their order
WIDEST = 8  # metrics in one table
NO_BREAK = "\u00a0"  # a space at which no line ends
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Column(NamedTuple):
    """A metric's column: its head, a text for each model, for each kind of real data, and for untranslated pictures."""

    head: str
    models: dict[str, str]
    floors: dict[str, str]
    untranslated: str
    reasons: dict[str, str]  # for which nothing is ranked


def tables(models: Models) -> list[str]:
    """The tables of a section, with titles where they are more than one."""
    if not models:
        return []
    names = metrics_of(models)
    if len(names) <= WIDEST:
        return [_table(models, names)]
    parts = {title: list(own) for title, own in itertools.groupby(names, key=lambda name: _place(name)[1])}
    shown = list(parts)
    return [f"**{title}**\n\n{_table(models, parts[title], costs=title == shown[0])}" for title in shown]


def metrics_of(models: Models) -> list[str]:
    """The names of a section's values, in the order of the columns."""
    known = dict.fromkeys(name for cells in models.values() for cell in cells for name in values_of(cell))
    return sorted((name for name in known if not name.endswith(UNTRANSLATED)), key=_place)


def _place(metric: str) -> tuple[int, str, int]:
    """Where a metric stands: its table's place and title, and its own place there; unknown ones last."""
    direction, base = re.match("(a2b|b2a)_", metric), base_of(metric)
    tables = {f"Translations {direction[1]}": TRANSLATIONS} if direction else TABLES
    unknown = (list(tables)[-1], 99)
    title, place = next(((t, bases.index(base)) for t, bases in tables.items() if base in bases), unknown)
    return [*TABLES, title].index(title), title, place


def _table(models: Models, metrics: Sequence[str], costs: bool = True) -> str:
    """Models by metrics."""
    columns = [column(models, name) for name in metrics]
    paid = _costs(models) if costs else dict.fromkeys(models, ())
    head = ["model", "seeds", "checkpoint", *(c.head for c in columns), *(["speed", "training"] if costs else [])]
    body = [
        [model, _seeds(cells), _sources(cells), *(c.models.get(model, MISSING) for c in columns), *paid[model]]
        for model, cells in models.items()
    ]
    others = {
        f"real: {what}": [c.floors.get(what, MISSING) for c in columns] for what in _unique(c.floors for c in columns)
    }
    others["untranslated pictures"] = [c.untranslated for c in columns]
    blank = [""] * 2 if costs else []
    body += [[name, "", "", *texts, *blank] for name, texts in others.items() if set(texts) - {MISSING}]
    return markdown_table([head, *body])


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """The head and the rows; where columns are narrow, numbers stay in one line with their spread and their name."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
    return re.sub(r" ± |(?<=\b[Nk]) (?=\d)", lambda found: found[0].replace(" ", NO_BREAK), text)


def measurements(models: Models, metric: str) -> dict[str, list[Measurement]]:
    """Model -> its values of a metric with what they were measured by; without the models that have none."""
    found = {
        model: [
            Measurement(entry, cell["evaluation"]["setting"], cell["seed"])
            for cell in cells
            if (entry := values_of(cell).get(metric))
        ]
        for model, cells in models.items()
    }
    return {model: own for model, own in found.items() if own}


def column(models: Models, metric: str) -> Column:
    """A metric of all models."""
    rows = measurements(models, metric)
    ranking, extractor = rank(metric, rows), extractor_of(metric)
    texts = {}
    for model, own in rows.items():
        marks = value_marks(metric, model, rows)
        marks += [f"{len(own)} of {len(models[model])} seeds"] if len(own) < len(models[model]) else []
        text = format_mean_std(m.entry["value"] for m in own) + (f" ({', '.join(marks)})" if marks else "")
        text += GIVEN if any(m.entry.get("given") for m in own) else ""
        texts[model] = f"**{text}**" if model in ranking.best else text
    every = [m for own in rows.values() for m in own]
    floors: dict[str, list[Any]] = {}
    for m in every:
        if m.entry.get("floor") is not None:
            floors.setdefault(floor_of(metric, m.setting), []).append(m.entry["floor"])
    head = metric_head(metric.removesuffix(f"_{extractor}"), every[0].entry.get("better"))
    plain = [m.entry["value"] for own in measurements(models, metric + UNTRANSLATED).values() for m in own]
    return Column(
        "<br>".join(filter(None, [head, ", ".join(filter(None, [extractor, head_marks(metric, rows)]))])),
        texts,
        {what: _distinct(values) for what, values in floors.items()},
        _distinct(plain),
        ranking.reasons,
    )


def metric_head(metric: str, better: str | None) -> str:
    """The metric with the direction that is better: an arrow, or the value to be near to."""
    if better and better.startswith("near "):
        return f"{metric} → {better.removeprefix('near ')}"
    return metric + {"lower": " ↓", "higher": " ↑"}.get(better or "", "")


def _unique(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(names)))


def _distinct(values: Iterable[Any]) -> str:
    """What should be one value: each that reads otherwise, once."""
    return ", ".join(dict.fromkeys(format_number(value) for value in values)) or MISSING


def _seeds(cells: Cells) -> str:
    """How many, and which: "3 (0-2)"."""
    return f"{len(cells)}{NO_BREAK}({format_seeds(cell['seed'] for cell in cells)})"


def _sources(cells: Cells) -> str:
    return " and ".join(dict.fromkeys(source_of(cell["evaluation"]["setting"]) for cell in cells))


# Costs


def machine_of(cell: Mapping[str, Any]) -> str:
    """What a cell was trained on."""
    place = cell["environment"]
    threads = place.get("threads", "?")
    return f"{place.get('device', '?')}, {threads} thread{'' if threads == '1' else 's'}, {place.get('system', '?')}"


def machine_marks(models: Models) -> dict[str, str]:
    """Machine -> its mark in the tables: a raised number, or nothing where all cells have the same one."""
    machines = list(dict.fromkeys(machine_of(cell) for cells in models.values() for cell in cells))
    return {machine: f" {k}".translate(RAISED) if len(machines) > 1 else "" for k, machine in enumerate(machines, 1)}


def speeds(models: Models) -> dict[str, dict[str, float]]:
    """Machine -> model -> images/s, the mean over the seeds that were trained on it."""
    found: dict[str, dict[str, float]] = {}
    for model, cells in models.items():
        for machine, own in _by_machine(cells).items():
            if rates := [cell["images_per_second"] for cell in own if cell["images_per_second"]]:
                found.setdefault(machine, {})[model] = statistics.fmean(rates)
    return found


def _by_machine(cells: Cells) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(machine_of(cell), []).append(cell)
    return found


def _costs(models: Models) -> dict[str, list[str]]:
    """Model -> its speed, as a multiple of that of the first model on the same machine, and its time of training."""
    marks, rates = machine_marks(models), speeds(models)
    found = {}
    for model, cells in models.items():
        of_model = {machine: of for machine, of in rates.items() if model in of}
        speed = [f"{of[model] / next(iter(of.values())):.2f}x{marks[machine]}" for machine, of in of_model.items()]
        times = {machine: statistics.fmean(c["seconds"] for c in some) for machine, some in _by_machine(cells).items()}
        training = [duration(seconds) + marks[machine] for machine, seconds in times.items()]
        found[model] = [", ".join(text.replace(" ", NO_BREAK) for text in own) or MISSING for own in (speed, training)]
    return found


# Numbers


def format_mean_std(values: Iterable[Any]) -> str:
    """ "3.142 ± 0.016": the mean as exact as two digits of the standard deviation; one value alone with four digits."""
    values = list(values)
    mean = mean_of(values)
    if not math.isfinite(mean):
        return next((str(value) for value in values if not isinstance(value, int | float)), MISSING)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if not deviation:
        return format_number(mean) + (" ± 0" if len(values) > 1 else "")
    return " ± ".join(format_like(number, deviation) for number in (mean, deviation))
