"""Progress of a run: one bar over all its iterations, images per second, and the time it took."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from lightning_gen.training.module import GenerativeModule

REFRESH = 0.1  # seconds between two changes of the bar
BAR = 10  # columns of the bar itself, which leave room for the losses of two players in 80
EVERY = 10.0  # seconds between two lines where there is no terminal


def run_bar(total: int | None, console: Console | None = None) -> Progress:
    """Iterations, bar, time left, speed and losses, in one line, of whose end a narrow terminal cuts what it must."""
    digits = 2 * len(str(total or 10**6)) + 1
    return Progress(
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=digits)),
        BarColumn(bar_width=BAR),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True, min_width=len("0:00:00"))),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=console,
        expand=True,
    )


class RunProgress(ProgressBar):
    """A bar with losses and images/s on a terminal, a line every ten seconds elsewhere.

    It logs ``train/images_per_second``.

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
        self._points = pl_module.iteration // pl_module.log_every
        self._shown = self._shown and trainer.is_global_zero
        self._total = trainer.max_steps if trainer.max_steps > 0 else None
        self._seen = self._mark  # when the bar was last changed, or the last line printed
        if self._shown and sys.stdout.isatty():
            self._bar = run_bar(self._total)
            self._task = self._bar.add_task("", total=self._total, completed=pl_module.iteration)
            self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: GenerativeModule, *_: Any) -> None:  # type: ignore[override]
        now = time.perf_counter()
        points = pl_module.iteration // pl_module.log_every
        if points != self._points:
            self._points = points
            self.training_seconds += now - self._mark
            self.images_per_second = (pl_module.images - self._images) / (now - self._mark)
            self._mark, self._images = now, pl_module.images
            self._clock(now)
            pl_module.log_to_loggers({"train/images_per_second": self.images_per_second})
        if self._shown and now - self._seen >= (EVERY if self._bar is None else REFRESH):
            self._seen = now
            self._show(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            now = time.perf_counter()
            self._mark += now - self._paused  # validation is not training time
            self._clock(now)

    def on_validation_start(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        self._paused = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        self._close(pl_module)

    def on_exception(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: GenerativeModule, exception: BaseException
    ) -> None:
        self._close(pl_module)

    def _close(self, model: GenerativeModule) -> None:
        now = time.perf_counter()
        if self._tick is not None:
            self.training_seconds += now - self._mark
            self._mark = now
        self._clock(now)
        if self._bar is not None:
            self._show(model)
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
        speed = [f"{self.images_per_second:,.0f} images/s"] if self.images_per_second else []
        text = "  ".join([*speed, *losses])
        total = model.total or self._total
        if self._bar is not None:
            short = text.replace("loss_", "")  # of several players "discriminator 0.5273  generator 0.6931"
            self._bar.update(self._task, total=total, completed=model.iteration, description=short)
        else:
            of = f" of {total:,}" if total else ""
            print(f"iteration {model.iteration:,}{of}: {text}".removesuffix(": "), flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Of the whole run up to now, also between two log entries."""
        if self._tick is None:
            return {"seconds": self.seconds, "training_seconds": self.training_seconds}
        now = time.perf_counter()
        more = {"seconds": now - self._tick, "training_seconds": now - self._mark}
        return {name: getattr(self, name) + value for name, value in more.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.training_seconds = state_dict["seconds"], state_dict["training_seconds"]
