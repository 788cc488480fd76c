"""Which files of a folder are pictures: one rule for every listing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from .decode import readable_suffixes

# What systems and archives keep among pictures, often copies of them; what starts with a dot is left out too.
LEFT_BY_PROGRAMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db")

SUGGESTED = {".heic": "pip install pillow-heif", ".heif": "pip install pillow-heif", ".avif": "pip install -U pillow"}
SHOWN = 6  # suffixes of files that are left out


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's making, and never listed."""
    return name.startswith(".") or name in LEFT_BY_PROGRAMS


def is_picture(path: Path, is_file: bool | None = None) -> bool:
    """Whether a file is listed as a picture, if no folder above it is hidden: a regular one that Pillow reads.

    Args:
        path: the file.
        is_file: whether it is a regular one, where that is known and need not be asked of the disk.
    """
    named = not is_hidden(path.name) and path.suffix.lower() in readable_suffixes()
    return named and (path.is_file() if is_file is None else is_file)


def walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """All files below ``root``, but for hidden ones and those in hidden folders, and whether they are regular ones.

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


def _walk_folders(place: Path, seen: set[Path], links: list[Path]) -> Iterator[tuple[Path, bool]]:
    """Files below a folder, but for what lies behind links, which are noted."""
    real = place.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:  # of no permission to read it
        return
    for entry in (entry for entry in entries if not is_hidden(entry.name)):
        path = place / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folders(path, seen, links)
        elif entry.is_symlink() and path.is_dir():
            links.append(path)
        else:
            yield path, entry.is_file(follow_symlinks=False) or (entry.is_symlink() and path.is_file())


def list_pictures(root: Path) -> Iterator[str]:
    """Paths of the pictures below ``root``, relative, with forward slashes, in no order."""
    for path, is_file in walk(root):
        if is_picture(path, is_file):
            yield path.relative_to(root).as_posix()


def left_out(roots: Collection[Path], taken: Collection[str] | None = None) -> str:
    """The files of some folders that are no data, such as "37 .heic (pip install pillow-heif), 2 .txt"; may be empty.

    Args:
        roots: the folders.
        taken: paths of the pictures that are data; without it all are.
    """
    count: Counter[str] = Counter()
    beside = 0
    for path, is_file in (found for root in roots for found in walk(root)):
        if is_picture(path, is_file):
            beside += taken is not None and str(path) not in taken
        else:
            count[(path.suffix.lower() or "without a suffix") if is_file else "not a regular file"] += 1
    ranked = sorted(count.items(), key=lambda item: (item[0] not in SUGGESTED, -item[1], item[0]))
    parts = [f"{n:,} {end}" + (f" ({SUGGESTED[end]})" if end in SUGGESTED else "") for end, n in ranked[:SHOWN]]
    if more := sum(n for _, n in ranked[SHOWN:]):
        parts.append(f"{more:,} others")
    if beside:
        parts.append(f"{beside:,} pictures beside the folders of the splits")
    return ", ".join(parts)
