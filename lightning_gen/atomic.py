"""Files of which a reader never sees a part: written under a name of their own, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lightning_gen.datamodules.files import check_regular

SUFFIX = ".part"


@contextlib.contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of ``path`` when all is written; after an error nothing is left.

    Its name is of this process and random, so that several writers of one file do not meet: the last one to end wins.

    Args:
        path: what its name is to be; its folder must be there.
        durable: wait for the disk, so that the name stands for a whole file also after a power cut.

    Raises:
        UserError: there is a pipe or a device of this name.
        OSError: with ``path`` as its file.
    """
    check_regular(path)
    part = _part_of(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename = str(path)
        raise
    if durable:
        _sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that its name always stands for a whole one, also after a power cut."""
    with atomic_file(path) as file:
        file.write(content)


def link_atomically(path: Path, other: Path) -> None:
    """Give a file another name as well, in the place of what has that name; a copy where the system has no links."""
    part = _part_of(other)
    try:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
        os.replace(part, other)
    finally:
        part.unlink(missing_ok=True)  # it stays also where both were names of one file already
    _sync_folder(other.parent)


def remove_parts(folder: Path, older_than: float = 0.0) -> None:
    """Remove what writers that were killed have left in a folder.

    Args:
        folder: of which no other process is a writer, but for files that are written in less than ``older_than``.
        older_than: age of what is removed, in seconds.
    """
    latest = time.time() - older_than
    for part in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if part.lstat().st_mtime <= latest:
                part.unlink()


def _part_of(path: Path) -> Path:
    """A free name beside a file, short, because the file's own may be as long as the system allows."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}")


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
