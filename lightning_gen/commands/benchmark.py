"""Train and measure models under one budget: scripts/benchmark.py."""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gen.benchmarking import results, rows
from lightning_gen.benchmarking.benchmark import MEASURE, Benchmark, Call, Cell
from lightning_gen.benchmarking.cells import (
    CellFailed,
    Interrupted,
    Outcome,
    ProcessRunner,
    config_from_arguments,
    fit,
    record_failure,
    run_cell,
    summary_of,
)
from lightning_gen.benchmarking.page import write_page
from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser, parse_short_options
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.paths import to_text
from lightning_gen.evaluation.groups import check_metrics
from lightning_gen.evaluation.solving import OPTIONS
from lightning_gen.presets import PRESETS

SECONDS, ITERATIONS, IMAGES = "seconds", "iterations", "images"
UNITS = {
    **{"s": (SECONDS, 1), "m": (SECONDS, 60), "h": (SECONDS, 3600), "it": (ITERATIONS, 1)},
    **{"img": (IMAGES, 1), "kimg": (IMAGES, 1_000), "Mimg": (IMAGES, 1_000_000)},
}
CALIBRATION = 10.0  # seconds of training that turn a time into iterations
MOST_SEEDS = 10_000
# of evaluate.py's options those that a benchmark hands on
MEASURES = ("n", "k", "draws", "device", "extractor", "segmenter", *OPTIONS)
FIT_OPTIONS = (
    "val_every",
    "save_every",
    "watch",
    "best_by",
    "on_collapse",
)  # of fit.py's short options those that a benchmark hands on


class Budget(NamedTuple):
    """How long each cell trains: an amount of seconds, iterations or images, and how it was written."""

    text: str
    amount: float
    kind: str


def main(argv: list[str], call: Call | None = None) -> None:
    """Parse, run the cells that are not finished, write RESULTS.md."""
    given, rest = _parse(argv)
    if given.table:
        print(write_page(given.results))
        return
    processes = ProcessRunner()
    b, budget = _benchmark(given, rest, call or processes)
    models = list(b.rows)
    lines = [line for model in models for line in _check(b, budget, model)]  # mistakes show before anything runs
    for line in [*_shared_options(b), *lines]:
        print(line, flush=True)
    with processes.stopping():
        failed = run_cells(b, budget, models, given.seeds, given.jobs)
    if failed:
        raise UserError(f"these cells failed, and the same command tries them again: {', '.join(failed)}")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog=program("benchmark"),
        description="Train models under one budget, measure them, and write RESULTS.md. Finished cells (a model with a "
        "seed) are not run again, others go on: remove a cell's file to have it made anew.",
        epilog="Further options go to fit: --data.root FOLDER, --model.lr 1e-4, --val_every 500, ...; or to "
        "evaluate: --evaluate.draws=500000, --evaluate.k=100,1000, ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        type=to_text,
        help="the rows: configuration files of your own, such as mine.yaml, as fit --print_config writes them, and "
        f"names of the list of models: {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--data", metavar="NAME", type=to_text, default="digits", help="of the list of data sets (default digits)"
    )
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="seeds 0 to N - 1 (default 3)")
    parser.add_argument(
        "--budget", default="10m", help="time, iterations or images of each cell: 90s, 10m, 2h, 5000it, 2Mimg (10m)"
    )
    parser.add_argument("--only", nargs="+", metavar="METRIC", help="measure only these, as evaluate --metrics")
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="cells at once (default 1)")
    parser.add_argument("--trust", nargs="+", default=[], help="your own modules that a checkpoint may import")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        default=results.FOLDER,
        help=f"of the cells (default {results.FOLDER})",
    )
    parser.add_argument("--table", action="store_true", help="only write RESULTS.md from the cells that are there")
    given, rest = parser.parse_known_args(argv)
    if given.seeds > MOST_SEEDS:
        raise UserError(f"--seeds {given.seeds}: at most {MOST_SEEDS:,}")
    for name in ("seeds", "jobs"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} {getattr(given, name)}: it must be at least 1")
    return given, [word for word in rest if word != "--"]


def _benchmark(given: argparse.Namespace, rest: list[str], call: Call) -> tuple[Benchmark, Budget]:
    """The call's settings, checked."""
    if not given.models:
        raise UserError(f"which models? give --models NAME NAME ...; known: {', '.join(sorted(PRESETS))}")
    for name in parse_short_options([word for word in rest if not word.startswith(f"--{MEASURE}")])[0]:
        if name not in FIT_OPTIONS:
            raise UserError(f"--{name} is not used here: a benchmark has --models, --data, --seeds and --budget")
    check_metrics(given.only or ())
    measured = [word for word in rest if word.startswith(f"--{MEASURE}")]
    for word in measured:
        name = word.removeprefix(f"--{MEASURE}").partition("=")[0]
        if name not in MEASURES:
            raise unknown("option of evaluate", name, MEASURES)
    budget = parse_budget(given.budget)
    named = rows.read_rows(given.models, given.data)
    b = Benchmark(given.data, budget.text, call, rest, given.only, given.trust, given.results, named)
    for name, value in {"data": b.data, **b.options}.items():
        if rows.is_absolute(value):
            raise UserError(f"--{name} {value}: results hold no paths of one machine, so give a relative one")
    return b, budget


