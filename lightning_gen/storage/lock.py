"""One writer for a run's folder: a lock on a file in it, which its process holds and which a crash releases."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from pathlib import Path

from lightning_gen.atomic import remove_parts
from lightning_gen.datamodules.errors import UserError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
HELD = {errno.EACCES, errno.EAGAIN}
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # by the file system
LOOK_EVERY = 0.25  # seconds between two tries
LATE = 120.0  # seconds by which the first rank may start later than another one
QUICK = 3600.0  # seconds: no file of a run's folder takes so long to be written


class RunLock:
    """An exclusive lock on a run's folder, for the life of this object; the first rank of a run holds it.

    It is a POSIX lock (``fcntl.lockf``): it belongs to the process, so that a forked loader does not inherit it, ends
    with the process however that ends, and holds between the nodes of a cluster where the file system takes part. It
    would be lost if this process opened the file again and closed it, so nothing here does.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._folder: Path | None = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self, folder: Path, attempt: str = "", wait: float = 0.0) -> str:
        """Hold a run's folder, and remove what killed writers have left in it.

        Args:
            folder: of the run; one that is held already is held on.
            attempt: what this start of several processes is called, for ``follow``.
            wait: seconds in which the holder may end.

        Returns:
            A line to print, where the folder cannot be locked; empty where it is.

        Raises:
            UserError: another process holds it; names it.
        """
        if self._folder == folder.resolve():
            return ""
        self.release()
        path = folder / LOCK
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            reason = _lock(file, path, wait)
        except BaseException:
            os.close(file)
            raise
        self._file, self._folder = file, folder.resolve()
        with contextlib.suppress(OSError):  # without room for the name it is locked all the same
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n{socket.gethostname()}\n{attempt}\n".encode(), 0)
            os.fsync(file)
        if reason:
            return f"{folder} cannot be locked ({reason}): see to it that no other process writes to it"
        for place in (folder / "checkpoints", *(folder / "pictures").glob("*")):
            remove_parts(place)
        remove_parts(folder, older_than=QUICK)  # evaluations write there too, without the lock
        return ""

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            os.close(self._file)
        self._file = self._folder = None


def follow(folder: Path, attempt: str, wait: float = 0.0) -> None:
    """Wait, in another rank, until the first rank of the same start holds the folder: then all read one checkpoint.

    Args:
        folder: of the run.
        attempt: as of ``take``; where it is empty there is nothing to wait for.
        wait: that the first rank may have to.

    Raises:
        UserError: it does not.
    """
    give_up = time.monotonic() + wait + LATE
    while attempt and holder(folder / LOCK)[2] != attempt:
        if time.monotonic() > give_up:
            error = UserError(f"the first rank has not taken {folder} within {wait + LATE:.0f} s: its output says why")
            error.rank_local = True
            raise error
        time.sleep(LOOK_EVERY)


def holder(path: Path) -> tuple[str, str, str]:
    """Number of the process that wrote its name into a lock's file last, its host, and its attempt; empty if unknown.

    It must not be called for a lock that this process holds.
    """
    try:
        pid, host, attempt, *_ = [*path.read_text(encoding="utf-8", errors="replace").split("\n"), "", "", ""]
    except OSError:
        return "", "", ""
    return pid, host, attempt


def _lock(file: int, path: Path, wait: float) -> str:
    """Lock an open file; returns why that is not possible here, "" if it is locked.

    Raises:
        UserError: another process holds it.
    """
    if sys.platform == "win32":
        return "this system has no POSIX locks"
    give_up = time.monotonic() + wait
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ""
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return error.strerror or str(error)
            if error.errno not in HELD:
                raise
        if time.monotonic() >= give_up:
            raise _held_by_another(path, wait)
        time.sleep(LOOK_EVERY)


def _held_by_another(path: Path, wait: float) -> UserError:
    pid, host, _ = holder(path)
    who = f"process {pid} on {host}" if pid else "another process"
    waited = f", after {wait:.0f} s still" if wait else ""
    return UserError(f"{path.parent} is{waited} being written by {who}: wait until it has ended, or stop it")
