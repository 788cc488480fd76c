"""A cell of a benchmark: one model, trained under a budget with one seed, and evaluated.

Both are done by processes of their own, so that a crash harms no other cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gen.benchmarking import results
from lightning_gen.benchmarking.benchmark import Benchmark, Cell
from lightning_gen.benchmarking.results import duration, stability, write_cell
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.evaluation import report
from lightning_gen.evaluation.groups import ALL, METRICS, own_metrics
from lightning_gen.evaluation.own import code_hashes
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import find_checkpoint, read_checkpoint

LOGS = runs.ROOT / "benchmark"
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # exit status of a script that was told to stop
KEPT = ("value", "n", "k", "std", "floor", "better", "likelihood", "given", "how", "note")  # of evaluation.json


class Outcome(NamedTuple):
    """The outcome of a cell, in words."""

    text: str
    failed: bool = False


class CellFailed(Exception):
    """A script failed; the text is its last error."""


class Interrupted(Exception):
    """A script was told to stop."""


class ProcessRunner:
    """Runs commands, also side by side, and can stop them."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()

    def __call__(self, command: list[str], log: Path) -> int:
        """Run a command on one thread, unless the user says otherwise; its output goes to the log's end."""
        with log.open("ab") as file:
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        self.running.add(process)
        try:
            return process.wait()
        finally:
            self.running.discard(process)

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """A SIGTERM reaches the commands too; a Ctrl-C does so by itself."""

        def stop(*_: Any) -> None:
            for process in list(self.running):
                process.terminate()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


# Running


def run_cell(b: Benchmark, cell: Cell) -> Outcome:
    """Train and evaluate one cell, as far as this is not done, and write its file."""
    known = b.existing_record(cell.model, cell.seed)
    if known and known.get("iterations") not in (None, cell.iterations):
        known = None  # of another length
    if known and "failed" not in known and _covers(known, b.only):
        return Outcome("finished before, nothing to do")
    commit = results.commit()
    start = {**b.identity(cell.model, cell.seed), "iterations": cell.iterations, "only": b.only, "commit": commit}
    record = {**start, **(known or {"failed": "not finished"}), "iterations": cell.iterations}
    write_cell(b.path(cell.model, cell.seed), record)
    try:
        folder, goes_on = train(b, cell, known is not None)
        began = time.perf_counter()
        only = _both(record["only"], b.only) if "evaluation" in record else b.only
        evaluation, reason = evaluate(b, cell, folder, only)
    except Interrupted:
        return Outcome("stopped before it was finished", failed=True)
    except CellFailed as error:
        return record_failure(b, record, str(error))
    summary = summary_of(folder)
    evaluation["values"] |= stability(summary)
    finished = {
        **start,
        "only": only,
        **{key: summary[key] for key in ("images", "seconds", "images_per_second")},
        "evaluation": evaluation,
        "environment": summary["environment"],
        "commit": _joined(record["commit"], commit) if goes_on else commit,
        "date": datetime.now(UTC).date().isoformat(),
        "command": b.command(cell),
    }
    if reason:
        return record_failure(b, finished, reason)
    write_cell(b.path(cell.model, cell.seed), finished)
    trained = f"trained {cell.iterations:,} iterations in {duration(summary['seconds'])}"
    return Outcome(f"{trained}, evaluated in {duration(time.perf_counter() - began)}")


def record_failure(b: Benchmark, record: dict[str, Any], reason: str) -> Outcome:
    """Write a cell's file with the reason why the next call has to try again."""
    path = b.path(record["model"], record["seed"])
    write_cell(path, {**record, "failed": reason})
    return Outcome(f"failed: {reason} ({_log(path)})", failed=True)


def _covers(cell: Mapping[str, Any], asked: list[str] | None) -> bool:
    """Whether a finished cell holds all groups that are asked for, the user's own by the code of now."""
    done, wanted = set(cell["only"] or [ALL]), set(asked or [ALL])
    before, now = cell["evaluation"]["setting"].get(report.OWN, {}), code_hashes(own_metrics(asked or []))
    return wanted <= done | (set(METRICS) if ALL in done else set()) and now.items() <= before.items()


def _both(one: list[str] | None, two: list[str] | None) -> list[str] | None:
    names = [*dict.fromkeys([*(one or [ALL]), *(two or [ALL])])]
    if ALL not in names:
        return names
    own = own_metrics(names)
    return [ALL, *own] if own else None


def _joined(before: str | None, now: str | None) -> str | None:
    """The commits that a cell was made by, one after the other."""
    return ", ".join(dict.fromkeys(filter(None, [*(before or "").split(", "), now]))) or None


