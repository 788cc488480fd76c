"""The model of a run whose command line names data and no model: the preset of the data's kind, and a fitting batch."""

from __future__ import annotations

from typing import Any

from lightning_gen.config import cli
from lightning_gen.config.data_paths import find
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError
from lightning_gen.kinds import kind_of
from lightning_gen.presets import preset

LARGEST = 128  # examples of a batch
BATCHES = 8  # in a pass over the data, at least


def fill_in(given: dict[str, Any], rest: list[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Short options and the other arguments of a command line, with a model; and what is said about the choice.

    Raises:
        UserError: an option of the data is wrong, or no preset is for data of this kind.
    """
    if "data" not in given or {"model", "config"} & set(given):
        return given, rest, []
    find(given["data"], None)  # a path that several data sets read is ambiguous: not resolved with the default model
    own = _of_data(rest)
    data = cli.instantiate_data(cli.resolve_config({"model": "vae", "data": given["data"]}, own))
    if not isinstance(data, DataModule):
        return given, rest, []
    kind = kind_of(data.spec)
    name = kind.preset(data.spec)
    if name is None:
        raise UserError(f"no preset is for {kind.plural} of two sides: name a class of your own, --model my_model.Mine")
    notes = [f"no --model given: {name}, the preset for {kind.plural}"]
    usual = preset(name).data_arguments.get("batch_size", LARGEST) if data.spec.has_two_sides else data.batch_size
    batch = min(usual, fitting_batch(data.spec.size))
    if batch != data.batch_size and not any(word.startswith("--data.batch_size") for word in own):
        rest = [*rest, f"--data.batch_size={batch}"]
        notes.append(f"batch {batch}, for {data.spec.size:,} training examples")
    return {**given, "model": name}, rest, notes


def _of_data(rest: list[str]) -> list[str]:
    """The options of the data, each with its value, which may be the next word."""
    own, ours = [], False
    for word in rest:
        ours = word.startswith("--data.") if word.startswith("--") else ours
        own += [word] if ours else []
    return own


def fitting_batch(size: int) -> int:
    """The largest power of two, up to 128, of which the training examples fill several batches."""
    return min(LARGEST, 1 << max(0, (size // BATCHES).bit_length() - 1))
