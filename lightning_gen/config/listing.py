"""The lists of models and data sets: one line a row, as wide as the terminal, made without torch."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping

from lightning_gen.datamodules import DATASETS
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.spec import KINDS
from lightning_gen.presets import FAMILIES, PRESETS, kind_of
from lightning_gen.presets.row import Preset

NARROWEST = 60  # columns; in a narrower terminal lines wrap
WITH_LENGTH = 100  # columns from which on a run's length and data have a place of their own


def terminal_width() -> int:
    """Columns of the terminal, 80 in a pipe."""
    return max(NARROWEST, shutil.get_terminal_size().columns)


def models_and_data(width: int) -> str:
    """One recommended model of each family, below its kind of data; and the data sets."""
    recommended = [family.recommended for family in FAMILIES.values()]
    margin = max(map(len, [*recommended, *DATASETS])) + 2
    lines = [f"models: {program('fit')} --model NAME"]
    for kind in _kinds():
        lines += ["", kind]
        for name, family in FAMILIES.items():
            if family.kind == kind:
                others = f", {len(family.rows) - 1} more: {program('list')} {name}" if len(family.rows) > 1 else ""
                about = {family.recommended: family.rows[family.recommended].about}
                lines += [f"  {family.title}{others}", *table(about, width, margin, indent=4)]
    lines += ["", "data: --data NAME, or a folder of images, or a .npy file", ""]
    return "\n".join([*lines, *table({name: row.about for name, row in DATASETS.items()}, width, margin + 2)])


def _kinds() -> list[str]:
    """The kinds of data of which there are families, in the order of ``KINDS``."""
    found = {family.kind for family in FAMILIES.values()}
    return [kind for kind in KINDS if kind in found] + sorted(found - set(KINDS))


def all_of(name: str, width: int) -> str:
    """All models of a family, or all models and data sets of a kind.

    Raises:
        UserError: there is neither.
    """
    if name in FAMILIES:
        return "\n".join(_models(FAMILIES[name].title, FAMILIES[name].rows, width))
    rows = {preset: row for preset, row in PRESETS.items() if kind_of(row) == name}
    data = {dataset: row.about for dataset, row in DATASETS.items() if row.kind == name}
    if not data:
        raise _unknown(name)
    models = [*_models(f"models of {name} data", rows, width), ""] if rows else []
    usual = FAMILIES["vae"].recommended
    if usual not in rows:  # a preset is listed by the data of its row, and most take others too
        models += [f"others take it too: {program('fit')} --model {usual} --data {next(iter(data))}", ""]
    return "\n".join([*models, f"{name} data", "", *table(data, width)])


def _unknown(name: str) -> UserError:
    for family, (_, _, rows) in FAMILIES.items():
        if name in rows:
            options = f"{program('fit')} --help --model {name}"
            return UserError(f"{name!r} is a model of the family {family!r}; its options: {options}")
    return unknown("family or kind", name, {*FAMILIES, *(row.kind for row in DATASETS.values())})


def _models(title: str, rows: Mapping[str, Preset], width: int) -> list[str]:
    """What each model is and, where there is room, how long its run is on which data."""
    about = {name: row.about for name, row in rows.items()}
    if width < WITH_LENGTH:
        return [title, "", *table(about, width)]
    lengths = [f"{row.steps:>10,} {row.data}" for row in rows.values()]
    lines = table(about, width - max(map(len, lengths)) - 2)
    room = max(map(len, [title, *lines]))  # beside the texts, not at the edge of a wide terminal
    return [f"{title:<{room}}  iterations on", "", *map(f"{{:<{room}}}  {{}}".format, lines, lengths)]


def table(rows: Mapping[str, str], width: int, margin: int = 0, indent: int = 2) -> list[str]:
    """Names and texts in two columns, a line each.

    Args:
        rows: name -> text.
        width: of a line; texts are cut to it.
        margin: width of the first column, at least that of the longest name and 2.
        indent: of the first column.
    """
    margin = max([margin, *(len(name) + 2 for name in rows)])
    return [f"{'':{indent}}{name:<{margin}}{cut(text, width - margin - indent)}" for name, text in rows.items()]


def cut(text: str, width: int) -> str:
    """A text in one line of at most so many columns, cut after a word."""
    return textwrap.shorten(text, width, placeholder=" ...")
