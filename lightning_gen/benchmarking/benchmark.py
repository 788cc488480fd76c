"""The settings of a benchmark, and the names that follow from them: of cells' files, of runs, of commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gen.benchmarking import results
from lightning_gen.benchmarking.results import read_cell
from lightning_gen.datamodules.errors import UserError, program

LOCAL = ("data.root", "data.num_workers")  # where and how the data are read, which changes no result
OWN_FILES = ("folder", "paired", "unpaired")  # data that their root defines
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
    """

    data: str
    budget: str
    call: Call
    arguments: Sequence[str] = ()
    only: list[str] | None = None
    trust: Sequence[str] = ()
    folder: Path = results.FOLDER

    @cached_property
    def options(self) -> dict[str, str]:
        """Those of the arguments that may change results."""
        pairs = sorted(option_pairs(self.arguments).items())
        return {name: value for name, value in pairs if name not in LOCAL or self.data in OWN_FILES}

    @property
    def evaluate_arguments(self) -> list[str]:
        """evaluate.py's arguments: those written --evaluate.NAME, several values with commas."""
        own = {name: value for name, value in self.options.items() if name.startswith(MEASURE)}
        return [w for name, value in own.items() for w in (_flag(name.removeprefix(MEASURE)), *value.split(","))]

    @property
    def name(self) -> str:
        """The end of the run folders' names."""
        trained = {name: value for name, value in self.options.items() if not name.startswith(MEASURE)}
        words = ["benchmark", self.budget, *results.tag_of(trained)]
        return re.sub(r"[^\w-]+", "_", "-".join(words)).lower()

    def path(self, model: str, seed: int) -> Path:
        """The cell's file."""
        return results.cell_path(self.folder, self.data, model, self.budget, self.options, seed)

    def identity(self, model: str, seed: int) -> dict[str, Any]:
        """The key of a cell."""
        shared = {"data": self.data, "budget": self.budget, "options": self.options}
        return {"model": model, **shared, "seed": seed}

    def existing_record(self, model: str, seed: int) -> dict[str, Any] | None:
        """The cell's file, if there is one.

        Raises:
            UserError: it is damaged, or another cell's whose name looks the same.
        """
        path, asked = self.path(model, seed), self.identity(model, seed)
        cell = read_cell(path) if path.exists() else None
        if cell and {key: cell[key] for key in asked} != asked:
            other = f"--models {cell['model']} --data {cell['data']}"
            raise UserError(f"{path} is the file of {other} already: give another folder, --results FOLDER")
        return cell

    def fit_arguments(self, cell: Cell, **more: Any) -> list[str]:
        """fit.py's arguments for a cell's run; ``more`` are options that the user's own stand over."""
        given = [
            f"--{name}={value}" for name, value in option_pairs(self.arguments).items() if not name.startswith(MEASURE)
        ]
        own = {"model": cell.model, "data": self.data, "steps": cell.iterations, "seed": cell.seed, "name": self.name}
        return [*(word for key, value in (own | more).items() for word in (f"--{key}", str(value))), *given]

    def command(self, cell: Cell) -> str:
        """What a user types to get a cell's result again."""
        length = ["--steps", str(cell.iterations), "--seed", str(cell.seed)]
        options = [f"--{name}={value}" for name, value in self.options.items() if not name.startswith(MEASURE)]
        train = [*program("fit").split(), "--model", cell.model, "--data", self.data, *length, *options]
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