def _check(b: Benchmark, budget: Budget, model: str) -> list[str]:
    """Whether a row's runs and files fit the request, raises UserError if not; what is to be said of the row."""
    steps = fixed_iterations(budget, config_from_arguments(b.fit_arguments(Cell(model, 0, 1))))
    config = config_from_arguments(b.fit_arguments(Cell(model, 0, steps or 1)))
    file = b.rows[model]
    if file:
        rows.check_data(file, b.data, config, b.fit_options)
        rows.check_trust(file, b.trust)
    b.existing_records(model)
    return rows.notes(file, b.data, config, b.fit_options) if file else []


def _shared_options(b: Benchmark) -> list[str]:
    """That options of the command line hold for all rows, where it has some."""
    options = " ".join(f"--{name}={value}" for name, value in b.fit_options.items())
    return [f"for all {len(b.rows)} rows: {options}"] if options and len(b.rows) > 1 else []


def parse_budget(text: str) -> Budget:
    """ "10m" -> 600 seconds, "5000it" -> 5,000 iterations, "2Mimg" -> 2,000,000 images.

    Raises:
        UserError: it is none of these.
    """
    found = re.fullmatch(rf"((?:0|[1-9]\d*)(?:\.\d+)?)({'|'.join(UNITS)})", text)
    kind, size = UNITS[found.group(2)] if found else ("", 0)
    amount = float(Decimal(found.group(1)) * size) if found else 0.0
    if amount <= 0 or (kind != SECONDS and not amount.is_integer()):
        raise UserError(
            f"--budget {text}: give a time such as 90s, 10m or 2h, iterations such as 5000it, or images such as "
            "500kimg or 2Mimg"
        )
    return Budget(text, amount, kind)


def fixed_iterations(budget: Budget, config: dict[str, Any]) -> int | None:
    """The iterations of a budget with this configuration; None if it is a time.

    Raises:
        UserError: images of data whose batch size is not known.
    """
    if budget.kind == SECONDS:
        return None
    if budget.kind == ITERATIONS:
        return int(budget.amount)
    batch = config["data"]["init_args"].get("batch_size")
    if not batch:
        raise UserError(f"--budget {budget.text}: the batch size of {config['dataset']} is not known; give iterations")
    return max(1, int(budget.amount) // batch)


def round_down(iterations: float) -> int:
    """The largest number of two significant digits that is not above; at least 1."""
    whole = max(1, int(iterations))
    place = 10 ** max(0, len(str(whole)) - 2)
    return whole // place * place


def iterations_of(b: Benchmark, budget: Budget, model: str) -> int:
    """The length of a model's runs: of its cells that are there, so that all seeds train alike, else measured.

    Raises:
        CellFailed: it could not be measured.
        Interrupted: the measurement was told to stop.
    """
    fixed = fixed_iterations(budget, config_from_arguments(b.fit_arguments(Cell(model, 0, 1))))
    if fixed is not None:
        return fixed
    for record in b.existing_records(model):
        if steps := record.get("iterations"):
            return steps
    return round_down(budget.amount * iterations_per_second(b, model, min(CALIBRATION, budget.amount)))


def iterations_per_second(b: Benchmark, model: str, wanted: float) -> float:
    """The speed of training, without validations, in a run that takes about so many seconds.

    Raises:
        CellFailed: the model does not train.
        Interrupted: it was told to stop.
    """
    steps, seconds = 20, 0.0
    for _ in range(3):  # of the first, setting up is a large part
        cell = Cell(model, 0, steps)
        folder = fit(b, cell, b.fit_arguments(cell, name=f"{b.run_name(model)}-calibration", val_every=steps))
        summary = summary_of(folder)
        shutil.rmtree(folder.parent)  # holds nothing else
        seconds = summary["images"] / summary["images_per_second"]
        if seconds >= wanted / 2:
            break
        steps = 10 * math.ceil(steps * wanted / seconds / 10)  # a multiple of what the Trainer counts as one batch
    return summary["iterations"] / seconds


def run_cells(b: Benchmark, budget: Budget, models: Sequence[str], seeds: int, jobs: int = 1) -> list[str]:
    """Run all cells, some at once, and write RESULTS.md; returns the failed ones."""
    outcomes: dict[tuple[str, int], Outcome] = {}
    order = [(model, seed) for model in models for seed in range(seeds)]

    def note(model: str, seed: int, outcome: Outcome) -> None:
        outcomes[model, seed] = outcome
        place = order.index((model, seed)) + 1
        print(f"[{place}/{len(order)}] {model} seed {seed}: {outcome.text}", flush=True)

    cells: list[Cell] = []
    for model in models:
        try:
            steps = iterations_of(b, budget, model)
        except (CellFailed, Interrupted) as reason:
            for seed in range(seeds):
                note(model, seed, record_failure(b, {**b.identity(model, seed), "only": b.only}, str(reason)))
        else:
            print(f"{model}: {b.budget} = {steps:,} iterations", flush=True)
            cells += [Cell(model, seed, steps) for seed in range(seeds)]
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(run_cell, b, cell): cell for cell in cells}
        for future in as_completed(futures):
            note(futures[future].model, futures[future].seed, future.result())
    except KeyboardInterrupt:
        print("\nstopping after the running cells have saved; the same command goes on", flush=True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        print(write_page(b.folder), flush=True)
    return [f"{model} seed {seed}" for model, seed in order if outcomes[model, seed].failed]


if __name__ == "__main__":
    start("benchmark")
