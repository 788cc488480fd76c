"""The results of benchmarks: one JSON file for each cell, and RESULTS.md made from all of them.

A cell is one model, trained under one budget on one data set with one seed, and its evaluation.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning_gen.atomic import write_atomically
from lightning_gen.benchmarking.given import base_of, given_of_cell
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.files import read_text
from lightning_gen.evaluation.ranking import ALIKE, best_of
from lightning_gen.evaluation.values import UNTRANSLATED
from lightning_gen.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]  # of the repository, or what a wheel is installed in
FOLDER, PAGE = Path("benchmarks/results"), Path("RESULTS.md")
FORMAT = 1
TABLES = {  # the columns in their order; of "fd_mnist_v1" the beginning, "fd"
    "Samples": (
        *("fid", "fd", "kid", "kd", "is", "cs", "precision", "recall", "density", "coverage"),
        *("authenticity", "nn_ratio", "classes", "class_kl", "class_accuracy", "modes", "high_quality", "reverse_kl"),
        "final_over_best",
    ),
    "Likelihood and latents": (
        *("nll", "elbo", "reconstruction", "kl", "bits_per_dim", "psnr", "ssim", "active_units", "mutual_information"),
        *("mig", "factor_vae", "dci"),
    ),
}
TRANSLATIONS = (  # the columns of a direction's table, of "a2b_fd_raw" the part "fd"
    *("fid", "fd", "kid", "kd", "precision", "recall", "density", "coverage", "authenticity", "nn_ratio"),
    *("psnr", "ssim", "l1", "lpips", "pixel_accuracy", "class_accuracy", "mean_iou", "cycle", "identity"),
)
WIDEST = 8  # metrics in one table
MISSING = "-"
HASHED = ("extractor", "reference")  # what all values of a column must share, as N and k
LEGEND = """Mean ± standard deviation over seeds (2 digits of it); one seed alone has none. An arrow says which way is
better; **bold** is the best mean of a column, where all its values were measured alike. "Other real data" is the same
measurement of validation examples, then of training ones, in the place of samples: about what a perfect model would
reach; the validation examples of a data set need not be a random draw of it. final_over_best is the distance watched
in training at its end over its lowest; the other values are of the checkpoint named below. The time of training
includes its validations, images/s do not. † is a value given the class: another quantity, so it is not ranked beside
the others."""
GIVEN = " †"  # marks values of a model that was told the class or the text of each example

Cells = Sequence[Mapping[str, Any]]


def cell_path(folder: Path, data: str, model: str, budget: str, options: Mapping[str, str], seed: int) -> Path:
    """FOLDER/<data>-<model>-<budget>[-<options' hash>]-seed<k>.json."""
    words = [*(re.sub(r"[^\w.-]+", "_", word).strip("_.") for word in (data, model)), budget]
    return folder / f"{'-'.join([*words, *tag_of(options)])}-seed{seed}.json"


def tag_of(options: Mapping[str, str]) -> list[str]:
    """A short hash of the options, in a list; nothing where there are none."""
    return [sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:6]] if options else []


def read_cell(path: Path) -> dict[str, Any]:
    """A cell's file.

    Raises:
        UserError: it is damaged or of another format.
    """
    try:
        cell = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        cell = None
    if not isinstance(cell, dict) or not {"data", "budget", "options", "model", "seed"} <= set(cell):
        raise UserError(f"{path} is damaged: remove it, and the benchmark runs its cell again")
    if cell.get("format") != FORMAT:
        raise UserError(f"{path} is of format {cell.get('format')}: this version reads format {FORMAT}")
    return cell


def write_cell(path: Path, cell: Mapping[str, Any]) -> None:
    """Save a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"format": FORMAT, **cell}, indent=1).encode() + b"\n")


def stability(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How far an adversarial run ended from its best, by the distance that it watched: one value, or none."""
    found = ((summary.get("stability") or {}).get("final_over_best") or {}).values()
    ratios = [entry["ratio"] for entry in found if entry["ratio"] is not None]
    return {"final_over_best": {"value": max(ratios), "better": "near 1"}} if ratios else {}


