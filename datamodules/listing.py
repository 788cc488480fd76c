"""Which files of a folder are pictures: one rule for every listing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .images import SUFFIXES

# What systems and archives keep among pictures, often copies of them; what starts with a dot is left out too.
LEFT_BY_PROGRAMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's making, and never listed."""
    return name.startswith(".") or name in LEFT_BY_PROGRAMS


def is_picture(path: Path) -> bool:
    """Whether a file is listed as a picture, if no folder above it is hidden: a regular one of a known suffix."""
    return not is_hidden(path.name) and path.suffix.lower() in SUFFIXES and path.is_file()


def walk(root: Path) -> Iterator[Path]:
    """All files below ``root``, but for hidden ones and those in hidden folders.

    Links to folders are followed. A folder is listed once: by its own place in ``root`` where it has one, else by the
    first link that leads to it, so that loops end and no picture is listed twice. Links to what holds ``root`` are not
    followed.
    """
    top = root.resolve()
    seen, waiting = {*top.parents}, [root]
    while waiting:  # folders first; then, one after the other, the links met on the way
        links: list[Path] = []
        for place in waiting:
            yield from _walk_folders(place, seen, links)
        waiting = sorted(links)


def _walk_folders(place: Path, seen: set[Path], links: list[Path]) -> Iterator[Path]:
    """Files below a folder, but for what lies behind links, which are noted."""
    real = place.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(
            (entry for entry in os.scandir(place) if not is_hidden(entry.name)), key=lambda entry: entry.name
        )
    except OSError:  # of no permission to read it
        return
    for entry in (entry for entry in entries if not is_hidden(entry.name)):
        path = place / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folders(path, seen, links)
        elif entry.is_symlink() and path.is_dir():
            links.append(path)
        else:
            yield path


def list_pictures(root: Path) -> Iterator[str]:
    """Paths of the pictures below ``root``, relative, with forward slashes, in no order."""
    for path in walk(root):
        if is_picture(path):
            yield path.relative_to(root).as_posix()
