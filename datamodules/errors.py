"""Errors that the user can correct: one clear line, no stack trace on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"  # of a checkout; a wheel has none


class UserError(ValueError):
    """A user's mistake. The text says what was given, what is possible and what to try."""

    rank_local = False  # of several processes only this one has met it: this rank prints the error


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is in no table: with the nearest known name and the whole list."""
    names = sorted({*map(str, known)})
    near = get_close_matches(str(given)[:200], names, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {given!r}:{hint} known: {', '.join(names)}")


def program(command: str = "") -> str:
    """What the user types to call a command, in the form in which this program was called.

    Args:
        command: its name; empty for the program itself, which the scripts have not.
    """
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("lightning_gen", "__main__.py") or called.parts[-3:-1] == ("lightning_gen", "commands"):
        return f"python -m lightning_gen {command}".rstrip()
    if called.suffix == ".py" and (SCRIPTS / called.name).is_file():
        return f"python scripts/{command.replace('-', '_')}.py" if command else "python -m lightning_gen"
    return f"lightning-gen {command}".rstrip()  # its entry point, also for a program of the user's own