def write_page(folder: Path) -> Path:
    """Write RESULTS.md from all cells of a folder; of another folder than the usual one into it.

    Raises:
        UserError: there is no cell, or a damaged one.
    """
    cells = [read_cell(path) for path in sorted(folder.glob("*.json"))]
    if not cells:
        raise UserError(f"no cell in {folder}: {program('benchmark')} --models vae --budget 1m makes some")
    usual, shown = folder == FOLDER, folder.name if folder.is_absolute() else folder
    page = PAGE if usual else folder / PAGE
    write_atomically(page, markdown(cells, "" if usual else f" --results {shown}").encode())
    return page


def markdown(cells: Cells, options: str = "") -> str:
    """The page: a section for each data set, budget and choice of options.

    Args:
        cells: all of them.
        options: of the command that the first line names.
    """
    sections: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        key = (cell["data"], cell["budget"], tuple(sorted(cell["options"].items())))
        sections.setdefault(key, []).append(cell)
    first = f"Generated by `{program('benchmark')} --table{options}` from the cells' files; never edited by hand."
    parts = [first, "# Results", LEGEND, *(_section(sections[key]) for key in sorted(sections))]
    return "\n\n".join(parts) + "\n"


def _section(cells: Cells) -> str:
    names = {cell["model"] for cell in cells}
    order = [*(name for name in PRESETS if name in names), *sorted(names - set(PRESETS))]
    done = [cell for cell in cells if "evaluation" in cell]
    rows = {name: own for name in order if (own := [cell for cell in done if cell["model"] == name])}
    options = "".join(f", {name} {value}" for name, value in cells[0]["options"].items())
    facts = [*_facts(rows), *_troubles(cells, order)]
    parts = [f"## {cells[0]['data']}, {cells[0]['budget']}{options}", *_tables(rows)]
    parts += ["\n".join(f"- {fact}" for fact in facts), f"```bash\n{_command(cells, order)}\n```"]
    return "\n\n".join(parts)


# Tables


def _tables(rows: Mapping[str, Cells]) -> list[str]:
    if not rows:
        return []
    known = dict.fromkeys(name for cells in rows.values() for cell in cells for name in _values(cell))
    names = sorted((name for name in known if not name.endswith(UNTRANSLATED)), key=_place)
    if len(names) <= WIDEST:
        return [_table(rows, names)]
    parts = {title: list(own) for title, own in itertools.groupby(names, key=lambda name: _place(name)[1])}
    shown = list(parts)
    return [f"**{title}**\n\n{_table(rows, parts[title], costs=title == shown[0])}" for title in shown]


def _place(metric: str) -> tuple[int, str, int]:
    """Where a metric stands: its table's place and title, and its own place there; unknown ones last."""
    tables = dict(TABLES)
    if direction := re.match(r"(a2b|b2a)_", metric):
        tables = {f"Translations {direction[1]}": TRANSLATIONS}
        metric = metric.removeprefix(direction[0])
    known = [
        (base, title, bases.index(base))
        for title, bases in tables.items()
        for base in bases
        if f"{metric}_".startswith(f"{base}_")
    ]
    _, title, place = max(known, key=lambda entry: len(entry[0])) if known else ("", list(tables)[-1], 99)
    return [*TABLES, title].index(title), title, place


