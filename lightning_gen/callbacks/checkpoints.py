"""Saves last.ckpt and best.ckpt, and turns signals into a clean stop; both only between two iterations."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lightning_gen.cluster.launch import detect_launch, status_after
from lightning_gen.cluster.signals import STOP_SIGNALS, TIME_LIMIT_SIGNAL, SignalHandler
from lightning_gen.cluster.slurm import is_preempted, requeue
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.exits import Stopped
from lightning_gen.storage.checkpoints import BEST, CONFIG, LAST
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.speed import iterations_per_batch

if TYPE_CHECKING:
    from lightning_gen.callbacks.watch import Watch

HIGHER = ("val/elbo",)  # values of ours that are the better the higher
AGREE = (0.5, 20)  # seconds, and at most so many iterations, between two all-reduces of the pending signal


class Checkpoints(Checkpoint):
    """``last.ckpt`` every so many iterations, at each validation and at the end; ``best.ckpt`` by a validation value.

    Args:
        folder: where they are written.
        every: iterations between two saves.
        monitor: names of validation values; ``best.ckpt`` has the best of the first that there is. Without one there
            is no ``best.ckpt``. The best is the lowest, of "max:val/NAME" and of those in ``HIGHER`` the highest.
        monitor_required: raise if the monitored value is not logged.
        watch: whose values come after those of ``monitor``; their names may be known only when the data are.
        signals: the handler that is installed already, and that its owner restores.
        config: of the run, as plain values, which each checkpoint holds so that a resumed run is the same experiment.
    """

    def __init__(
        self,
        folder: Path,
        every: int = 500,
        monitor: Sequence[str] = ("val/loss",),
        monitor_required: bool = False,
        watch: Watch | None = None,
        signals: SignalHandler | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.every, self.monitor_required, self.watch = folder, every, monitor_required, watch
        self.candidates = [name.removeprefix("max:") for name in monitor]
        self.highest = {name.removeprefix("max:") for name in monitor if name.startswith("max:") or name in HIGHER}
        self.monitor = self.candidates[0]
        self.best: float | None = None
        self.best_iteration = 0
        self.final: dict[str, float] = {}  # values of the last validation
        self.final_iteration = 0  # of that
        self.config = config
        self.saved = -1
        self.signals, self._owns_signals = signals or SignalHandler(), signals is None
        self._next_question, self._last = 0, (0, 0.0)

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
        self.final = {name: float(value) for name, value in known.items() if name.startswith("val/")}
        self.final_iteration = pl_module.iteration
        if self.monitor_required and self.monitor not in known:
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
            status = status_after(signum, detect_launch(), trainer.is_global_zero)
            raise Stopped(signum, self.folder.parent, self._requeued(trainer, signum), status)

    # Signals

    def on_fit_start(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        self._check_together(trainer, pl_module)  # here, because a rank that has nothing left to do starts no training

    def on_train_start(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        # Lightning counts batches, of which one may hold several iterations, and another number than before the resume.
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        shift = pl_module.iteration // iterations_per_batch(trainer) - total.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(total, name, getattr(total, name) + shift)
        self._next_question, self._last = pl_module.iteration + 1, (pl_module.iteration, time.monotonic())
        self.signals.install(*STOP_SIGNALS, TIME_LIMIT_SIGNAL)

    @staticmethod
    def _check_together(trainer: L.Trainer, model: GenerativeModule) -> None:
        """Refuse ranks that have read different checkpoints."""
        if trainer.world_size == 1:
            return
        ends = torch.tensor([model.iteration, -model.iteration], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
        latest, earliest = int(ends[0]), -int(ends[1])
        if latest != earliest:
            raise UserError(
                f"the ranks go on from different iterations, {earliest:,} to {latest:,}: tb_logs/ must be one folder "
                "that all nodes share"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._owns_signals:
            self.signals.restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, Stopped):  # which a second signal must not turn into another end
            self.signals.restore()

    def _agreed_signal(self, trainer: L.Trainer, model: GenerativeModule) -> int:
        """The signal at which all ranks stop at this boundary, 0 for none."""
        if trainer.world_size == 1:
            return self.signals.pending
        if model.iteration < self._next_question:
            return 0
        request = torch.tensor([self.signals.pending, self._pause(model)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(request, torch.distributed.ReduceOp.MAX)
        signum, pause = request.tolist()
        self._next_question, self._last = model.iteration + pause, (model.iteration, time.monotonic())
        return signum

    def _pause(self, model: GenerativeModule) -> int:
        """Iterations until the next all-reduce of the pending signal, by the speed since the last one."""
        seconds, most = AGREE
        iteration, when = self._last
        per_iteration = (time.monotonic() - when) / max(1, model.iteration - iteration)
        return max(1, min(most, int(seconds / max(per_iteration, 1e-6))))

    def _requeued(self, trainer: L.Trainer, signum: int) -> bool:
        """Under Slurm, before the time limit and when preempted: whether the job is in the queue again."""
        if "SLURM_JOB_ID" not in os.environ:
            return False
        wanted = trainer.is_global_zero and (signum == getattr(signal, TIME_LIMIT_SIGNAL, 0) or is_preempted())
        reason = requeue() if wanted else ""
        trainer.strategy.barrier()  # all leave together, because the first to leave may end the others
        if reason:
            print(f"the job could not be put back into the queue: {reason}", flush=True)
        return wanted and not reason

    # State

    def state_dict(self) -> dict[str, Any]:
        chosen = {"best": self.best, "best_iteration": self.best_iteration, "monitor": self.monitor}
        return {**chosen, "final": self.final, "final_iteration": self.final_iteration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_iteration = state_dict["best"], state_dict["best_iteration"]
        self.monitor = state_dict.get("monitor", self.monitor)  # which checkpoints of 0.1 lack, as they do the next
        self.final = dict(state_dict.get("final", {}))
        self.final_iteration = state_dict.get("final_iteration", 0)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:  # no part of the callback's state, which would be compared where only the experiment's name differs
        if self.config is not None:
            checkpoint[CONFIG] = self.config
