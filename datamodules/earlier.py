"""What version 0.1 wrote of this package, which was ``datamodules`` then: a name that a user's own folder may have."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

PACKAGE, EARLIER = __name__.rpartition(".")[0], "datamodules"
FOLDER = Path(__file__).resolve().parent


def current(config: Any) -> Any:
    """A configuration, or a part of one, with today's import paths of our data sets.

    ``datamodules.mine.Faces`` stays the user's, and so does every path that was typed as the name of the data where
    there is a ``datamodules`` of the user's own.
    """
    typed = config.get("dataset") if isinstance(config, dict) else None
    if isinstance(typed, str) and typed.startswith(f"{EARLIER}.") and _is_the_users():
        return config
    return _current(config)


def current_path(path: str) -> str:
    """An import path that a user types: ours has another name today, theirs has not."""
    return path if _is_the_users() else _renamed(path)


def _current(value: Any) -> Any:
    if isinstance(value, list):
        return [_current(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    paths = {key for key in ("class_path", "dataset") if isinstance(value.get(key), str)}
    return {key: _renamed(entry) if key in paths else _current(entry) for key, entry in value.items()}


def _renamed(path: str) -> str:
    package, _, rest = path.partition(".")
    module, _, name = rest.partition(".")
    ours = package == EARLIER and name and (FOLDER / f"{module}.py").is_file()
    return f"{PACKAGE}.{rest}" if ours else path


def _is_the_users() -> bool:
    """Whether the name stands for another folder than ours; nothing of it is imported."""
    found = PathFinder.find_spec(EARLIER, [*sys.path, os.getcwd()])
    places = (found.submodule_search_locations or [found.origin or ""]) if found else []
    return any(Path(place).resolve() != FOLDER for place in places)