def _table(rows: Mapping[str, Cells], metrics: Sequence[str], costs: bool = True) -> str:
    """Models by metrics."""
    columns = [_column(rows, name) for name in metrics]
    head = ["model", "seeds", *(column[0] for column in columns), *(["images/s", "training"] if costs else [])]
    body = []
    for place, (model, cells) in enumerate(rows.items()):
        own = [model, str(len(cells)), *(column[place + 1] for column in columns)]
        body.append([*own, *(_costs(cells) if costs else [])])
    floors = [column[-1] for column in columns]
    if set(floors) - {MISSING}:
        body.append(["other real data", "", *floors, *(["", ""] if costs else [])])
    as_they_are = [_untranslated(rows, name) for name in metrics]
    if set(as_they_are) - {MISSING}:
        body.append(["untranslated pictures", "", *as_they_are, *(["", ""] if costs else [])])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(rows: Mapping[str, Cells], metric: str) -> list[str]:
    """The head, each model's mean, and the floor."""
    entries = {model: [e for cell in cells if (e := _values(cell).get(metric))] for model, cells in rows.items()}
    every = [entry for own in entries.values() for entry in own]
    better = every[0].get("better")
    means = {model: mean for model, own in entries.items() if (mean := _mean(e["value"] for e in own)) is not None}
    free = _not_given(rows, metric)
    ranked = {model: mean for model, mean in means.items() if model in free}
    best = best_of(ranked, better) if _measured_alike(free, metric) else set()
    column = [metric + _arrow(better)]
    for model, own in entries.items():
        text = format_mean_std(entry["value"] for entry in own)
        text += f" ({len(own)} of {len(rows[model])} seeds)" if own and len(own) < len(rows[model]) else ""
        text += GIVEN if own and model not in free else ""
        column.append(f"**{text}**" if model in best else text)
    return [*column, format_mean_std(_distinct(entry["floor"] for entry in every if entry.get("floor") is not None))]


def _untranslated(rows: Mapping[str, Cells], metric: str) -> str:
    """The same value of pictures as they are."""
    cells = [cell for own in rows.values() for cell in own]
    return format_mean_std(_distinct(e["value"] for cell in cells if (e := _values(cell).get(metric + UNTRANSLATED))))


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once; those that processors round differently are one."""
    return list(dict.fromkeys(float(f"{v:.10g}") if isinstance(v, float) else v for v in values))


def _values(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """A cell's values; those of cells that do not say so are given the class where their model takes one."""
    values, told = cell["evaluation"]["values"], given_of_cell(cell, TABLES)
    return {name: {"given": told.get(base_of(name, TABLES)), **value} for name, value in values.items()}


def _arrow(better: str | None) -> str:
    if better and better.startswith("near "):
        return f" → {better.removeprefix('near ')}"
    return {"lower": " ↓", "higher": " ↑"}.get(better or "", "")


def _not_given(rows: Mapping[str, Cells], metric: str) -> dict[str, Cells]:
    """The models that were told nothing of the examples when a metric was measured."""
    return {
        model: cells
        for model, cells in rows.items()
        if not any(_values(cell).get(metric, {}).get("given") for cell in cells)
    }


def _measured_alike(rows: Mapping[str, Cells], metric: str) -> bool:
    """Whether N, k, likelihood, extractor and reference are the same for all values of a metric."""
    conditions = {
        (
            *(entry.get(key) for key in ALIKE),
            *(cell["evaluation"]["setting"].get(f"{what}_sha256") for what in HASHED),
        )
        for cells in rows.values()
        for cell in cells
        if (entry := _values(cell).get(metric))
    }
    return len(conditions) <= 1


def _costs(cells: Cells) -> list[str]:
    rates = [cell["images_per_second"] for cell in cells if cell["images_per_second"]]
    return [
        f"{statistics.fmean(rates):,.0f}" if rates else MISSING,
        duration(statistics.fmean(c["seconds"] for c in cells)),
    ]


def duration(seconds: float) -> str:
    """A time as it is read: 61 s, 12.5 min, 3.2 h."""
    for least, unit, size in ((7200, "h", 3600), (600, "min", 60)):
        if seconds >= least:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _mean(values: Iterable[Any]) -> float | None:
    """The mean, or None where there is no value or one that is not finite (in JSON a text)."""
    numbers = [value if isinstance(value, int | float) else math.nan for value in values]
    mean = statistics.fmean(numbers) if numbers else math.nan
    return mean if math.isfinite(mean) else None


def format_mean_std(values: Iterable[Any]) -> str:
    """ "3.142 ± 0.016": the mean as exact as two digits of the standard deviation; one value alone with four digits."""
    values = list(values)
    mean = _mean(values)
    if mean is None:
        return next((str(value) for value in values if not isinstance(value, int | float)), MISSING)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if not deviation:
        text = f"{mean:,.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"
        return text + (" ± 0" if len(values) > 1 else "")
    places = 1 - int(f"{deviation:.1e}".partition("e")[2])
    return " ± ".join(f"{round(number, places):,.{max(places, 0)}f}" for number in (mean, deviation))


# Below the tables


