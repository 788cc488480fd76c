"""Threads of the CPU, chosen by the work of an iteration: of little work most is waiting for each other.

    threads = FLOPs of an iteration / PER_THREAD, at least 1 and at most the cores of a process

docs/architecture.md holds the measurement, benchmarks/threads.py repeats it. Sums over several threads differ in the
last digits, so the number is stored with the run and taken over when it goes on.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.loader import cores
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.training.noise import BatchNoise

VARIABLE = "OMP_NUM_THREADS"
PER_THREAD = 4e9  # FLOPs of an iteration that are worth a thread


class Threads(NamedTuple):
    """A number of threads, and why, in words."""

    number: int
    reason: str


def checked(asked: Any) -> int | str | None:
    """The value of ``--threads``: a number of at least 1, "auto", or None where it was not given.

    Raises:
        UserError: it is none of these.
    """
    if asked in (None, "auto"):
        return asked
    text = str(asked)
    if isinstance(asked, bool) or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 4096:
        raise UserError(f"--threads {asked}: give auto, or a number of at least 1")
    return int(text)


def choose(asked: int | str | None, model: Any, batch_size: int, processes: int = 1) -> Threads:
    """The threads of a process in a run on the CPU.

    Args:
        asked: as of ``checked``; None is "auto".
        model: a ``GenerativeModule``, which is not changed.
        batch_size: of the global batch.
        processes: of the run on this machine, which share its cores.
    """
    if isinstance(asked, int):
        return Threads(asked, "--threads")
    if os.environ.get(VARIABLE):
        return Threads(torch.get_num_threads(), VARIABLE)
    most = max(1, min(cores(), torch.get_num_threads()) // processes)
    share = batch_size // processes
    if most == 1:
        return Threads(1, "of 1 core for each process" if processes > 1 else "of 1 core")
    try:
        flops = flops_per_iteration(model, share)
    except Exception as error:  # of a model of the user's own, which may need more than a batch and noise
        return Threads(1, f"the work of an iteration could not be counted: {type(error).__name__}")
    return Threads(max(1, min(most, int(flops / PER_THREAD))), f"{flops / 1e9:.3g} GFLOP an iteration, {most} cores")


class _Counter(TorchDispatchMode):
    """Adds up FLOPs; torch's FlopCounterMode also follows modules, which gradients of gradients do not allow."""

    flops = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops_per_iteration(model: Any, batch_size: int) -> float:
    """FLOPs of the products and convolutions, forwards and backwards, of one loss of each player.

    Counted on a copy of the model with two small batches, whose difference is the work for each example, in less time
    than an iteration takes. Nothing is drawn from the default generators.
    """
    few = max(2, model.batch_multiple)
    least, more = (_flops(model, count) for count in (few, 2 * few))
    return least + (more - least) / few * (batch_size - few)


def _flops(model: Any, count: int) -> float:
    """The same for a batch of so many random examples."""
    twin = copy.deepcopy(model).train()
    twin._noise, twin.total = BatchNoise(0), twin.total or 1
    alone = SimpleNamespace(reduce=lambda x, **_: x, all_gather=lambda x, **_: x)
    twin._trainer = SimpleNamespace(strategy=alone, world_size=1, global_rank=0, precision="32-true")
    batch = random_batch(twin.spec, count)
    shared: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), _Counter() as counter:
        for player in twin.players:
            loss, _ = getattr(twin, f"loss_{player}")(batch, shared)
            loss.backward()
    return counter.flops


def random_batch(spec: DataSpec, count: int) -> dict[str, Tensor]:
    """Examples as they reach a model, without any data."""
    generator = torch.Generator().manual_seed(0)
    sides = {"a": spec.shape, "b": spec.shape_b} if spec.has_two_sides else {"x": spec.shape}
    batch = {name: torch.rand(count, *shape, generator=generator) * 2 - 1 for name, shape in sides.items()}
    if spec.values == "tokens":
        batch = {name: torch.zeros(x.shape, dtype=torch.int64) for name, x in batch.items()}
    batch["index"] = torch.arange(count)
    if spec.num_classes:
        batch |= {"y": torch.arange(count) % spec.num_classes}
    if spec.condition == "text":
        batch |= {"text": torch.zeros(count, *spec.condition_shape, dtype=torch.int64)}
    return batch


def use(threads: Threads, processes: int = 1) -> None:
    """Compute with them from here on; Lightning's launcher and the processes that it starts do so too."""
    torch.set_num_threads(threads.number)
    if processes > 1:
        os.environ[VARIABLE] = str(threads.number)


def follow(config: Mapping[str, Any]) -> None:
    """Compute with the threads of a run's configuration, but for a number of the user's own in the environment."""
    count = config.get("threads")
    if isinstance(count, int) and count >= 1 and not os.environ.get(VARIABLE):
        torch.set_num_threads(min(count, cores()))
