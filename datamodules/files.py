"""Files: read where they are files and of a size that memory holds."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .errors import UserError

TEXT = 16 * 2**20  # bytes of a file of text, at most


def check_regular(path: str | Path) -> None:
    """Refuse a pipe, a device or a socket, of which reading may wait or go on for ever.

    Raises:
        UserError: it is one; what is missing or a folder is left to the reader.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # a missing file, a name that no file can have
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is a pipe, a device or a socket: give a file")


def read_text(path: str | Path) -> str:
    """The text of a file, in UTF-8.

    Raises:
        UserError: it is a pipe or a device, or larger than any file of options.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    check_regular(path)
    if (size := os.stat(path).st_size) > TEXT:
        raise UserError(f"{path} has {size:,} bytes: a file of options or results has at most {TEXT:,}")
    return Path(path).read_text(encoding="utf-8")


def free_memory() -> int:
    """Bytes of memory that are free, as far as the system tells; else a guess that does not refuse what may fit."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    return 2**40


def check_memory(size: int, what: str, advice: str) -> None:
    """Refuse what cannot fit into memory, before a part of it is made.

    Args:
        size: bytes that are needed.
        what: needs them, for the error's text.
        advice: what to do instead.

    Raises:
        UserError: more is needed than is free.
    """
    if size > (free := free_memory()):
        raise UserError(f"{what} would take {size / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} are free: {advice}")