def _facts(rows: Mapping[str, Cells]) -> list[str]:
    """How the values of a section were obtained."""
    cells = [cell for own in rows.values() for cell in own]
    if not cells:
        return []
    lengths = _unique(
        f"{cell['iterations']:,} iterations of {model} ({cell['images']:,} images)"
        for model, own in rows.items()
        for cell in own
    )
    known = dict.fromkeys(n for cell in cells for n in _values(cell))
    unlike = [name for name in known if not _measured_alike(_not_given(rows, name), name)]
    facts = [
        f"{cells[0]['budget']} = {', '.join(lengths)}",
        *_unique(_conditions(cell) for cell in cells),
        *(
            [f"not ranked, because N, k, likelihood, extractor or reference differ: {', '.join(unlike)}"]
            if unlike
            else []
        ),
        *_unique(_hardware(cell["environment"]) for cell in cells),
        f"commit {' and '.join(_unique(_short(cell.get('commit')) for cell in cells))}",
        " to ".join(_unique([min(cell["date"] for cell in cells), max(cell["date"] for cell in cells)])),
    ]
    return facts


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _conditions(cell: Mapping[str, Any]) -> str:
    """N, k, extractor and reference of a cell's evaluation."""
    setting, values = cell["evaluation"]["setting"], _values(cell)
    hashes = {what: str(setting.get(f"{what}_sha256") or "no hash")[:12] for what in HASHED}
    used = f"{setting['extractor']} [{hashes['extractor']}]" if setting.get("extractor") else "none"
    n = setting.get("n") or 0
    others = [f"{name} {v['n']:,}" for name, v in values.items() if v.get("n") not in (None, n)]
    ks = [f"{name} {v['k']:,}" for name, v in values.items() if v.get("k") is not None]
    parts = [
        f"N = {n:,}" + (f" ({', '.join(others)})" if others else ""),
        *([f"k: {', '.join(ks)}"] if ks else []),
        f"extractor {used}",
        f"reference: {setting.get('reference')} [{hashes['reference']}]",
        f"{setting.get('checkpoint')}" + (", averaged weights" if setting.get("averaged_weights") else ""),
    ]
    return "; ".join(parts)


def _hardware(environment: Mapping[str, str]) -> str:
    known = dict(environment)
    threads = known.pop("threads", "?")
    place = f"{known.pop('device', '?')}, {threads} thread{'' if threads == '1' else 's'}, {known.pop('system', '?')}"
    return f"{place}; " + ", ".join(f"{name} {version}" for name, version in known.items())


def _short(commit: str | None) -> str:
    return re.sub(r"[0-9a-f]{40}", lambda found: found.group()[:10], commit or "unknown")


def _troubles(cells: Cells, models: Sequence[str]) -> list[str]:
    """Cells that failed or are not there."""
    known = {(cell["model"], cell["seed"]): cell for cell in cells}
    troubles = []
    for model in models:
        for seed in range(1 + max(cell["seed"] for cell in cells)):
            cell = known.get((model, seed))
            if cell is None or "failed" in cell:
                troubles.append(f"{model} seed {seed}: " + (cell["failed"] if cell else "missing"))
    return troubles


def _command(cells: Cells, models: Sequence[str]) -> str:
    """What makes or completes a section."""
    only = [cell["only"] for cell in cells if cell.get("only")]
    words = [*program("benchmark").split(), "--models", *models, "--data", cells[0]["data"]]
    words += ["--seeds", str(1 + max(cell["seed"] for cell in cells)), "--budget", cells[0]["budget"]]
    words += ["--only", *_unique(name for names in only for name in names)] if len(only) == len(cells) else []
    return shlex.join([*words, *(f"--{name}={value}" for name, value in cells[0]["options"].items())])


def commit() -> str | None:
    """The commit of this program; with a "+" where files other than results have changed; None outside git."""
    if not (ROOT / "pyproject.toml").is_file():  # an installed wheel, perhaps inside a repository of the user's own
        return None
    git = ["git", "-C", str(ROOT)]
    others = [".", *(f":(exclude){path.as_posix()}" for path in (FOLDER, PAGE))]
    try:
        head, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *others])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")
