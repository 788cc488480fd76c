"""Metrics of the user's own: functions of reference and samples, by their import path."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.evaluation.quality import Measured
from lightning_gen.evaluation.values import Value
from lightning_gen.metrics.base import GatherColumns
from lightning_gen.names import resolve, source_sha256

Function = Callable[[Tensor, Tensor], Mapping[str, Any]]
BETTER = r"lower|higher|near [-+]?[\d.]+"


def metric(path: str) -> tuple[Callable[[EvaluationRun], Measured], str]:
    """What measures a function ``(real, fake) -> {name: number}``, and what it says of itself in one line.

    Both arguments are examples as they are compared, (N, *shape) on the CPU, of all processes: images as uint8 in
    [0, 255], those of a range of their own (of more bits) as float32 in [-1, 1], all else as float32 in the units of
    the data. The floor is the same function of other real examples in the place of the samples. Gradients are on, the
    random numbers of torch begin with the evaluation's seed, and the arguments are copies. An attribute
    ``better = {name: "lower"}`` of the function (or "higher", "near X") lets values be ranked.

    Args:
        path: of the function, "my_metrics.sharpness".

    Raises:
        UserError: it cannot be imported or called, or ``better`` says something else.
    """
    function: Any = resolve(path, {}, "metric")
    better = getattr(function, "better", {})
    if not callable(function):
        raise UserError(f"the metric {path} is a {type(function).__name__}: it must be a function of (real, fake)")
    if not isinstance(better, Mapping) or not all(re.fullmatch(BETTER, str(way)) for way in better.values()):
        raise UserError(f'{path}.better is {better!r}: it must be like {{"name": "lower"}}, "higher" or "near 1"')
    about = next(iter((inspect.getdoc(function) or "").splitlines()), "without a docstring")

    def measure(s: EvaluationRun) -> Measured:
        fake, real, others = (_gather(s, source) for source in ("generated", "reference", "floor"))
        own, floor = (_call(function, path, s, real, examples) for examples in (fake, others))
        if strange := [name for name in [*better, *floor] if name not in own]:
            raise UserError(f"{path} gives {', '.join(own)} of the samples, and not {', '.join(strange)}")
        for name, value in own.items():
            how = f"{about} ({path}){s.remark}"
            yield f"{_name(path)}.{name}", Value(value, s.n, how, better.get(name), floor.get(name))

    return measure, about


def check_names(paths: Sequence[str]) -> None:
    """Refuse functions of one name, of which the values would have one name too.

    Raises:
        UserError: that names two.
    """
    known: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        if other := known.get(_name(path)):
            raise UserError(
                f"the values of {other} and of {path} would have the same names: rename one of the functions"
            )
        known[_name(path)] = path


def code_hashes(paths: Sequence[str]) -> dict[str, str | None]:
    """Import path of each function -> SHA-256 of the file of its module; None where there is none."""
    return {path: _code_hash(path) for path in paths}


def _code_hash(path: str) -> str | None:
    resolve(path, {}, "metric")
    parts = path.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    file = getattr(next(sys.modules[name] for name in names if name in sys.modules), "__file__", None)
    return source_sha256(Path(file)) if file and Path(file).suffix == ".py" else None


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _gather(s: EvaluationRun, source: str) -> Tensor:
    """The examples (N, *shape) of a source, of all processes."""
    rows = GatherColumns("x")

    def local() -> None:
        for examples in s._examples(source):
            if len(examples.x):  # some could be read
                rows.update(x=examples.x)

    s.run_on_all_ranks(local)
    return rows.compute()["x"]


def _call(function: Function, path: str, s: EvaluationRun, real: Tensor, fake: Tensor) -> dict[str, float]:
    """The function's values, computed by the first process for all."""

    def local() -> dict[str, float]:
        if s.rank:
            return {}
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed)
            return _numbers(function(real.clone(), fake.clone()), path)

    box = [s.run_on_all_ranks(local)]
    if s.world > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _numbers(found: Any, path: str) -> dict[str, float]:
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} gives {_shown(found)}: it must give numbers by name, a dict that is not empty")
    numbers = {}
    for name, value in found.items():
        try:
            numbers[str(name)] = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, RuntimeError):  # the last of a tensor of several numbers
            raise UserError(f"{path}: {name} is {_shown(value)}: it must be one number") from None
        if not math.isfinite(numbers[str(name)]):
            raise UserError(f"{path}: {name} is {_shown(value)}: it must be a finite number")
    return numbers


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:60]
