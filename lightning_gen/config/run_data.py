"""The data of a run, for the commands that go back to them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lightning_gen.config import cli
from lightning_gen.config.options import options_of
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.names import check_class_paths, resolve, trusted_imports
from lightning_gen.storage import runs


def parse_with_data_options(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[Any, list[str]]:
    """The parser's own options, and the rest, which are options of the data.

    Raises:
        UserError: an unknown option.
    """
    given, rest = parser.parse_known_args(argv)
    for word in (word.partition("=")[0] for word in rest):
        if word.startswith("-") and not word.startswith("--data."):
            raise unknown("option", word, [flag for a in parser._actions for flag in a.option_strings])
    return given, rest


def instantiate_run_data(
    run: str, rest: list[str], trust: Sequence[str], name: str | None
) -> tuple[DataModule, dict[str, Any]]:
    """The data of a run, or others by name, not yet prepared; and the configuration that says which.

    Args:
        run: a run folder or one of its checkpoints.
        rest: options of the data, ``--data.root FOLDER``.
        trust: modules that the configuration may import.
        name: of other data than the run's.

    Raises:
        UserError: the run's data are not known, or are a DataModule of another kind.
    """
    with trusted_imports(trust):  # a run's folder may be somebody else's
        plan = (
            cli.resolve_config({"model": "vae", "data": name}, rest)
            if name
            else cli.resolve_config({"model": "vae"}, rest, _saved_data(run))
        )
        data = cli.instantiate_data(plan)
    if not isinstance(data, DataModule):
        raise UserError(
            f"{type(data).__name__} is a DataModule of another kind: wrap its Dataset in "
            "lightning_gen.datamodules.custom.Custom"
        )
    return data, plan.config


def _saved_data(run: str) -> dict[str, Any]:
    """The data's part of a run's configuration alone: a parser imports each class that it names."""
    try:
        config = runs.read_config(run)
    except UserError as error:
        raise UserError(f"{error}. Of a checkpoint that fit did not write, name the data: --data NAME") from None
    data = config["data"]
    if not isinstance(data, dict) or not isinstance(data.get("init_args") or {}, dict):
        raise UserError(f"data in the configuration of {run} is damaged: it holds class_path and init_args")
    check_class_paths(data)
    options = options_of(resolve(data.get("class_path", ""), {}, "data set"))
    for name, value in (data.get("init_args") or {}).items():
        check_class_paths(value, texts=name in options and not options[name].takes_text)
    return {"dataset": config["dataset"], "data": data}
