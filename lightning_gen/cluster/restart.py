"""A job that is started again by its scheduler goes on with its run."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gen.atomic import write_atomically
from lightning_gen.cluster.launch import Launch, attempt_of
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.earlier import current
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.exits import is_global_zero
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import CONFIG as ENTRY
from lightning_gen.storage.checkpoints import LAST, PREVIOUS, read_checkpoint, set_aside_last
from lightning_gen.storage.lock import RunLock, follow

JOB = "job.json"
WAIT = 60.0  # seconds that a job that was started again gives its earlier attempt to end
MAY_CHANGE = ("steps", "epochs", "val_every", "save_every", "on_collapse", "patience", "threads")  # of an experiment
MOST = 6  # options of which a line says how they differ
PLACE = tuple(f"data.init_args.{name}" for name in ("root", "a", "b", "num_workers"))  # where a run finds its data


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any], free: Collection[str]) -> list[str]:
    """What makes two configurations different experiments ("seed: 0 -> 1"), for which a run's place does not count."""
    old, new = runs.flatten_config(dict(before)), runs.flatten_config(dict(after))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    bound = [key for key in changed if key not in (*PLACE, *free) and not key.startswith("trainer.")]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in bound]


class Attempt(NamedTuple):
    """What an earlier start of a run has left; without a folder there was none.

    Args:
        folder: of the run, which the first rank holds.
        checkpoint: to go on from; None where nothing was saved.
        state: what is in it.
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    state: dict[str, Any] | None = None

    @property
    def done(self) -> int:
        """Iterations."""
        return self.state["lightning_gen"]["iteration"] if self.state else 0

    def in_units(self, data: Any) -> Any:
        """The data in the units of the checkpoint, whose mean and scale of columns they keep."""
        if not (self.state and isinstance(data, DataModule)):
            return data
        return data.in_units_of(DataSpec.of(self.state["hyper_parameters"]["spec"]))

    def check_data(self, data: Any) -> None:
        """Refuse other data than those of the checkpoint.

        Raises:
            UserError: that says what has changed.
        """
        saved = (self.state or {}).get(type(data).__qualname__)
        if isinstance(data, DataModule) and saved is not None:
            data.load_state_dict(saved)


def hold(lock: RunLock, folder: Path, launch: Launch) -> None:
    """The first rank takes a run's folder, and says so where it cannot be locked; another one waits until it has.

    Raises:
        UserError: another run holds it.
    """
    wait = WAIT if launch.may_be_restart else 0.0
    first_node = launch.kind != "alone" or not int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0)
    if not (is_global_zero() and first_node):
        follow(folder, attempt_of(), wait)
    elif note := lock.take(folder, attempt_of(), wait):
        print(note)


def read_attempt(folder: Path, checkpoint: Path | None) -> Attempt:
    """What a run, whose folder is held, goes on from: the checkpoint, if there is any.

    Raises:
        UserError: it is damaged.
    """
    if checkpoint and is_global_zero():
        set_aside_last(checkpoint)
    return Attempt(folder, checkpoint, read_checkpoint(checkpoint) if checkpoint else None)


def previous_attempt(lock: RunLock, config: Mapping[str, Any], launch: Launch) -> Attempt | None:
    """What this job's earlier attempt at the same experiment has left, if the job was started again; it is held.

    Raises:
        UserError: another process writes to its folder, or no checkpoint is good.
    """
    folder = find_previous_attempt(config, launch)
    if folder is None:
        return None
    hold(lock, folder, launch)
    checkpoint, complaint = last_valid_checkpoint(folder)
    if is_global_zero():
        print(f"job started again: {complaint or f'going on with {folder}'}")
    attempt = read_attempt(folder, checkpoint)
    check_config(attempt, runs.read_config(folder))
    return attempt


def check_config(attempt: Attempt, saved: Mapping[str, Any]) -> None:
    """Compare a run's configuration file with the one that its checkpoint holds.

    What an experiment may change is said and accepted, since the file of a run that is extended is written at once.

    Raises:
        UserError: the file was edited.
    """
    if attempt.state is None:
        return
    before = attempt.state.get(ENTRY)
    if not isinstance(before, dict):
        if is_global_zero():
            print(f"{attempt.checkpoint} holds no configuration: whether {runs.CONFIG} was edited is not known")
        return
    before = current(before)
    if changed := config_changes(before, saved, MAY_CHANGE):
        more = f", and {len(changed) - MOST} more" if len(changed) > MOST else ""
        raise UserError(
            f"{attempt.folder}/{runs.CONFIG} was edited since {attempt.checkpoint} was written: "
            f"{', '.join(changed[:MOST])}{more}. --resume goes on with the same experiment: undo this, or start a new "
            f"run from its weights, with --init {attempt.folder}"
        )
    old, new = runs.flatten_config(dict(before)), runs.flatten_config(dict(saved))
    allowed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if allowed and is_global_zero():
        shown = ", ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in allowed)
        print(f"{runs.CONFIG} differs from the checkpoint in what may change: {shown}")


def is_finished(attempt: Attempt, steps: int, launch: Launch) -> bool:
    """Whether nothing of a run of so many iterations is left to do: the restarted job ends, and so says it.

    Raises:
        UserError: a person asked for more of it, and did not say how much.
    """
    if attempt.folder is None or attempt.done < steps:
        return False
    if not runs.has_summary(attempt.folder, attempt.done):
        if is_global_zero():
            print(f"{attempt.folder} has all of its iterations, but no {runs.SUMMARY} of them: finishing it")
        return False
    complete = f"{attempt.done} of {steps} iterations"
    if not launch.may_be_restart:
        raise UserError(f"{attempt.folder} is complete: {complete}; extend it with a larger --steps")
    if is_global_zero():
        print(f"{attempt.folder} of this job is complete: {complete}")
    return True


def write_job_file(folder: Path, launch: Launch) -> None:
    """Note in a run's folder which job it belongs to."""
    if launch.job:
        write_atomically(folder / JOB, json.dumps({"job": launch.job}).encode())


