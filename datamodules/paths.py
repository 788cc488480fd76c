"""Paths of the user as text: names that are not UTF-8 pass through YAML, which refuses them as Python holds them."""

from __future__ import annotations

from pathlib import Path

SURROGATES, PRIVATE = range(0xDC80, 0xDD00), range(0xF780, 0xF800)  # Python's stand-ins for odd bytes, and ours
_TO_PRIVATE = dict(zip(SURROGATES, PRIVATE, strict=True))
_TO_SURROGATES = dict(zip(PRIVATE, SURROGATES, strict=True))


def to_text(path: str) -> str:
    """A path, or any other word of the command line, as text that every file can hold.

    Bytes that are not UTF-8 become characters of Unicode's private use area, which no font and no other program has.
    """
    return path.translate(_TO_PRIVATE)


def from_text(text: str) -> str:
    """The word that ``to_text`` made a text of."""
    return text.translate(_TO_SURROGATES)


def to_path(text: str | Path) -> Path:
    """The path that a text stands for, below the user's home where it begins with ~.

    A file that bears such private characters itself is found too.
    """
    path = Path(text).expanduser()
    odd = Path(from_text(str(path)))
    return path if odd == path or path.exists() else odd


def printable(text: str) -> str:
    r"""A text that can be encoded: bytes that are not UTF-8 are written \udcff."""
    return text.encode("utf-8", "backslashreplace").decode()
