"""Set runs side by side, in options, values, samples and curves: what scripts/compare.py does."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gen.atomic import write_atomically
from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.files import read_text
from lightning_gen.datamodules.paths import printable
from lightning_gen.drawing.images import save_png
from lightning_gen.evaluation import report
from lightning_gen.evaluation.metric_names import STANDARD_ERRORS, base_of
from lightning_gen.evaluation.ranking import (
    GIVEN,
    MISSING,
    Measurement,
    Rows,
    describe,
    floor_of,
    format_number,
    group,
    head_marks,
    rank,
    source_of,
    summarise,
    value_marks,
)
from lightning_gen.names import resolve
from lightning_gen.pictures.comparison import figure, sample_run
from lightning_gen.storage.checkpoints import find_checkpoint
from lightning_gen.storage.runs import ROOT, SUMMARY, find_run_folder, flatten_config, read_config
from lightning_gen.training.scalar_tags import current_tag

PAGE, PICTURE = "comparison.md", "comparison.png"
BEST = " *"
HANDLING = ("data.batch_size", "data.num_workers", "data.memory", "data.flip")  # what is modelled stays the same


class Run(NamedTuple):
    """What a run's folder says; what is missing there is empty."""

    label: str  # short, and of no other run of the comparison
    folder: Path  # as it was given
    checkpoint: Path  # that samples are drawn from
    options: dict[str, Any]  # with the keys of the command line, such as model.terms.kl
    summary: dict[str, Any]
    evaluation: dict[str, Any]
    curves: dict[str, dict[int, float]]  # of each scalar tag the value at each iteration


class Table(NamedTuple):
    """A table of text; every row is as long as the head."""

    title: str
    head: list[str]
    rows: list[list[str]]
    caption: str


def main(argv: list[str]) -> None:
    """Parse, read the runs, draw samples of each, print and save."""
    parser = Parser(prog=program("compare"), description="Set runs side by side.")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="two or more run folders or checkpoints")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder (default comparison)")
    parser.add_argument("-n", type=int, default=16, help="samples of each run (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples, the same for all runs (default 0)")
    curve = "a scalar to plot, such as val/loss; may be repeated (default: train/loss and what all runs validate)"
    parser.add_argument("--curve", metavar="TAG", action="append", help=curve)
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoints may import")
    given = parser.parse_intermixed_args(argv)
    if given.n < 1:
        raise UserError(f"-n {given.n}: draw at least 1 sample of each run")
    runs = read_runs(given.runs)
    tags = chosen_curves(runs, given.curve)
    sheets = [sample_run(run.label, run.checkpoint, given.n, given.seed, given.trust) for run in runs]
    across = across_data(runs)
    values, unlike = evaluation_table(runs, ranked=not across)
    tables = [options_table(runs), values, summary_table(runs)]
    notes = [*across, *unlike, *_notes(runs, tags)]
    sources = json.dumps({sheet.label: sheet.source for sheet in sheets})
    curves = {run.label: run.curves for run in runs}
    save_png(figure(sheets, curves, tags, given.seed), given.out / PICTURE, {"seed": given.seed, "runs": sources})
    write_atomically(given.out / PAGE, printable(markdown(runs, tables, notes)).encode())
    show(tables, notes)
    print(f"\ntables: {given.out / PAGE}   samples and curves: {given.out / PICTURE}")


