"""Which files of a folder are pictures: one rule for every listing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .images import SUFFIXES


def walk(root: Path) -> Iterator[Path]:
    """All files below ``root``.

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
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:  # of no permission to read it
        return
    for entry in entries:
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
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith("."):
            yield path.relative_to(root).as_posix()
