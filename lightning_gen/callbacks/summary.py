"""What a run leaves at its end: pictures, summary.json, its hyper-parameters, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_gen.adversarial.stability import summary_line
from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.loggers import give_table_row
from lightning_gen.callbacks.pictures import Pictures
from lightning_gen.callbacks.progress import RunProgress
from lightning_gen.callbacks.stability import Stability
from lightning_gen.datamodules.errors import program
from lightning_gen.datamodules.paths import printable
from lightning_gen.drawing.captions import captioned
from lightning_gen.drawing.images import save_png
from lightning_gen.evaluation import posterior_collapse
from lightning_gen.kinds import kind_of
from lightning_gen.pictures import views
from lightning_gen.pictures.captions import caption
from lightning_gen.protocols import Samples, Translates
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import BEST, LAST, user_modules
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.module import GenerativeModule

C = TypeVar("C", bound=L.Callback)
BOARD = f"tensorboard --logdir {runs.ROOT}"


def find_callback(trainer: L.Trainer, kind: type[C]) -> C | None:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def summarise(trainer: L.Trainer, model: GenerativeModule, data: Any, folder: Path, config: dict[str, Any]) -> None:
    """samples.png, the hyper-parameters with their final values, summary.json, and what to type next.

    summary.json comes last: a run that has one of its last iteration is finished, see ``runs.is_finished``.
    """
    progress, checkpoints = find_callback(trainer, RunProgress), find_callback(trainer, Checkpoints)
    stability = find_callback(trainer, Stability)
    assert progress and checkpoints
    picture = _last_picture(trainer, model, data, config["seed"])
    rate = model.images / progress.training_seconds if progress.training_seconds else None
    with evaluation_mode(model):
        latents = posterior_collapse.report(model, data)
    ended = ended_by(trainer, model)
    summary = {
        "ended": ended or "all iterations",
        "model": config["preset"],
        "data": config["dataset"],
        "seed": config["seed"],
        "iterations": model.iteration,
        "images": model.images,
        "seconds": round(progress.seconds, 3),
        "images_per_second": rate and round(rate, 1),
        "final": checkpoints.final,
        "final_iteration": checkpoints.final_iteration,
        "best": {checkpoints.monitor: checkpoints.best, "iteration": checkpoints.best_iteration},
        "latents": latents,
        "stability": stability and stability.report(),
        "skipped": data.report() if hasattr(data, "report") else None,
        "folder": str(folder),
        "checkpoint": str(checkpoints.folder / LAST),
        "environment": runs.environment(trainer.strategy.root_device),
    }
    hyper = runs.table_row(config)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            give_table_row(logger, hyper, checkpoints.final, model.iteration)
            logger.finalize("success")
    runs.write_summary(folder, summary)
    trust = f" --trust {' '.join(modules)}" if (modules := user_modules(model)) else ""
    print(f"\n{headline(summary, ended, trainer.max_steps)}")
    _print_summary(summary, picture, [f"{_use(model, folder)}{trust}", _next(summary, ended)])


def ended_by(trainer: L.Trainer, model: GenerativeModule) -> str:
    """What ended a run before its last iteration: a callback, with its reason where it gives one; empty for nothing."""
    if model.iteration >= trainer.max_steps:
        return ""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"{type(callback).__name__}: {' '.join(callback.stopping_reason_message.split())}"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return f"{type(callback).__name__}: the time of --trainer.max_time is over"
        if isinstance(callback, Stability) and callback.stopped:
            return f"{type(callback).__name__}: {callback.verdict.verdict}"
    return "a callback that set trainer.should_stop"


def headline(summary: Mapping[str, Any], ended: str, steps: int) -> str:
    """How far a run has come, how long it took, and what ended it."""
    rate = summary["images_per_second"] or 0
    cost = f"{summary['seconds']:.0f} s, {rate:,.0f} images/s"
    if not ended:
        return f"done: {summary['iterations']:,} iterations in {cost}"
    name, _, reason = ended.partition(": ")
    why = f"\nbecause:    {reason}" if reason else ""
    return f"stopped by {name} after {summary['iterations']:,} of {steps:,} iterations in {cost}{why}"


def _next(summary: Mapping[str, Any], ended: str) -> str:
    """How to go on."""
    resume = f"{program('fit')} --resume {summary['folder']}"
    if not ended:
        return f"extend:     {resume} --steps {2 * summary['iterations']}"
    longer = " --trainer.max_time DD:HH:MM:SS, of a longer time" if ended.startswith("Timer") else ""
    return f"go on:      {resume}{longer}"


def _last_picture(trainer: L.Trainer, model: GenerativeModule, data: Any, seed: int) -> Path | None:
    """What the model makes at the end, in the run's folder."""
    pictures = find_callback(trainer, Pictures)
    assert pictures
    path = pictures.folder / "samples.png"
    pictures.animate_views()
    pictures.take_examples(model, data)
    with evaluation_mode(model):
        if isinstance(model, Samples) and kind_of(model.spec).draws:
            text = f"{caption('samples', model)}; {LAST}, iteration {model.iteration:,}"
            save_png(captioned(views.samples(model, seed), text), path)
        elif isinstance(model, Translates) and pictures.examples:
            path = pictures.folder / runs.TRANSLATIONS
            views_of = views.translations(model, pictures.examples["a"], pictures.examples["b"])
            shown = [captioned(picture, caption(name, model)) for name, picture in views_of if name in model.directions]
            save_png(views.stack_vertically(shown), path)
        else:
            return None
    return path


def _use(model: GenerativeModule, folder: Path) -> str:
    """The command that makes something with the model."""
    if isinstance(model, Translates):
        return f"translate:  {program('translate')} {folder} PICTURES --out translated"
    return f"sample:     {program('sample')} {folder} -n 64 --seed 0"


def _print_summary(summary: dict[str, Any], picture: Path | None, hints: Sequence[str]) -> None:
    values = "  ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in summary["final"].items())
    if values:
        print(f"validation: {values}")
    (monitor, best), (_, place) = summary["best"].items()
    if best is not None:
        final = summary["final"].get(monitor)
        last = f"; final {final:.4g} at {summary['final_iteration']:,} ({LAST})" if final is not None else ""
        ending = ", the last" if place == summary["final_iteration"] else last
        print(f"best:       {monitor.removeprefix('val/')} {best:.4g} at iteration {place:,} ({BEST}){ending}")
    if summary["skipped"]:
        print(printable(summary["skipped"]))
    if summary["latents"] and not summary["latents"]["healthy"]:
        print(f"warning:    latents {summary['latents']['verdict']}")
    if summary["stability"]:
        print(f"stability:  {summary_line(summary['stability'])}")
    print(f"pictures:   {picture} and  {BOARD}" if picture else f"curves:     {BOARD}")
    for hint in hints:
        print(hint)
    if summary["data"] == "digits":
        print(f"larger:     {program('fit')} --model {summary['model']} --data mnist   (downloads 12 MB)")
