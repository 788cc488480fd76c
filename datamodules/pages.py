"""Pages of files that hold several pictures, and frames of animations: ``file.tif[3]`` names the fourth one.

No file that is listed as a picture has such a name, as it ends in no suffix of one.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from .files import check_regular

PAGES = ("first", "all")
ANIMATED = (".gif", ".webp", ".png", ".apng", ".avif", ".avifs", ".fli", ".flc")
PAGED = (*ANIMATED, ".tif", ".tiff", ".dcx", ".mpo")  # suffixes of files that may hold several
PAGE = re.compile(rf"(.+(?:{'|'.join(map(re.escape, PAGED))}))\[(\d{{1,9}})\]", re.IGNORECASE | re.DOTALL)
PNG, CHUNKS = b"\x89PNG\r\n\x1a\n", 64  # of a PNG, that are looked at in search of an animation


def split_page(path: str) -> tuple[str, int]:
    """The file and the number of the page that a path names, 0 of a plain file."""
    found = PAGE.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, 0)


def page_name(path: str, page: int) -> str:
    """The path of a page; the first one has a number too, so that all pages of a file are named alike."""
    return f"{path}[{page}]"


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings of odd files, such as damaged EXIF, for one thread, which may start others inside."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _Opened:
    """A file that stays open between two pages; it is closed with the thread that reads it."""

    def __init__(self, path: str) -> None:
        self.stamp = _stamp(path)
        self.file = open(path, "rb")  # noqa: SIM115
        try:
            self.image = _identify(self.file)
        except BaseException:
            self.file.close()
            raise

    def __del__(self) -> None:
        if "file" in self.__dict__:
            self.file.close()


def _identify(file: BinaryIO) -> Image.Image:
    """What Pillow makes of a file; its error names the object of Python, and callers name the path."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise UnidentifiedImageError("no format of pictures that Pillow knows") from None


def _stamp(path: str) -> tuple[object, ...]:
    """Differs where a file was written anew, and in a process that was forked, which shares the place in the file."""
    found = os.stat(path)
    return path, os.getpid(), found.st_ino, found.st_size, found.st_mtime_ns


_last = threading.local()


@contextmanager
def open_page(path: str | Path) -> Iterator[Image.Image]:
    """An image of Pillow at the page that the path names; what is made of it must be a copy.

    Of a page the file stays open until the thread opens another one: to find a frame of an animation, those before it
    are decoded, so that reading them one after the other takes linear and not quadratic time. A page that was decoded
    no longer says how deep it is, so the same one is opened anew.

    Raises:
        Exception: whatever Pillow raises on a broken file.
    """
    file, page = split_page(str(path))
    check_regular(file)
    if file == str(path):
        with open(path, "rb") as plain, _identify(plain) as image:
            yield image
        return
    opened: _Opened | None = getattr(_last, "opened", None)
    if opened is None or opened.stamp != _stamp(file) or opened.image.tell() >= page:
        _last.opened = None  # closes the other one
        opened = _Opened(file)
    _last.opened = None  # after an error the next page is looked for from the start
    opened.image.seek(page)
    yield opened.image
    _last.opened = opened


def count_pages(path: str) -> int:
    """How many pages or frames a file holds, without decoding them; 1 where that cannot be told."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            if path.lower().endswith((".webp", ".png", ".apng")):  # most of them are one picture, which is soon told
                head = file.read(33)
                if head[:4] == b"RIFF" and not (head[12:16] == b"VP8X" and head[20] & 2):  # the flag of an animation
                    return 1
                if head[:8] == PNG and not _is_animated_png(file):
                    return 1
                file.seek(0)
            with Image.open(file) as image:
                return getattr(image, "n_frames", 1)
    except Exception:  # reading it will tell why
        return 1


def _is_animated_png(file) -> bool:  # noqa: ANN001
    """Whether the chunk acTL comes before the first picture; the file is read up to the second chunk."""
    for _ in range(CHUNKS):
        size, kind = file.read(4), file.read(4)
        if kind in (b"acTL", b"IDAT", b"IEND", b""):
            return kind == b"acTL"
        file.seek(int.from_bytes(size, "big") + 4, 1)
    return False


def pages_of(paths: Sequence[str]) -> dict[str, int]:
    """How many pages those of some files hold that hold several."""
    asked = [path for path in paths if path.lower().endswith(PAGED)]
    with quiet_pillow(), ThreadPoolExecutor() as pool:
        return {path: n for path, n in zip(asked, pool.map(count_pages, asked), strict=True) if n > 1}


def with_pages(paths: Sequence[str], pages: dict[str, int]) -> list[str]:
    """The paths of files, with those of all their pages in the place of a file of several."""
    return [name for path in paths for name in pages_named(path, pages.get(path, 1))]


def pages_named(path: str, count: int) -> list[str]:
    """The paths of a file's pages; of a single one the file's own."""
    return [page_name(path, k) for k in range(count)] if count > 1 else [path]


def describe_pages(pages: dict[str, int], taken: bool, hint: str = "") -> list[str]:
    """What to say of files of several pages: that the first stands for the file, or that all are taken; or nothing.

    Args:
        pages: how many each file holds.
        taken: all of them are examples.
        hint: how they can be, where they are not.
    """
    if not pages:
        return []
    path, first = next(iter(pages.items()))
    files, more = f"{len(pages):,} file" + "s" * (len(pages) > 1), sum(pages.values()) - len(pages)
    if taken:
        return [f"{files} of several pages or frames give {more + len(pages):,} examples: such as {path}, of {first:,}"]
    return [f"of {files} only the first page or frame is taken, {more:,} are not: such as {path}, of {first:,}{hint}"]