def train(b: Benchmark, cell: Cell, goes_on: bool) -> tuple[Path, bool]:
    """Train a cell, from where an earlier call left off if there is something to go on with.

    Args:
        b: the benchmark.
        cell: the cell.
        goes_on: whether an earlier call began it.

    Returns:
        the run's folder, and whether it is the earlier call's.

    Raises:
        CellFailed: it does not train.
        Interrupted: it was told to stop.
    """
    arguments = b.fit_arguments(cell)
    folder = _run_folder(arguments) if goes_on else None
    if folder and (folder / runs.SUMMARY).exists():
        return folder, True
    if folder and _can_go_on(folder, cell.iterations):
        run_script(b, cell, "fit", ["--resume", str(folder)])
        return folder, True
    return fit(b, cell, arguments), False


def fit(b: Benchmark, cell: Cell, arguments: list[str]) -> Path:
    """Run fit.py for a cell; returns the run's folder.

    Raises:
        CellFailed: it does not train.
        Interrupted: it was told to stop.
    """
    run_script(b, cell, "fit", arguments)
    folder = _run_folder(arguments)
    if folder is None or not (folder / runs.SUMMARY).exists():
        raise CellFailed(f"its run is not below {runs.ROOT}: did the program change meanwhile?")
    return folder


def config_from_arguments(arguments: list[str]) -> dict[str, Any]:
    """The configuration that fit.py makes of its arguments.

    Raises:
        UserError: an unknown model, data set or option.
    """
    return cli.resolve_config(*parse_short_options(arguments)).config


def _run_folder(arguments: list[str]) -> Path | None:
    """The latest run that fit.py began with these arguments."""
    config, found = config_from_arguments(arguments), []
    for folder in runs.ROOT.glob(f"*-{config['name']}/version_*"):
        with contextlib.suppress(UserError):  # killed before it wrote its configuration
            if runs.same_experiment(runs.read_config(folder), config):
                found.append(folder)
    return max(found, key=lambda folder: int(folder.name.removeprefix("version_")), default=None)


def _can_go_on(folder: Path, iterations: int) -> bool:
    """Whether there is a whole checkpoint of fewer iterations."""
    try:
        return read_checkpoint(find_checkpoint(folder, "last"))["lightning_gen"]["iteration"] < iterations
    except UserError:
        return False


def summary_of(folder: Path) -> dict[str, Any]:
    """summary.json of a finished run."""
    return json.loads((folder / runs.SUMMARY).read_text(encoding="utf-8"))


def evaluate(b: Benchmark, cell: Cell, folder: Path, only: list[str] | None) -> tuple[dict[str, Any], str]:
    """Evaluate a cell's run.

    Returns:
        what its file keeps of evaluation.json, and the reason why some groups of metrics are missing, else nothing.

    Raises:
        CellFailed: nothing could be measured.
        Interrupted: it was told to stop.
    """
    options = {"metrics": only or [], "trust": b.trust}
    words = [
        word for name, values in options.items() if values for word in (f"--{name}", *values)
    ] + b.evaluate_arguments
    reason = ""
    try:
        run_script(b, cell, "evaluate", [str(folder), *words])
    except CellFailed as error:
        if not (folder / report.FILE).exists():
            raise
        reason = str(error)
    content = report.read(folder / report.FILE)
    groups = {kind: content[kind].items() for kind in ("inapplicable", "failed")}
    missing = {kind: {group: without_paths(text) for group, text in found} for kind, found in groups.items()}
    values = {name: {key: value.get(key) for key in KEPT} for name, value in content["values"].items()}
    reasons = "; ".join(f"{group}: {text}" for group, text in missing["failed"].items())
    return {"setting": content["setting"], "values": values, **missing}, reasons or reason


def run_script(b: Benchmark, cell: Cell, command: str, arguments: list[str]) -> None:
    """Run a command of a cell; what it prints goes to the cell's log."""
    log = _log(b.path(cell.model, cell.seed))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {program(command)} {shlex.join(arguments)}\n")
    start = log.stat().st_size
    status = b.call(call_of(command, arguments), log)
    if status in STOPPED:
        raise Interrupted("stopped before it was finished")
    if status:
        raise CellFailed(last_error(log.read_bytes()[start:].decode(errors="replace"), status))


def call_of(command: str, arguments: Sequence[str]) -> list[str]:
    """A command with its arguments as a process of its own; an installed wheel has no scripts."""
    return [sys.executable, "-m", "lightning_gen", command, *arguments]


def _log(path: Path) -> Path:
    return LOGS / f"{path.stem}.log"


def last_error(output: str, status: int) -> str:
    """The last error in a script's output, in one line and without the paths of this machine."""
    if status < 0:
        hint = " (out of memory?)" if status == -getattr(signal, "SIGKILL", 9) else ""
        return f"killed by {signal.Signals(-status).name}{hint}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error: |[\w.]+(Error|Exception)\b", line)]
    text = next(reversed(errors or lines), f"exit status {status}").removeprefix("error: ")
    return without_paths(text)[:300]


def without_paths(text: str) -> str:
    """A text in which absolute paths are cut down to their last part, to be kept with the results."""
    return re.sub(r"(?<![\w/:.])(?:[A-Za-z]:[\\/]|/)(?:[^\s/\\'\"]+[\\/])+", "", text)
