"""Resolves ``--data``: a data set by its name, or the one that reads a user's own file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_gen import datamodules
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.paths import to_path, to_text
from lightning_gen.kinds import kinds_of_table
from lightning_gen.kinds.base import Claim
from lightning_gen.names import resolve
from lightning_gen.training.accepted import translates


def find(name: str, model: str | None) -> tuple[str, dict[str, Any]]:
    """Import path and arguments of the data that ``name`` means to a model.

    Args:
        name: a row of ``DATASETS``, the import path of a class, or a file or folder that one data set takes.
        model: import path of the class; where several data sets take a path, it may accept only one of them;
            None where no model is chosen yet.

    Raises:
        UserError: it is none of these, or several data sets take it.
    """
    path = to_path(name)
    if not name or name in datamodules.DATASETS or not path.exists():
        return datamodules.resolve_dataset(name)
    claims = claims_of(path)
    if not claims:
        known = "; ".join(f"{kind.plural}: {', '.join(kind.suffixes)}" for kind in kinds_of_table())
        names = ", ".join(datamodules.DATASETS)
        what = "holds no data" if path.is_dir() else "is no file of data"
        raise UserError(f"--data {name} {what} ({known}); known names: {names}")
    if len(claims) > 1 and model:
        sides = translates(resolve(model, {}, "model class"))
        claims = [claim for claim in claims if claim.two_sides == sides] or claims
    if len(claims) > 1:
        choices = " or ".join(_as_options(claim) for claim in claims)
        raise UserError(f"--data {name} can be read in {len(claims)} ways: give {choices}")
    return datamodules.resolve_dataset(claims[0].data)[0], _as_texts(claims[0].options)


def _as_texts(options: dict[str, Any]) -> dict[str, Any]:
    """Options that say where the data are, in a form that a file of configuration can hold."""
    return {name: to_text(value) if isinstance(value, str) else value for name, value in options.items()}


def claims_of(path: Path) -> list[Claim]:
    """The data sets that kinds of the table read a file or folder with, each once."""
    claims: list[Claim] = []
    for kind in kinds_of_table():
        claims += [claim for claim in kind.claims(path) if claim not in claims]
    return claims


def _as_options(claim: Claim) -> str:
    return " ".join(["--data", claim.data, *(f"--data.{key} {value}" for key, value in claim.options.items())])
