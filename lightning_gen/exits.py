"""How a command ends: its exit status, and one line for what went wrong.

Nothing here imports torch, which takes seconds: a mistake in a name is answered at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lightning_gen.datamodules.errors import UserError, program

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # which Lightning reads, in this order


class Stopped(Exception):
    """A signal stopped the run at an iteration boundary; everything is saved."""

    def __init__(self, signum: int, folder: Path, requeued: bool = False, status: int | None = None) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.folder, self.requeued = signum, folder, requeued
        self.status = 128 + signum if status is None else status  # of the process

    def resume_hint(self) -> str:
        """How the run goes on."""
        if self.requeued:
            return "The job is in the queue again and goes on by itself"
        return f"Go on with:\n  {program('fit')} --resume {self.folder}"


class Interrupted(BaseException):
    """Ctrl-C for the second time, or outside of training: the run ends at once.

    No KeyboardInterrupt, of which Lightning makes status 1.
    """


class RankLost(UserError):
    """Another process of the run was killed, or is silent."""

    rank_local = True


def rank() -> int:
    """The number of this process among those of its run; known before there is a Trainer."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    known = getattr(getattr(lightning, "rank_zero_only", None), "rank", None)
    return known if known is not None else next((int(os.environ[key]) for key in RANKS if key in os.environ), 0)


def is_global_zero() -> bool:
    """Whether this process is global rank zero, which writes files and prints."""
    return rank() == 0


def run_main(main: Callable[[list[str]], None]) -> NoReturn:
    """Call a command's main function; a user's mistake is one line and exit status 2, a signal 128 + its number."""
    sys.path.insert(0, ".")  # import paths of the user's own
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where the locale has no arrow, a question mark stands for it
    try:
        main(sys.argv[1:])
        destroy_gloo_group()
    except Stopped as stop:
        if is_global_zero():  # at once: where the job is in the queue again, Slurm ends this attempt
            print(f"{stop}; everything is saved. {stop.resume_hint()}", flush=True)
        destroy_gloo_group()
        sys.exit(stop.status)
    except RankLost as error:
        _complain(error)
        os._exit(1)  # what is left of the process group may wait for ever when it is taken down
    except UserError as error:
        _complain(error)
        sys.exit(2)
    except (KeyboardInterrupt, Interrupted):
        sys.exit(130)
    except OSError as error:  # a full disk, a folder that cannot be written; checkpoints are whole in any case
        _complain(rank_local_error(f"{error.strerror or error}: {error.filename or 'while writing'}"))
        sys.exit(2)
    sys.exit(0)


def destroy_gloo_group() -> None:
    """Take down gloo's process group: its threads may abort a process that leaves just after a collective.

    Lightning does so for NCCL alone.
    """
    distributed = sys.modules.get("torch.distributed")  # where it is not imported, there is no process group
    met = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if distributed and met and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def rank_local_error(text: str) -> UserError:
    """An error that this process has met, and others perhaps not."""
    error = UserError(text)
    error.rank_local = True
    return error


def _complain(error: UserError) -> None:
    """Print one line; of an error that all ranks meet only the first one prints it."""
    if is_global_zero():
        print(f"error: {error}", file=sys.stderr, flush=True)
    elif error.rank_local:
        print(f"error on rank {rank()}: {error}", file=sys.stderr, flush=True)