def read_runs(paths: Sequence[str]) -> list[Run]:
    """All that the folders of the runs say.

    Raises:
        UserError: fewer than two, one that is no run or is given twice, or a damaged file of a run.
    """
    if len(paths) < 2:
        raise UserError(f"a comparison takes two runs or more, not {len(paths)}; your runs are below {ROOT}/")
    folders = [find_run_folder(path) for path in paths]
    places = [folder.resolve() for folder in folders]
    for k, place in enumerate(places):
        if place in places[:k]:
            raise UserError(f"{paths[k]} is the same run as {paths[places.index(place)]}: give different runs")
    return [
        Run(label, at, find_checkpoint(path), _options(at), _read_json(at / SUMMARY), read_evaluation(at), _curves(at))
        for label, at, path in zip(short_names(places), folders, paths, strict=True)
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """Short unique names: of tb_logs/vae-digits/version_0 "vae-digits", else "version_0", else longer ends."""
    depths = range(1, 1 + max(len(folder.parts) for folder in folders))
    ends = [["/".join(folder.parts[-k:]) for folder in folders] for k in depths]
    tags = [folder.parent.name if folder.name.startswith("version_") else folder.name for folder in folders]
    labels = next(choice for choice in (tags, *ends) if len(set(choice)) == len(folders))
    return [printable(label) for label in labels]


def _options(folder: Path) -> dict[str, Any]:
    return {key.replace(".init_args", ""): value for key, value in flatten_config(read_config(folder)).items()}


def _read_json(path: Path) -> dict[str, Any]:
    """A file's mapping; empty where there is none."""
    try:
        content = json.loads(read_text(path)) if path.exists() else {}
    except (ValueError, RecursionError, OSError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: remove it, then write it anew")
    return content


def read_evaluation(folder: Path) -> dict[str, Any]:
    """A run's evaluation.json, the values as floats; empty without one.

    Raises:
        UserError: it is damaged, or of another format.
    """
    path = folder / report.FILE
    content = report.read(path) if path.exists() else {"setting": {}, "values": {}, "failed": {}}
    return {**content, "values": {n: {**v, "value": float(v["value"])} for n, v in content["values"].items()}}


def _curves(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars of all event files by today's tags; where a resumed run wrote an iteration again, the later value."""
    path = str(read_config(folder)["model"].get("class_path"))
    model = resolve(path, {}, "model class") if path.startswith("lightning_gen.") else None  # a user's is not imported
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        with _readable_by_tensorboard(file) as path:
            events = EventAccumulator(path, size_guidance={"scalars": 0, "images": 1}).Reload()  # 0: all
        for tag in events.Tags()["scalars"]:
            today = current_tag(model, tag) if model else tag
            curves.setdefault(today, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return curves


@contextmanager
def _readable_by_tensorboard(file: Path) -> Iterator[str]:
    """A path of the file that is UTF-8: others are refused there."""
    if printable(str(file)) == str(file):
        yield str(file)
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "events.out.tfevents.0"
        link.symlink_to(file.resolve())
        yield str(link)


def chosen_curves(runs: Sequence[Run], asked: Sequence[str] | None) -> list[str]:
    """The tags to plot: the requested ones, else train/loss and the validation tags that all runs with curves share.

    Raises:
        UserError: no run has logged a requested tag.
    """
    logged = [run.curves for run in runs if run.curves]
    known = _union(logged)
    for tag in (tag for tag in asked or () if tag not in known):
        raise unknown("--curve", tag, known) if known else UserError(f"--curve {tag}: no run has event files")
    shared = [tag for tag in known if tag.startswith("val/") and all(tag in curves for curves in logged)]
    return _union([asked]) if asked else [tag for tag in ("train/loss", *shared) if tag in known]


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    """The names of all groups, each once, in order."""
    return list(dict.fromkeys(itertools.chain.from_iterable(groups)))


def options_table(runs: Sequence[Run]) -> Table:
    """The options of config.yaml in which the runs differ."""
    rows = [[key, *texts] for key, texts in _option_texts(runs).items() if len(set(texts)) > 1]
    return Table("Options that differ", ["option", *(run.label for run in runs)], rows, "" if rows else "none")


def _option_texts(runs: Sequence[Run]) -> dict[str, list[str]]:
    return {key: [str(run.options.get(key, MISSING)) for run in runs] for key in _union(run.options for run in runs)}


def across_data(runs: Sequence[Run]) -> list[str]:
    """A note where the runs' data differ."""
    texts = _option_texts(runs)
    keys = [key for key in texts if key.startswith("data.") and key not in HANDLING]
    apart = "; ".join(filter(None, [_differ(key, runs, texts[key]) for key in keys]))
    names = _differ("data", runs, texts["dataset"])
    return [f"A comparison across data sets, so no winners: {names or apart}."] if apart else []


def evaluation_table(runs: Sequence[Run], ranked: bool = True) -> tuple[Table, list[str]]:
    """Every value of the evaluations, the best marked if ``ranked``; and notes on what has no best, and why."""
    settings = {run.label: run.evaluation["setting"] for run in runs}
    of = [_checkpoint(setting) if setting else MISSING for setting in settings.values()]
    rows = [["checkpoint, iteration", MISSING, MISSING, MISSING, *of]] if any(settings.values()) else []
    reasons, real = [], []
    for name in _union(run.evaluation["values"] for run in runs):
        measured = {
            run.label: [Measurement(entry, settings[run.label], run.options.get("seed"))]
            for run in runs
            if (entry := run.evaluation["values"].get(name))
        }
        ranking, entries = rank(name, measured), [own[0].entry for own in measured.values()]
        reasons += [(name, "; ".join(ranking.reasons.values()))] if ranking.reasons else []
        texts = {label: _cell(name, label, measured) + BEST * (ranked and label in ranking.best) for label in measured}
        real += [(name, floor_of(name, m.setting)) for (m,) in measured.values() if m.entry.get("floor") is not None]
        floors = {format_number(entry.get("floor")) for entry in entries}
        about = [entries[0].get("better"), head_marks(name, measured), floors.pop() if len(floors) == 1 else None]
        rows.append([name, *(text or MISSING for text in about), *(texts.get(run.label, MISSING) for run in runs)])
    notes = [f"No winner: {', '.join(names)}: {reason}." for reason, names in group(reasons).items()]
    caption = (
        "marked *: the best of comparable values; (±): standard error over examples; ±: spread over subsets;"
        f"{GIVEN}: given the class or text; real data: {summarise(real) or MISSING}"
    )
    head = ["value", "better", "measured with", "real data", *settings]
    return Table("Evaluation", head, rows, caption if rows else "none"), notes


def _checkpoint(setting: Mapping[str, Any]) -> str:
    """ "best, 3000", "last, averaged, 3000"."""
    return f"{source_of(setting)}, {format_number(setting.get('iteration'))}"


def _cell(metric: str, label: str, measured: Rows) -> str:
    """A value, with what spread it has and what tells it from the other runs' values."""
    entry, marks = measured[label][0].entry, value_marks(metric, label, measured)
    spread = None if base_of(metric) in STANDARD_ERRORS else entry.get("std")
    text = format_number(entry["value"]) + ("" if spread is None else f" ± {format_number(spread, 2)}")
    return text + (f" ({', '.join(marks)})" if marks else "") + (GIVEN if entry.get("given") else "")


def _differ(what: str, runs: Sequence[Run], values: Sequence[str]) -> str:
    """The values, each with the runs that have it, as "n 297 (a, b), 500 (c)"; empty where all are equal."""
    texts = {run.label: text for run, text in zip(runs, values, strict=True)}
    return describe(what, texts) if len(set(values)) > 1 else ""


def summary_table(runs: Sequence[Run]) -> Table:
    """What the runs had reached at their end."""
    names = {"iterations": "iterations", "seconds": "seconds", "images_per_second": "images/s"}
    finals = [run.summary.get("final", {}) for run in runs]
    rows = [[name, *(format_number(run.summary.get(key)) for run in runs)] for key, name in names.items()]
    rows += [[name, *(format_number(final.get(name)) for final in finals)] for name in _union(finals)]
    caption = "of the last iteration; no winners, because runs may minimise different losses"
    return Table("End of training", ["value", *(run.label for run in runs)], rows, caption)


def _notes(runs: Sequence[Run], tags: Sequence[str]) -> Iterator[str]:
    """What is missing, and what else a reader must know."""
    for run in runs:
        command, setting = f"`{program('evaluate')} {run.folder}`", run.evaluation["setting"]
        if "complete" not in run.evaluation:
            yield f"{run.label} has no {report.FILE}: {command} would add its values."
        elif not run.evaluation["complete"]:
            yield f"The evaluation of {run.label} is incomplete, values may be missing: {command} goes on."
        file = run.folder / "checkpoints" / str(setting.get("checkpoint"))
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != setting.get("checkpoint_sha256"):
            yield f"{run.label} was evaluated before its {file.name} was last written: {command} evaluates it anew."
        yield from (f"{run.label}: {group} failed: {why}" for group, why in run.evaluation["failed"].items())
        if not run.summary:
            yield f"{run.label} has no {SUMMARY}: it has not finished."
        if absent := [f"curve of {tag}" for tag in tags if tag not in run.curves] if run.curves else ["event files"]:
            yield f"{run.label} has no {', no '.join(absent)}: left out of the plot."
    ended = [run for run in runs if run.summary]
    places = [run.summary.get("environment", {}) for run in ended]
    apart = [_differ(key, ended, [str(place.get(key, MISSING)) for place in places]) for key in _union(places)]
    if any(apart):
        yield f"Trained in different environments, which moves times and last digits: {'; '.join(filter(None, apart))}."


def markdown(runs: Sequence[Run], tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The page."""
    parts = [f"# {', '.join(run.label for run in runs)}", f"![samples and curves]({PICTURE})"]
    for table in tables:
        lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows] if table.rows else []
        drawn = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
        parts += [f"## {table.title}", "\n".join(f"| {line} |" for line in drawn), table.caption]
    parts += ["## Notes" if notes else "", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def show(tables: Sequence[Table], notes: Sequence[str]) -> None:
    """Tables and notes on the terminal."""
    console = Console(highlight=False)
    for title, head, rows, caption in tables:
        drawn = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for k, name in enumerate(head):
            drawn.add_column(Text(name), justify="right" if k else "left", overflow="fold", no_wrap=not k)
        for row in rows:
            drawn.add_row(*(Text(cell, "bold green" if cell.endswith(BEST) else "") for cell in row))
        console.print(drawn if rows else f"{title}: ", caption, sep="", end="\n\n" if caption else "\n")
    console.print("\n".join(f"- {note}" for note in notes), markup=False, soft_wrap=True)


if __name__ == "__main__":
    start("compare")
