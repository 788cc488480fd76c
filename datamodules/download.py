"""The errors of data sets that are downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError

from .errors import UserError, program


@contextmanager
def download_errors(name: str, folder: Path, by_hand: str) -> Iterator[None]:
    """Turn any failure of a download into one clear error.

    Args:
        name: the data set's name on the command line.
        folder: where the data belong.
        by_hand: what to place in the folder by hand.

    Raises:
        UserError: where we looked, what happened, and the three ways out.
    """
    try:
        yield
    except (OSError, RuntimeError, HTTPException, TarError, EOFError) as error:
        raise UserError(
            f"{name} is not in {folder} and could not be downloaded ({str(error).strip() or type(error).__name__}).\n"
            f"On a machine with network: {program('fit')} --data {name} --data.root DIR\n"
            f"By hand: place {by_hand} in {folder}\n"
            f"Without any download: --data digits"
        ) from error


def damaged_file_error(path: Path) -> UserError:
    """The error for a file that is missing or has the wrong size."""
    state = "is damaged: delete it" if path.exists() else "is missing: call prepare_data(), or delete what is beside it"
    return UserError(f"{path} {state} and start again, it will be downloaded anew")
