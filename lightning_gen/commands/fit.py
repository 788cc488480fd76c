"""Train a model: what scripts/fit.py does."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.pictures import Pictures
from lightning_gen.callbacks.progress import RunProgress
from lightning_gen.callbacks.stability import Stability
from lightning_gen.callbacks.summary import BOARD, find_callback, summarise
from lightning_gen.callbacks.watch import Watch, trained_extractor
from lightning_gen.cluster import cores, preflight, restart, strategies
from lightning_gen.cluster.launch import detect_launch
from lightning_gen.cluster.lost_ranks import report_lost_ranks
from lightning_gen.cluster.signals import TIME_LIMIT_SIGNAL, SignalHandler, interruptible
from lightning_gen.commands import start
from lightning_gen.config import cli, default_model
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.config.objects import build
from lightning_gen.config.validations import limit_validation, validation_interval
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.files import check_memory
from lightning_gen.datamodules.order import limited
from lightning_gen.datamodules.paths import printable, to_path
from lightning_gen.exits import is_global_zero
from lightning_gen.kinds import kind_of
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.protocols import Discriminates
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import (
    LAST,
    AtomicCheckpointIO,
    find_checkpoint,
    load_weights,
    read_checkpoint,
)
from lightning_gen.storage.lock import RunLock
from lightning_gen.training import NOT_OURS
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.speed import (
    NoProfiler,
    choose_iterations_per_batch,
    disable_sigterm_broadcast,
    without_garbage_collection,
)

SEE_EACH_BATCH = ("callbacks", "limit_train_batches", "overfit_batches", "fast_dev_run")  # options that count batches
NOT_EMPTY = ".*Checkpoint directory .* exists and is not empty.*"  # a warning of Lightning: it is the run's own


def main(argv: list[str]) -> None:
    """Parse, train, summarise; ``config/help.py`` has answered what needs no run."""
    given, rest = parse_short_options(argv)
    if resume := given.pop("resume", None):
        _resume(resume, given, rest)
        return
    given, rest, notes = default_model.fill_in(given, rest)
    plan = cli.resolve_config(given, rest)
    if given.get("print_config"):
        print(runs.dump(plan.config), end="")
        return
    if notes and is_global_zero():
        print("\n".join(notes))
    train(plan)


def _resume(run: str, given: dict[str, Any], rest: list[str]) -> None:
    """Go on with a run: with its own configuration, data and checkpoint."""
    if "config" in given:
        raise UserError("--resume takes the configuration of its run: drop --config")
    folder = runs.find_run_folder(run)
    runs.check_loggable(folder)
    with RunLock() as lock:
        attempt = None
        if not given.get("print_config"):
            restart.hold(lock, folder, detect_launch())  # first, so that nobody writes what is read now
            attempt = restart.read_attempt(folder, find_checkpoint(run, "last"))
        saved = runs.read_config(folder)
        cli.check_shape(str(folder / runs.CONFIG), saved)
        if attempt:
            restart.check_config(attempt, saved)
        plan = cli.resolve_config(given, rest, base=saved)
        if changed := restart.config_changes(saved, plan.config, restart.MAY_CHANGE):
            whole = cli.resolve_config({}, [], base=saved).config  # an earlier version wrote fewer options
            changed = restart.config_changes(whole, plan.config, restart.MAY_CHANGE)
        if changed:
            raise UserError(
                "--resume goes on with the same experiment, but these differ: "
                f"{', '.join(changed)}. Start a new run, with --init"
            )
        if attempt:
            train(plan, attempt, lock)
        else:
            print(runs.dump(plan.config), end="")


def train(plan: cli.ResolvedConfig, attempt: restart.Attempt | None = None, lock: RunLock | None = None) -> Path:
    """Run a resolved configuration, or go on with an earlier attempt at it; returns the run's folder.

    Args:
        plan: the configuration.
        attempt: whose folder ``lock`` holds; without one, that of a job that was started again is looked for.
        lock: of the run's folder; it is released at the end.
    """
    with lock or RunLock() as held:
        return _train(plan, held, attempt)


def _train(plan: cli.ResolvedConfig, lock: RunLock, attempt: restart.Attempt | None) -> Path:
    _quiet()
    config, launch, signals = plan.config, detect_launch(), SignalHandler()
    options = preflight.resolve_trainer_options(plan.parsed.trainer.as_dict(), launch)
    world = preflight.world_size(options, launch)
    if launch.job:
        signals.install(TIME_LIMIT_SIGNAL)  # it comes once, perhaps while the data are loaded
    attempt = attempt or restart.previous_attempt(lock, config, launch) or restart.Attempt()
    preflight.refuse_requeue_checkpoints(runs.ROOT, *([attempt.folder] if attempt.folder else []))
    L.seed_everything(config["seed"], verbose=False)
    data = attempt.in_units(cli.instantiate_data(plan))
    attempt.check_data(data)  # first: a model of data of another shape would only say that its weights differ
    model = cli.instantiate_model(plan, data)
    steps = _steps(config, data)
    if attempt.folder and restart.is_finished(attempt, steps, launch):
        return attempt.folder
    _check_batch(model, data, world)
    cores.use_threads(config, options, model, data, launch, attempt.folder)
    limit_validation(
        data, config, steps, runs.read_config(attempt.folder) if attempt.folder and attempt.state else None
    )
    if config["init"] and not attempt.state:
        start = find_checkpoint(str(to_path(config["init"])))
        load_weights(model, start, read_checkpoint(start), memory=False)
    watch = _watch(config, model, data)
    stability = _stability(config, model, data, watch)
    if isinstance(data, DataModule) and is_global_zero():  # what is wrong with the data shows before a folder is made
        data.prepare_data()
        data.setup("fit")
        if (count := data.validation_examples) is not None:  # a number that was given for all of them stays
            config["val_examples"] = count
        if watch:
            watch.check()
        _ = data.digest  # of what is in memory now, not of what lies there at the first checkpoint
    folder = attempt.folder or (runs.new_folder(config) if is_global_zero() else runs.ROOT)
    if world > 1:
        options["strategy"] = strategies.select_strategy(
            options.get("strategy"), len(model.players), config.get("patience")
        )
    environment = strategies.cluster_environment(launch, options)
    trainer = build_trainer(
        options, folder, config, steps, data, attempt.done, watch, stability, environment=environment, signals=signals
    )
    _announce(trainer, model, data, folder, steps, attempt.state)
    if trainer.is_global_zero:
        restart.hold(lock, folder, launch)
        runs.write_config(config, folder)
        restart.write_job_file(folder, launch)
    restoring = restart.restoring(attempt.checkpoint)
    with without_garbage_collection(), report_lost_ranks(trainer), interruptible(), restoring:
        trainer.fit(model, datamodule=data, ckpt_path=attempt.checkpoint, weights_only=True)
        if isinstance(data, DataModule):
            data.gather_skipped()
    with signals.finishing(folder):
        if trainer.is_global_zero:
            summarise(trainer, model, data, folder, config)
    if trainer.is_global_zero and stability and stability.stopped:  # on the first rank alone: another may be killed
        last = folder / "checkpoints" / LAST
        raise UserError(f"stopped at iteration {model.iteration:,}: {stability.message()}. Saved: {last}")
    return folder


def _quiet() -> None:
    for message in (*NOT_OURS, NOT_EMPTY):
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _steps(config: dict[str, Any], data: Any) -> int:
    """Length of the run in iterations."""
    if config["steps"]:
        return config["steps"]
    if not config["epochs"]:
        raise UserError("how long? give --steps N or --epochs N")
    limit = config["trainer"].get("overfit_batches") or config["trainer"].get("limit_train_batches") or 1.0
    return config["epochs"] * limited(limit, max(1, data.spec.size // data.batch_size))


def _check_batch(model: GenerativeModule, data: Any, devices: int) -> None:
    """Refuse a batch that cannot be split."""
    multiple = model.batch_multiple * devices
    if isinstance(data, DataModule):
        size = 4 * data.batch_size * math.prod(data.spec.shape)
        check_memory(size, f"--data.batch_size {data.batch_size:,}: a batch", "take fewer examples")
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
    checkpoints = Checkpoints(folder / "checkpoints", config["save_every"], signals=signals, config=config, **choice)
    progress = RunProgress()
    if not shown:
        progress.disable()
    measuring = [callback for callback in (watch, stability) if callback]
    callbacks = [progress, Pictures(folder, config["seed"]), *measuring, checkpoints]
    board = TensorBoardLogger(folder.parent.parent, folder.parent.name, version=folder.name, default_hp_metric=False)
    val_every = validation_interval(config, steps)
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
    shapes = dict.fromkeys(shape for shape in (spec.shape, spec.shape_b) if shape)  # one where both sides agree
    shape = " and ".join("x".join(map(str, shape)) for shape in shapes)
    print(f"{type(model).__name__} on {spec.size:,} examples of {shape}; {steps:,} iterations, batch {batch}{devices}")
    weights = sum(p.numel() for player in model.players for p in model.parameters_of(player))
    print(f"{weights:,} weights; run folder {folder}; curves: {BOARD}")
    if notice := kind_of(spec).notice(spec):
        print(notice)
    for line in getattr(model, "startup_messages", lambda _: [])(batch) if isinstance(batch, int) else []:
        print(line)
    if (watch := find_callback(trainer, Watch)) and watch.names:
        print(f"watched at each validation: {', '.join(watch.names)}")
    if state:
        counters = state["lightning_gen"]
        print(f"going on from iteration {counters['iteration']:,}")
        ramps = ", ".join(name for name, ramp in model.schedules.items() if ramp.relative)
        if ramps and counters["total"] not in (None, steps):
            print(f"a length of {steps:,} instead of {counters['total']:,} changes these schedules from here: {ramps}")
    for line in data.notices() if isinstance(data, DataModule) else []:
        print(printable(line))


if __name__ == "__main__":
    start("fit")
