"""A job that is started again by its scheduler goes on with its run."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_gen.cluster.launch import Launch
from lightning_gen.datamodules.errors import UserError
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import LAST, PREVIOUS, read_checkpoint, write_atomically

JOB = "job.json"
PLACE = tuple(f"data.init_args.{name}" for name in ("root", "a", "b", "num_workers"))  # where a run finds its data


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any], free: Collection[str]) -> list[str]:
    """What makes two configurations different experiments ("seed: 0 -> 1"), for which a run's place does not count."""
    old, new = runs.flatten_config(dict(before)), runs.flatten_config(dict(after))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    bound = [key for key in changed if key not in (*PLACE, *free) and not key.startswith("trainer.")]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in bound]


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
        return noted["job"] == job and not config_changes(runs.read_config(path.parent), config, ("patience",))
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
