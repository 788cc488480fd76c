"""Reduces the overhead of an iteration without changing its results; benchmarks/overhead.py measures it."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_gen.datamodules.spec import DataSpec

BLOCK_BYTES = 2**24


class NoProfiler(PassThroughProfiler):
    """Measures nothing, and that without the 28 generators an iteration of Lightning's own."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()


def choose_iterations_per_batch(spec: DataSpec, batch_size: int, *boundaries: int) -> int:
    """Iterations that the Trainer may count as one batch, which saves its 0.4 ms for each of them.

    The largest number up to 10 that divides every boundary (validation, checkpoint, end), so that only the
    Trainer sees it; 1 where the batches are so large that these costs do not matter.
    """
    largest = BLOCK_BYTES // (4 * batch_size * math.prod(spec.shape))
    common = math.gcd(*boundaries)
    return max(k for k in range(1, 11) if k == 1 or (k <= largest and common % k == 0))


def iterations_per_batch(trainer: L.Trainer) -> int:
    """Iterations in one batch of the Trainer: the number that the data yield at once."""
    return getattr(getattr(getattr(trainer, "datamodule", None), "position", None), "batches_per_fetch", 1)


def can_bypass_lightning_hooks(model: L.LightningModule) -> bool:
    """Whether backward and step can be called directly: no wrapper, full precision, no user override of their hooks."""
    trainer, hooks = model.trainer, ("on_before_backward", "on_after_backward")
    unwrapped = isinstance(trainer.strategy, SingleDeviceStrategy) or hasattr(trainer.strategy, "average_gradients")
    plain = unwrapped and type(trainer.precision_plugin) is Precision
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    heard = any(is_overridden(hook, model, L.LightningModule) for hook in hooks)
    heard |= any(is_overridden(h, c, L.Callback) for h in (*hooks, "on_before_optimizer_step") for c in callbacks)
    return plain and not heard


def disable_sigterm_broadcast(trainer: L.Trainer) -> None:
    """Disable Lightning's broadcast in each batch of whether the first rank got SIGTERM.

    It waits for the device, and covers no other rank; callbacks/checkpoints.py checks all of them.
    """
    assert hasattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor")
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Removes two unrelated costs of a run, together 0.3 ms an iteration on a CPU."""
    if not torch.cuda.is_available():
        # Lightning sets this to 1: each step of an optimizer would look for the driver's library on the disk.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    gc.collect()
    gc.freeze()  # what is here now stays: the collector need not walk through all of torch again and again
    try:
        yield
    finally:
        gc.unfreeze()
