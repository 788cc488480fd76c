"""How a command ends: its exit status, and one line for what went wrong.

Nothing here imports torch, which takes seconds: a mistake in a name is answered at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.paths import printable

LONGEST = 500  # letters of a word in an error's text, such as a path; a longer one is cut
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


class Incomplete(Exception):
    """The command has done its work, but left something out, which its text says: status 1."""


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
    status = 0
    try:
        check_output()
        with silent_event_writer():
            main(sys.argv[1:])
        destroy_gloo_group()
        _flush_output()
    except Stopped as stop:
        if is_global_zero():  # at once: where the job is in the queue again, Slurm ends this attempt
            print(f"{stop}; everything is saved. {stop.resume_hint()}", flush=True)
        destroy_gloo_group()
        status = stop.status
    except RankLost as error:
        _complain(error)
        os._exit(1)  # what is left of the process group may wait for ever when it is taken down
    except Incomplete as rest:
        if is_global_zero():
            print(printable(str(rest)), file=sys.stderr, flush=True)
        destroy_gloo_group()
        sys.exit(1)
    except UserError as error:
        _complain(error)
        status = 2
    except (KeyboardInterrupt, Interrupted):
        status = 130
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        _complain(rank_local_error(f"not enough memory: {' '.join(str(error).split())[:200]}"))
        status = 2
    except OSError as error:  # a full disk, a folder that cannot be written; checkpoints are whole in any case
        _complain(rank_local_error(_reason(error)))
        status = 2
    _end_output()
    sys.exit(status)


def check_output() -> None:
    """What is printed has a place to go, and a form.

    Raises:
        UserError: standard output is closed: a file that is opened next would be given its number, and be printed to.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # it is closed; so it is taken by a file that nothing harms
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise UserError("standard output is closed: send it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where the locale has no arrow, a question mark stands for it


def is_memory_error(error: BaseException) -> bool:
    """Whether memory has run out, of the processor or of a GPU, for which torch has no common class."""
    texts = ("allocate memory", "Storage size calculation overflowed")
    of_torch = type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in texts)
    return isinstance(error, MemoryError) or of_torch


def _reason(error: OSError) -> str:
    """A failure of the system in words."""
    if error.errno == errno.EPIPE:
        return "the program that read the output has ended"
    of_events = any("tensorboard" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    place = error.filename or ("TensorBoard's file of events" if of_events else "while writing")
    return f"{error.strerror or error}: {os.fsdecode(place) if isinstance(place, bytes) else place}"


def _flush_output() -> None:
    """Write out what was printed."""
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        raise


def _end_output() -> None:
    """Write out what is still to be printed; where that fails, Python would complain once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def silent_event_writer() -> Iterator[None]:
    """Inside, the thread that writes TensorBoard's files prints no trace: the next value logged raises its error."""
    usual = threading.excepthook

    def name_file(told: threading.ExceptHookArgs) -> None:
        if not (isinstance(told.exc_value, OSError) and type(told.thread).__name__ == "_AsyncWriterThread"):
            usual(told)
            return
        file = getattr(getattr(told.thread, "_record_writer", None), "_writer", None)
        told.exc_value.filename = told.exc_value.filename or getattr(file, "filename", "TensorBoard's file of events")

    threading.excepthook = name_file
    try:
        yield
    finally:
        threading.excepthook = usual


@contextlib.contextmanager
def silent_ctrl_c() -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once with status 130: an import that it breaks off tells of other errors."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


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
    text = re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:60]}...", " ".join(str(error).splitlines()))
    text = printable(text)
    with contextlib.suppress(OSError):  # there may be nobody who reads it
        if is_global_zero():
            print(f"error: {text}", file=sys.stderr, flush=True)
        elif error.rank_local:
            print(f"error on rank {rank()}: {text}", file=sys.stderr, flush=True)
