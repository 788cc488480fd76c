"""The processes of one machine that the first rank starts, and what happens when one of them ends too early."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_gen.storage.checkpoints import how_to_go_on

LOOK_EVERY = 0.5  # seconds
GRACE = 8.0  # seconds in which a run may end by itself after it has lost a process


class SubprocessLauncher(_SubprocessScriptLauncher):
    """Lightning's, with a watch that names a rank that died, and that kills all child processes.

    Lightning's own kills the first rank as soon as another one has ended with a status other than 0, before either can
    say why.
    """

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **options: Any) -> Any:
        """Start the other processes, then call the function here."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            watched = (self.procs, checkpoint_folder(trainer) if trainer else None)
            threading.Thread(target=_watch, args=watched, daemon=True, name="watch-of-ranks").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **options)


def wait_then_kill(processes: Sequence[subprocess.Popen[Any]], patience: float = GRACE) -> None:
    """Wait for processes to end by themselves, then kill those that do not, frozen ones too."""
    give_up = time.monotonic() + patience
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, give_up - time.monotonic()))
        if process.poll() is None:
            process.kill()


def exit_reason(status: int) -> str:
    """-9 -> "was killed by SIGKILL"; 1 -> "ended with status 1"."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def checkpoint_folder(trainer: L.Trainer) -> Path | None:
    """Of a run that ``fit`` has started; None for another Trainer."""
    folder = getattr(trainer.checkpoint_callback, "folder", None)
    return folder if isinstance(folder, Path) else None


def _watch(processes: Sequence[subprocess.Popen[Any]], folder: Path | None) -> None:
    """End the run, with one line, when a process of it has failed and the first rank does not notice."""
    while True:
        time.sleep(LOOK_EVERY)
        ended = [process.poll() for process in processes]
        if all(status == 0 for status in ended):
            return
        if any(ended):
            break
    rank, status = next((rank, status) for rank, status in enumerate(ended, 1) if status)
    time.sleep(GRACE)  # the first rank's own error says more
    print(f"error: rank {rank} {exit_reason(status)}. {how_to_go_on(folder)}", file=sys.stderr, flush=True)
    wait_then_kill(processes, 0.0)
    os._exit(1)
