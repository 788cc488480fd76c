"""Train a model: what scripts/fit.py does."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_gen.adversarial.stability import summary_line
from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.pictures import Pictures
from lightning_gen.callbacks.progress import RunProgress
from lightning_gen.callbacks.stability import Stability
from lightning_gen.callbacks.watch import Watch, trained_extractor
from lightning_gen.cluster import preflight, restart, strategies
from lightning_gen.cluster.launch import detect_launch
from lightning_gen.cluster.lost_ranks import report_lost_ranks
from lightning_gen.cluster.signals import TIME_LIMIT_SIGNAL, SignalHandler, interruptible
from lightning_gen.commands import start
from lightning_gen.config import cli, default_model
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.config.objects import build
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.drawing.captions import captioned
from lightning_gen.drawing.images import save_png
from lightning_gen.evaluation import posterior_collapse
from lightning_gen.exits import is_global_zero
from lightning_gen.kinds import kind_of
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.pictures import views
from lightning_gen.pictures.captions import caption
from lightning_gen.protocols import Discriminates, Samples, Translates
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import (
    LAST,
    AtomicCheckpointIO,
    find_checkpoint,
    load_weights,
    read_checkpoint,
    set_aside_last,
    user_modules,
)
from lightning_gen.training import NOT_OURS
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.speed import (
    NoProfiler,
    choose_iterations_per_batch,
    disable_sigterm_broadcast,
    without_garbage_collection,
)

C = TypeVar("C", bound=L.Callback)
BOARD = f"tensorboard --logdir {runs.ROOT}"
VALIDATIONS = 20  # in a run, unless --val_every says otherwise
MAY_CHANGE = ("steps", "epochs", "val_every", "save_every", "on_collapse", "patience")
SEE_EACH_BATCH = ("callbacks", "limit_train_batches", "overfit_batches", "fast_dev_run")  # options that count batches
QUIET = (  # warnings of Lightning that do not apply to runs of this program
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The `srun` command is available.*",  # set by the preflight
)


def main(argv: list[str]) -> None:
    """Parse, train, summarise; ``config/help.py`` has answered what needs no run."""
    given, rest = parse_short_options(argv)
    resume = given.pop("resume", None)
    folder = checkpoint = None
    if resume:
        if "config" in given:
            raise UserError("--resume takes the configuration of its run: drop --config")
        folder, checkpoint = runs.find_run_folder(resume), find_checkpoint(resume, "last")
        saved = runs.read_config(folder)
        plan = cli.resolve_config(given, rest, base=saved)
        if changed := restart.config_changes(saved, plan.config, MAY_CHANGE):
            raise UserError(
                "--resume goes on with the same experiment, but these differ: "
                f"{', '.join(changed)}. Start a new run, with --init"
            )
    else:
        given, rest, notes = default_model.fill_in(given, rest)
        plan = cli.resolve_config(given, rest)
        if notes and is_global_zero() and not given.get("print_config"):
            print("\n".join(notes))
    if given.get("print_config"):
        print(runs.dump(plan.config), end="")
        return
    train(plan, folder, checkpoint)


def train(plan: cli.ResolvedConfig, resumed: Path | None = None, checkpoint: Path | None = None) -> Path:
    """Run a resolved configuration, from a checkpoint of a resumed run's folder; returns the run's folder."""
    _quiet()
    config, launch, signals = plan.config, detect_launch(), SignalHandler()
    options = preflight.resolve_trainer_options(plan.parsed.trainer.as_dict(), launch)
    world = preflight.world_size(options, launch)
    if launch.job:
        signals.install(TIME_LIMIT_SIGNAL)  # it comes once, perhaps while the data are loaded
    if not resumed and (resumed := restart.find_previous_attempt(config, launch)):
        checkpoint, complaint = restart.last_valid_checkpoint(resumed)
        if is_global_zero():
            print(f"job started again: {complaint or f'going on with {resumed}'}")
    if checkpoint and is_global_zero():
        set_aside_last(checkpoint)
    preflight.refuse_requeue_checkpoints(runs.ROOT, *([resumed] if resumed else []))
    L.seed_everything(config["seed"], verbose=False)
    state = read_checkpoint(checkpoint) if checkpoint else None
    done = state["lightning_gen"]["iteration"] if state else 0
    model, data = cli.instantiate(plan)
    steps = _steps(config, data)
    if resumed and done >= steps:
        if launch.may_be_restart:
            if is_global_zero():
                print(f"{resumed} of this job is complete: {done} of {steps} iterations")
            return resumed
        raise UserError(f"{resumed} is complete: {done} of {steps} iterations; extend it with a larger --steps")
    _check_batch(model, data, world)
    if config["init"] and not state:
        start = find_checkpoint(config["init"])
        load_weights(model, start, read_checkpoint(start), memory=False)
    watch = _watch(config, model, data)
    stability = _stability(config, model, data, watch)
    if isinstance(data, DataModule) and is_global_zero():  # what is wrong with the data shows before a folder is made
        data.prepare_data()
        data.setup("fit")
        if watch:
            watch.check()
    folder = resumed or (runs.new_folder(config) if is_global_zero() else runs.ROOT)
    if world > 1:
        options["strategy"] = strategies.select_strategy(
            options.get("strategy"), len(model.players), config.get("patience")
        )
    environment = strategies.cluster_environment(launch, options)
    trainer = build_trainer(
        options, folder, config, steps, data, done, watch, stability, environment=environment, signals=signals
    )
    _announce(trainer, model, data, folder, steps, state)
    if trainer.is_global_zero:
        runs.write_config(config, folder)
        restart.write_job_file(folder, launch)
    with without_garbage_collection(), report_lost_ranks(trainer), interruptible(), restart.restoring(checkpoint):
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        _finish(trainer, model, data, folder, config)
        if stability and stability.stopped:  # on the first rank alone: where another one fails, it may be killed
            last = folder / "checkpoints" / LAST
            raise UserError(f"stopped at iteration {model.iteration:,}: {stability.message()}. Saved: {last}")
    return folder


def _quiet() -> None:
    for message in (*NOT_OURS, *QUIET):
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _steps(config: dict[str, Any], data: Any) -> int:
    """Length of the run in iterations."""
    if config["steps"]:
        return config["steps"]
    if not config["epochs"]:
        raise UserError("how long? give --steps N or --epochs N")
    return config["epochs"] * max(1, data.spec.size // data.batch_size)


def _check_batch(model: GenerativeModule, data: Any, devices: int) -> None:
    """Refuse a batch that cannot be split."""
    multiple = model.batch_multiple * devices
    if not isinstance(data, DataModule) or data.batch_size % multiple == 0:
        return
    factors = {"--model.accumulate": model.accumulate, "--model.pack": model.batch_multiple // model.accumulate}
    factors["devices"] = devices
    split = " times ".join(f"{name} {count}" for name, count in factors.items() if count > 1)
    raise UserError(f"{split} does not divide --data.batch_size {data.batch_size}: it must be a multiple of {multiple}")


def _watch(config: dict[str, Any], model: GenerativeModule, data: Any) -> Watch | None:
    """The callback of ``--watch``; an adversarial model has no loss to evaluate it by, and gets one by default."""
    names = config.get("watch") or "auto"
    if names == "none":
        return None
    if names == "auto":
        extractor = trained_extractor(config["dataset"], data) if isinstance(model, Discriminates) else None
        return Watch("fd", extractor, data, config["seed"], allow_fewer=True) if extractor else None
    if not isinstance(data, DataModule):
        raise UserError(f"--watch needs a data set of this package, not a {type(data).__name__}")
    try:
        extractor = find_extractor("auto", config["dataset"], data.spec)
    except UserError as error:
        reason = str(error).partition(" Try:")[0]
        train = f"{program('train-extractor')} --data {config['dataset']}"
        raise UserError(f"--watch: {reason} For labelled images {train} makes one") from None
    return Watch(names, extractor, data, config["seed"])


def _stability(config: dict[str, Any], model: GenerativeModule, data: Any, watch: Watch | None) -> Stability | None:
    """The callback that watches the stability of adversarial training."""
    asked = config.get("on_collapse")
    if isinstance(model, Discriminates) and isinstance(data, DataModule):
        return Stability(data, asked or "warn", watch, config["seed"])
    if asked == "stop":
        raise UserError(f"--on_collapse stop: {type(model).__name__} has no discriminator that scores single examples")
    return None


def build_trainer(
    arguments: dict[str, Any],
    folder: Path,
    config: dict[str, Any],
    steps: int,
    data: Any,
    done: int = 0,
    watch: Watch | None = None,
    stability: Stability | None = None,
    environment: ClusterEnvironment | None = None,
    signals: SignalHandler | None = None,
) -> L.Trainer:
    """The Trainer of a run of ``steps`` iterations, of which some are done, with its callbacks.

    Raises:
        UserError: the Trainer refuses its options.
    """
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if str(arguments.get("precision", "32-true")) in ("64", "16", "64-true", "16-true", "bf16-true"):
        raise UserError(f"--trainer.precision {arguments['precision']}: use 32-true, bf16-mixed or 16-mixed")
    shown = arguments.pop("enable_progress_bar", True)
    may_group = isinstance(data, DataModule) and not any(arguments.get(key) for key in SEE_EACH_BATCH)
    best_by = config.get("best_by")
    choice = {"monitor": [best_by], "monitor_required": True} if best_by else {"watch": watch}
    checkpoints = Checkpoints(folder / "checkpoints", config["save_every"], signals=signals, **choice)
    progress = RunProgress()
    if not shown:
        progress.disable()
    measuring = [callback for callback in (watch, stability) if callback]
    callbacks = [progress, Pictures(folder, config["seed"]), *measuring, checkpoints]
    board = TensorBoardLogger(folder.parent.parent, folder.parent.name, version=folder.name, default_hp_metric=False)
    val_every = min(steps, config["val_every"] or max(1, steps // VALIDATIONS))
    usual = {"logger": board, "profiler": NoProfiler(), "num_sanity_val_steps": 0, "enable_model_summary": False}
    ours = {
        "max_steps": steps,
        "max_epochs": -1,
        "val_check_interval": val_every,
        "check_val_every_n_epoch": None,
        "use_distributed_sampler": False,
        "default_root_dir": str(folder),
    }
    try:
        built = {**usual, **build(arguments), **ours}
        built["callbacks"] = [*_listed(built.get("callbacks")), *callbacks]
        plugins = [AtomicCheckpointIO(), *([environment] if environment else [])]
        built["plugins"] = [*_listed(built.get("plugins")), *plugins]
        trainer = L.Trainer(**built)
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        raise UserError(f"the Trainer refuses its options: {' '.join(str(error).split())}") from error
    disable_sigterm_broadcast(trainer)
    if may_group and trainer.world_size == 1:
        block = choose_iterations_per_batch(data.spec, data.batch_size, steps, val_every, config["save_every"], done)
        data.position.batches_per_fetch = block
        trainer.val_check_interval = val_every // block
    return trainer


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _announce(
    trainer: L.Trainer, model: GenerativeModule, data: Any, folder: Path, steps: int, state: dict[str, Any] | None
) -> None:
    """Say what is about to run."""
    if not trainer.is_global_zero:
        return
    spec, world = model.spec, trainer.world_size
    batch = getattr(data, "batch_size", "?")
    devices = f" = {world} devices x {batch // world}" if world > 1 and isinstance(batch, int) else ""
    shape = "x".join(str(n) for n in spec.shape)
    print(f"{type(model).__name__} on {spec.size:,} examples of {shape}; {steps:,} iterations, batch {batch}{devices}")
    weights = sum(p.numel() for player in model.players for p in model.parameters_of(player))
    print(f"{weights:,} weights; run folder {folder}; curves: {BOARD}")
    if notice := kind_of(spec).notice(spec):
        print(notice)
    for line in getattr(model, "startup_messages", lambda _: [])(batch) if isinstance(batch, int) else []:
        print(line)
    if (watch := _callback(trainer, Watch)) and watch.names:
        print(f"watched at each validation: {', '.join(watch.names)}")
    if state:
        counters = state["lightning_gen"]
        print(f"going on from iteration {counters['iteration']:,}")
        ramps = ", ".join(name for name, ramp in model.schedules.items() if ramp.relative)
        if ramps and counters["total"] not in (None, steps):
            print(f"a length of {steps:,} instead of {counters['total']:,} changes these schedules from here: {ramps}")
    for line in data.notices() if isinstance(data, DataModule) else []:
        print(line)


def _callback(trainer: L.Trainer, kind: type[C]) -> C | None:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _finish(trainer: L.Trainer, model: GenerativeModule, data: Any, folder: Path, config: dict[str, Any]) -> None:
    """samples.png, summary.json, the hyper-parameters with their final values, and what to type next."""
    progress, checkpoints = _callback(trainer, RunProgress), _callback(trainer, Checkpoints)
    stability = _callback(trainer, Stability)
    assert progress and checkpoints
    picture = _last_picture(trainer, model, config["seed"], folder)
    final = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    rate = model.images / progress.training_seconds if progress.training_seconds else None
    with evaluation_mode(model):
        latents = posterior_collapse.report(model, data)
    summary = {
        "model": config["preset"],
        "data": config["dataset"],
        "seed": config["seed"],
        "iterations": model.iteration,
        "images": model.images,
        "seconds": round(progress.seconds, 3),
        "images_per_second": rate and round(rate, 1),
        "final": final,
        "best": {checkpoints.monitor: checkpoints.best, "iteration": checkpoints.best_iteration},
        "latents": latents,
        "stability": stability and stability.report(),
        "skipped": data.report() if hasattr(data, "report") else None,
        "folder": str(folder),
        "checkpoint": str(checkpoints.folder / LAST),
        "environment": runs.environment(trainer.strategy.root_device),
    }
    runs.write_summary(folder, summary)
    hyper = runs.table_row(config)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hyper, final, step=model.iteration)
            logger.finalize("success")
    trust = f" --trust {' '.join(modules)}" if (modules := user_modules(model)) else ""
    _print_summary(summary, picture, f"{_use(model, folder)}{trust}")


def _last_picture(trainer: L.Trainer, model: GenerativeModule, seed: int, folder: Path) -> Path | None:
    """What the model makes at the end, in the run's folder."""
    pictures, path = _callback(trainer, Pictures), folder / "samples.png"
    with evaluation_mode(model):
        if isinstance(model, Samples) and kind_of(model.spec).draws:
            save_png(captioned(views.samples(model, seed), caption("samples", model)), path)
        elif isinstance(model, Translates) and pictures and pictures.examples:
            path = folder / runs.TRANSLATIONS
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


def _print_summary(summary: dict[str, Any], picture: Path | None, use: str) -> None:
    values = "  ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in summary["final"].items())
    rate = summary["images_per_second"] or 0
    print(f"\ndone: {summary['iterations']:,} iterations in {summary['seconds']:.0f} s, {rate:,.0f} images/s")
    if values:
        print(f"validation: {values}")
    if summary["skipped"]:
        print(summary["skipped"])
    if summary["latents"] and not summary["latents"]["healthy"]:
        print(f"warning:    latents {summary['latents']['verdict']}")
    if summary["stability"]:
        print(f"stability:  {summary_line(summary['stability'])}")
    print(f"pictures:   {picture} and  {BOARD}" if picture else f"curves:     {BOARD}")
    print(use)
    print(f"extend:     {program('fit')} --resume {summary['folder']} --steps {2 * summary['iterations']}")
    if summary["data"] == "digits":
        print(f"larger:     {program('fit')} --model {summary['model']} --data mnist   (downloads 12 MB)")


if __name__ == "__main__":
    start("fit")
