"""Saves last.ckpt and best.ckpt, and turns signals into a clean stop; both only between two iterations."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from datamodules.errors import unknown
from lightning_gen.checkpoints import BEST, LAST
from lightning_gen.module import GenerativeModule
from lightning_gen.speed import block_of

if TYPE_CHECKING:
    from lightning_gen.callbacks.watch import Watch

SIGNALS = ("SIGINT", "SIGTERM")
HIGHER = ("val/elbo",)  # values of ours that are the better the higher
AGREE_EVERY = 10  # iterations between two questions to the other ranks whether a signal came


class Stopped(Exception):
    """A signal stopped the run at an iteration boundary; everything is saved."""

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.folder = signum, folder


class Checkpoints(Checkpoint):
    """``last.ckpt`` every so many iterations, at each validation and at the end; ``best.ckpt`` by a validation value.

    Args:
        folder: where they are written.
        every: iterations between two saves.
        monitor: names of validation values; ``best.ckpt`` has the best of the first that there is. Without one there
            is no ``best.ckpt``. The best is the lowest, of "max:val/NAME" and of those in ``HIGHER`` the highest.
        must: whether it is a mistake if there is none.
        watch: whose values come after those of ``monitor``; their names may be known only when the data are.
    """

    def __init__(
        self,
        folder: Path,
        every: int = 500,
        monitor: Sequence[str] = ("val/loss",),
        must: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.folder, self.every, self.must, self.watch = folder, every, must, watch
        self.candidates = [name.removeprefix("max:") for name in monitor]
        self.highest = {name.removeprefix("max:") for name in monitor if name.startswith("max:") or name in HIGHER}
        self.monitor = self.candidates[0]
        self.best: float | None = None
        self.best_iteration = 0
        self.saved = -1
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)  # only the first rank made the run's folder

    # Boundaries: the only two places where anything is saved or stopped

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: GenerativeModule, *_: Any) -> None:  # type: ignore[override]
        if pl_module.iteration == pl_module.total:
            trainer.should_stop = True  # so that the last iteration is followed by a validation
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # else the boundary is after the validation
            self._boundary(trainer, pl_module, pl_module.iteration % self.every == 0 or trainer.should_stop)

    def on_validation_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        known = trainer.callback_metrics
        if self.must and self.monitor not in known:
            raise unknown("value to choose best.ckpt by", self.monitor, [name for name in known if "val/" in name])
        candidates = [*self.candidates, *(self.watch.names if self.watch else ())]
        self.monitor = next((name for name in candidates if name in known), self.monitor)
        value = known.get(self.monitor)
        if value is not None and self._is_best(float(value)):
            self.best, self.best_iteration = float(value), pl_module.iteration
            trainer.save_checkpoint(self.folder / BEST)
        self._boundary(trainer, pl_module, True)

    def _is_best(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        return value > self.best if self.monitor in self.highest else value < self.best

    def _boundary(self, trainer: L.Trainer, model: GenerativeModule, due: bool) -> None:
        signum = self._agreed_signal(trainer, model)
        if (due or signum) and self.saved != model.iteration:
            trainer.save_checkpoint(self.folder / LAST)
            self.saved = model.iteration
        if signum:
            raise Stopped(signum, self.folder.parent)

    # Signals

    def on_train_start(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        # Lightning counts batches, of which one may hold several iterations, and another number than before the resume.
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        shift = pl_module.iteration // block_of(trainer) - total.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(total, name, getattr(total, name) + shift)
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                signum = getattr(signal, name)
                self._handlers[signum] = signal.signal(signum, self._note)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, signum: int, _: Any) -> None:
        if self._signal:  # the second time at once
            self._restore()
            raise KeyboardInterrupt
        self._signal = signum
        print(f"\n{signal.Signals(signum).name}: saving after this iteration ...", flush=True)

    def _restore(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

    def _agreed_signal(self, trainer: L.Trainer, model: GenerativeModule) -> int:
        if trainer.world_size == 1:
            return self._signal
        if model.iteration % AGREE_EVERY:
            return 0
        stop = trainer.strategy.reduce_boolean_decision(bool(self._signal), all=False)
        return (self._signal or signal.SIGTERM) if stop else 0

    # State

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_iteration": self.best_iteration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_iteration = state_dict["best"], state_dict["best_iteration"]