def find_previous_attempt(config: Mapping[str, Any], launch: Launch, root: Path = runs.ROOT) -> Path | None:
    """The run folder of this job's earlier attempt at the same experiment, if the job was started again."""
    if not launch.job or not launch.may_be_restart:
        return None
    found = [path.parent for path in root.glob(f"*/*/{JOB}") if _is_of(path, launch.job, config)]
    return max(found, key=lambda folder: (folder / JOB).stat().st_mtime, default=None)


def _is_of(path: Path, job: str, config: Mapping[str, Any]) -> bool:
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        return noted["job"] == job and not config_changes(
            runs.read_config(path.parent), config, ("patience", *runs.CHOSEN)
        )
    except (OSError, ValueError, LookupError, TypeError):  # half-written, or of another program
        return False


def last_valid_checkpoint(folder: Path) -> tuple[Path | None, str]:
    """The checkpoint to resume from by default: the last one, or if it is damaged the one before; and a line about it.

    Raises:
        UserError: all are damaged.
    """
    candidates = [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    complaint = ""
    for path in (path for path in candidates if path.exists()):
        try:
            read_checkpoint(path)
            return path, f"{complaint}; going on from {path}" if complaint else ""
        except UserError as error:
            complaint = complaint or str(error).partition(";")[0]
    if complaint:
        raise UserError(f"{complaint}, and no other is good: start a new run")
    return None, ""


@contextlib.contextmanager
def restoring(checkpoint: Path | None) -> Iterator[None]:
    """Inside, the Trainer restores a run from a checkpoint, whose content may be anything.

    Raises:
        UserError: it does not belong to the run.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if checkpoint is None or isinstance(error, UserError) or not _is_of_restoring(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{checkpoint} does not fit this run: {type(error).__name__}: {reason}") from error


def _is_of_restoring(error: Exception) -> bool:
    """Whether an error arose while the Trainer restored a checkpoint, and not in what it did afterwards."""
    frames = traceback.extract_tb(error.__traceback__)
    here = [frame.name.lstrip("_") for frame in frames if frame.filename.endswith("checkpoint_connector.py")]
    return any(name.startswith(("restore", "resume")) for name in here)
