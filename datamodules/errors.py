"""Errors that are the user's to mend: one clear line, no stack trace on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what was asked for. The text says what was given, what is possible and what to try."""

    rank_local = False  # of several processes only this one has met it, so it speaks for itself


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is in no table: with the nearest known name and the whole list."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {given!r}:{hint} known: {', '.join(names)}")
