"""The files of a benchmark's results: one JSON file for each cell.

A cell is one model, trained under one budget on one data set with one seed, and its evaluation.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning_gen.atomic import write_atomically
from lightning_gen.benchmarking.given import given_of_cell
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.files import read_text
from lightning_gen.evaluation.metric_names import base_of

ROOT = Path(__file__).resolve().parents[2]  # of the repository, or what a wheel is installed in
FOLDER, PAGE = Path("benchmarks/results"), Path("RESULTS.md")
FORMAT = 1

Cells = Sequence[Mapping[str, Any]]
Models = Mapping[str, Cells]  # the rows of a section, each with its cells of all seeds


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


def values_of(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """A cell's values; those of cells that do not say so are given the class where their model takes one."""
    values, told = cell["evaluation"]["values"], given_of_cell(cell)
    return {name: {"given": told.get(base_of(name)), **value} for name, value in values.items()}


def duration(seconds: float) -> str:
    """A time as it is read: 61 s, 12.5 min, 3.2 h."""
    for least, unit, size in ((7200, "h", 3600), (600, "min", 60)):
        if seconds >= least:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


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
