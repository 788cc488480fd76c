"""The settings of a benchmark, and the names that follow from them: of cells' files, of runs, of commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gen.benchmarking import results
from lightning_gen.benchmarking.results import read_cell
from lightning_gen.benchmarking.rows import ConfigFile, is_local
from lightning_gen.datamodules.errors import UserError, program

MEASURE = "evaluate."  # options so named are evaluate.py's

Call = Callable[[list[str], Path], int]


class Cell(NamedTuple):
    """A model with a seed, and the length of its run."""

    model: str
    seed: int
    iterations: int


@dataclass
class Benchmark:
    """The settings shared by the cells of one call.

    Args:
        data: name of the data.
        budget: of each cell, as it was written.
        call: runs a command, appends its output to a log, gives its exit status.
        arguments: further ones of fit.py.
        only: groups of metrics; None for all.
        trust: modules of the user's own that a checkpoint may import.
        folder: of the cells' files.
        rows: name -> its configuration file; a row without one is a model of that name.
    """

    data: str
    budget: str
    call: Call
    arguments: Sequence[str] = ()
    only: list[str] | None = None
    trust: Sequence[str] = ()
    folder: Path = results.FOLDER
    rows: Mapping[str, ConfigFile | None] = field(default_factory=dict)

    @cached_property
    def options(self) -> dict[str, str]:
        """Those of the arguments that may change results."""
        pairs = sorted(option_pairs(self.arguments).items())
        return {name: value for name, value in pairs if not is_local(name, self.data)}

    @property
    def evaluate_arguments(self) -> list[str]:
        """evaluate.py's arguments: those written --evaluate.NAME, several values with commas."""
        own = {name: value for name, value in self.options.items() if name.startswith(MEASURE)}
        return [w for name, value in own.items() for w in (_flag(name.removeprefix(MEASURE)), *value.split(","))]

    @cached_property
    def fit_options(self) -> dict[str, str]:
        """Those of the arguments that are fit.py's."""
        return {name: value for name, value in option_pairs(self.arguments).items() if not name.startswith(MEASURE)}

    def run_name(self, model: str) -> str:
        """The end of the names of a row's run folders."""
        trained = {name: value for name, value in self.options.items() if not name.startswith(MEASURE)}
        words = ["benchmark", self.budget, *results.tag_of(trained), *([model] if self.rows.get(model) else [])]
        return re.sub(r"[^\w-]+", "_", "-".join(words)).lower()

    def path(self, model: str, seed: int) -> Path:
        """The cell's file."""
        return results.cell_path(self.folder, self.data, model, self.budget, self.options, seed)

    def identity(self, model: str, seed: int) -> dict[str, Any]:
        """The key of a cell; of a configuration file with what is in it."""
        shared = {"data": self.data, "budget": self.budget, "options": self.options}
        file = self.rows.get(model)
        return {"model": model, **shared, "seed": seed, **({"config": file.record} if file else {})}

    def existing_record(self, model: str, seed: int) -> dict[str, Any] | None:
        """The cell's file, if there is one; None also where nothing was measured with an earlier configuration file.

        Raises:
            UserError: it is damaged, another cell's whose name looks the same, or of other content of the file.
        """
        path, file = self.path(model, seed), self.rows.get(model)
        cell = read_cell(path) if path.exists() else None
        if cell is None:
            return None
        asked = {key: value for key, value in self.identity(model, seed).items() if key != "config"}
        if {key: cell[key] for key in asked} != asked or ("config" in cell and not file):
            other = f"--models {cell.get('config', {}).get('file', cell['model'])} --data {cell['data']}"
            raise UserError(f"{path} is the file of {other} already: give another folder, --results FOLDER")
        changes = file.changes(cell.get("config")) if file else []
        if file and changes and "evaluation" in cell:
            what = f"was made by other content of {file.path} ({', '.join(changes)})"
            raise UserError(f"{path} {what}: give the file another name, or remove the cells of {model}")
        return None if changes else cell

    def existing_records(self, model: str) -> list[dict[str, Any]]:
        """Those of all seeds.

        Raises:
            UserError: as for one.
        """
        first = self.path(model, 0)
        start = first.name.removesuffix("0.json")
        seeds = [path.stem.removeprefix(start) for path in first.parent.glob(f"{start}*.json")]
        found = (self.existing_record(model, int(seed)) for seed in sorted(seeds) if seed.isdecimal())
        return [record for record in found if record]

    def fit_arguments(self, cell: Cell, **more: Any) -> list[str]:
        """fit.py's arguments for a cell's run; ``more`` are options that the user's own stand over."""
        file = self.rows.get(cell.model)
        own: dict[str, Any] = {"config": file.path} if file else {"model": cell.model}
        own |= {"data": self.data, "steps": cell.iterations, "seed": cell.seed, "name": self.run_name(cell.model)}
        words = [word for key, value in (own | more).items() for word in (f"--{key}", str(value))]
        return [*words, *(f"--{name}={value}" for name, value in self.fit_options.items())]

    def command(self, cell: Cell) -> str:
        """What a user types to get a cell's result again."""
        file = self.rows.get(cell.model)
        row = ["--config", file.shown] if file else ["--model", cell.model]
        length = ["--steps", str(cell.iterations), "--seed", str(cell.seed)]
        options = [f"--{name}={value}" for name, value in self.options.items() if not name.startswith(MEASURE)]
        train = [*program("fit").split(), *row, "--data", self.data, *length, *options]
        only = [*self.evaluate_arguments, *(["--metrics", *self.only] if self.only else [])]
        return f"{shlex.join(train)} && {shlex.join([*program('evaluate').split(), 'RUN', *only])}"


def _flag(name: str) -> str:
    return f"-{name}" if len(name) == 1 and name != "k" else f"--{name}"


def option_pairs(arguments: Sequence[str]) -> dict[str, str]:
    """``--a.b value`` and ``--a.b=value`` -> {a.b: value}."""
    pairs, words = {}, iter(arguments)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        pairs[name] = value if equals else next(words, "")
    return pairs
