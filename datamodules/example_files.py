"""Files of examples that a user names: a file, a folder of them, or a pattern, by the rules of ``listing``."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import UserError
from .files import check_regular
from .listing import is_hidden, is_picture, left_out, walk
from .pages import describe_pages, pages_of

Accepts = Callable[[Path, bool | None], bool]  # of a file, and whether it is a regular one where that is known


class ExampleFile(NamedTuple):
    """A file of one or many examples.

    Args:
        path: where it is.
        name: its path below what the user named, with forward slashes.
    """

    path: Path
    name: str


def find_examples(
    given: str | Path, out: Path | None = None, accepts: Accepts = is_picture, what: str = "picture"
) -> list[ExampleFile]:
    """The files that a path stands for: the file itself, those of a folder and below it, or those that match a pattern.

    What exists is no pattern, whatever its name, nor is a folder on the way to one: in ``"./set [v1]/*.png"`` the
    brackets are those of the folder.

    Args:
        given: the path, as the user wrote it.
        out: folder of results, which are no examples though they may lie below what is given.
        accepts: whether a file of a folder or a pattern is one of examples; a single file needs no suffix.
        what: a file holds, for the error's text.

    Raises:
        UserError: there is none.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        if out is not None and path.resolve() == out.resolve():
            raise UserError(f"{given} is what is read: give another folder for the results, --out OUT")
        found = [
            ExampleFile(file, file.relative_to(path).as_posix()) for file, known in walk(path) if accepts(file, known)
        ]
    elif path.exists():
        check_regular(path)
        found = [ExampleFile(path, path.name)]
    elif glob.has_magic(str(path)):
        found = _matching(path, accepts, what)
    else:
        raise UserError(f"no {what} and no folder at {given}")
    if not found:
        others = left_out([path]) if path.is_dir() else ""
        raise UserError(f"no {what} in {given}" + (f"; there are {others}" if others else ""))
    if out is not None:
        results = out.resolve()
        kept = [file for file in found if path.is_file() or results not in file.path.resolve().parents]
        if not kept:
            raise UserError(f"no {what} in {given} that is not a result in {out}: give another folder, --out OUT")
        found = kept
    return sorted(found, key=lambda file: file.name)


def find_all_examples(
    given: Sequence[str | Path], out: Path | None = None, accepts: Accepts = is_picture, what: str = "picture"
) -> list[ExampleFile]:
    """The files that several paths stand for, see ``find_examples``."""
    return [file for path in given for file in find_examples(path, out, accepts, what)]


def _matching(pattern: Path, accepts: Accepts, what: str) -> list[ExampleFile]:
    """The files that match a pattern, named below the folder before the first wildcard."""
    parts, fixed = pattern.parts, 0
    while fixed < len(parts) - 1 and (not glob.has_magic(parts[fixed]) or Path(*parts[: fixed + 1]).is_dir()):
        fixed += 1
    if ".." in parts[fixed:]:
        raise UserError(f"{pattern}: '..' behind a wildcard leads out of the folder whose names are kept")
    root = Path(*parts[:fixed])
    names = {Path(name) for name in glob.glob(str(Path(*parts[fixed:])), root_dir=root, recursive=True)}
    shown = (name for name in names if not any(map(is_hidden, name.parts)))
    found = [ExampleFile(root / name, name.as_posix()) for name in shown if accepts(root / name, None)]
    if not found:
        raise UserError(f"no {what} matches {pattern}")
    return found


def notices_of(given: Sequence[str | Path], files: Iterable[ExampleFile]) -> list[str]:
    """What is left out of the folders and files that are named: a line each for other files, and further pages."""
    others = left_out([path for path in map(Path, given) if path.is_dir()])
    pages = describe_pages(pages_of(sorted({str(file.path) for file in files})), taken=False)
    return [*pages, *([f"left out: {others}"] if others else [])]


def check_originals(files: Iterable[ExampleFile], results: Iterable[Path]) -> None:
    """Refuse to write over what was read.

    Raises:
        UserError: a result has the place of an example.
    """
    originals = {file.path.resolve() for file in files}
    for path in results:
        if path.resolve() in originals:
            raise UserError(f"{path} is one of the files that are read: give another folder, --out OUT")
