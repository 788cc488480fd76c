"""Progress of a run: one bar over all its iterations, images per second, and the time it took."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_gen.training.module import GenerativeModule

LINES = 10  # printed in a run where there is no terminal


class RunProgress(ProgressBar):
    """A bar with loss and images/s on a terminal, ten lines elsewhere; logs ``train/images_per_second``.

    ``seconds`` is the training time of the whole run, validations and an interruption's resumes included.
    """

    reads_model_metrics = True  # reads model.latest: no self.log(prog_bar=True) needed

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.training_seconds = 0.0  # without validations
        self.images_per_second = 0.0
        self._tick: float | None = None  # while training
        self._shown = True
        self._bar: Progress | None = None

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        self._mark = time.perf_counter()
        self._tick = self._mark
        self._images = pl_module.images
        self._first = pl_module.iteration
        self._points = pl_module.iteration // pl_module.log_every
        self._shown = self._shown and trainer.is_global_zero
        if self._shown and sys.stdout.isatty():
            columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
            self._bar = Progress(*columns, TimeRemainingColumn())
            self._task = self._bar.add_task("", total=None)
            self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: GenerativeModule, *_: Any) -> None:  # type: ignore[override]
        points = pl_module.iteration // pl_module.log_every
        if points == self._points:
            return
        self._points = points
        now = time.perf_counter()
        self.training_seconds += now - self._mark
        self.images_per_second = (pl_module.images - self._images) / (now - self._mark)
        self._mark, self._images = now, pl_module.images
        self._clock(now)
        pl_module.log_to_loggers({"train/images_per_second": self.images_per_second})
        self._show(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            now = time.perf_counter()
            self._mark += now - self._paused  # validation is not training time
            self._clock(now)

    def on_validation_start(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        self._paused = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        now = time.perf_counter()
        if self._tick is not None:
            self.training_seconds += now - self._mark
            self._mark = now
        self._clock(now)
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _clock(self, now: float) -> None:
        if self._tick is not None:
            self.seconds += now - self._tick
            self._tick = now

    def _show(self, model: GenerativeModule) -> None:
        losses = (
            f"{name.removeprefix('train/')} {value:.4g}" for name, value in model.latest.items() if "loss" in name
        )
        text = f"{'  '.join(losses)}  {self.images_per_second:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, total=model.total, completed=model.iteration, description=text)
        elif self._shown and model.total and model.iteration * LINES // model.total > self._lines(model):
            self._printed = model.iteration * LINES // model.total
            print(f"iteration {model.iteration:,} of {model.total:,}: {text}", flush=True)

    def _lines(self, model: GenerativeModule) -> int:
        return getattr(self, "_printed", self._first * LINES // (model.total or 1))

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "training_seconds": self.training_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.training_seconds = state_dict["seconds"], state_dict["training_seconds"]
