"""Signal handling: a stop request is acted on after the current iteration, on all ranks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lightning_gen.cluster.launch import detect_launch, status_after
from lightning_gen.exits import Interrupted, Stopped, is_global_zero

STOP_SIGNALS = ("SIGINT", "SIGTERM")  # noted in training; before it they end the process: there is nothing to save
TIME_LIMIT_SIGNAL = "SIGUSR1"  # of a scheduler: the time is nearly up


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Where signals are not noted, before the first and after the last iteration, Ctrl-C ends a run as elsewhere.

    Raises:
        Interrupted: in the place of Lightning's exit with status 1, that of a failure.
    """
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise Interrupted from None
        raise


def stop_numbers() -> list[int]:
    """The numbers of ``STOP_SIGNALS``."""
    return [getattr(signal, name) for name in STOP_SIGNALS]


class SignalHandler:
    """Records the signals that request a stop."""

    def __init__(self) -> None:
        self.pending = 0
        self._impatient = False  # Ctrl-C once
        self._handlers: dict[int, Any] = {}
        self._finishing: Path | None = None  # folder of a run whose last iteration is done

    def install(self, *names: str) -> None:
        """From now on these are recorded; in the main thread only, as the system requires."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (getattr(signal, name) for name in names if hasattr(signal, name)):
            before = signal.signal(signum, self._note)
            self._handlers.setdefault(signum, before)

    def restore(self) -> None:
        """As it was before; but a warning that comes while a run is being finished does not end it."""
        for signum, handler in self._handlers.items():
            if signum == getattr(signal, TIME_LIMIT_SIGNAL, 0) and "SLURM_JOB_ID" in os.environ:
                signal.signal(signum, signal.SIG_IGN)
            elif signal.getsignal(signum) == self._note:  # else the Trainer has put back what was there before its own
                signal.signal(signum, handler)
        self._handlers = {}

    @contextlib.contextmanager
    def finishing(self, folder: Path) -> Iterator[None]:
        """After the last iteration: a stop that was requested since the last boundary, or now, ends the run at once.

        What is missing then, such as summary.json, is made when the run is resumed.

        Raises:
            Stopped: one was requested.
        """
        self.restore()
        self._finishing = folder
        self.install(*STOP_SIGNALS)
        try:
            if self.pending in stop_numbers():
                self._stop(self.pending)
            yield
        finally:
            self._finishing = None
            self.restore()

    def _stop(self, signum: int) -> NoReturn:
        assert self._finishing is not None
        status = status_after(signum, detect_launch(), is_global_zero())
        raise Stopped(signum, self._finishing, status=status)

    def _note(self, signum: int, _: Any) -> None:
        if signum == signal.SIGINT and self._impatient:  # a person for the second time: at once
            self.restore()
            raise Interrupted
        if self._finishing is not None:
            self._stop(signum)
        self._impatient = self._impatient or signum == signal.SIGINT
        if not self.pending and is_global_zero():
            # written, not printed: the signal may have interrupted a print
            os.write(1, f"\n{signal.Signals(signum).name}: saving after this iteration ...\n".encode())
        self.pending = max(self.pending, signum)
