"""The help of fit: the usual options in some twenty lines, everything on demand."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_gen import datamodules
from lightning_gen.config.arguments import SHORT_OPTIONS, parse_short_options
from lightning_gen.config.listing import models_and_data, terminal_width
from lightning_gen.config.options import REPLACED_OPTIONS, Option, options_of
from lightning_gen.datamodules.errors import program
from lightning_gen.names import resolve
from lightning_gen.presets import preset

EXAMPLES = (
    "--model vae",
    "--model beta-vae --data mnist --model.terms.kl 2 --steps 20000 --name test",
    "--model conv-vae --data ./pictures --data.size 64 --trainer.devices 2",
)

INDENT = 33  # of what an option is about
NARROW = 70  # letters; a terminal may be narrower, and then breaks lines itself


def answer(argv: list[str]) -> bool:
    """Print the list or the help, or refuse unknown names: the requests to fit that need no run.

    Only the help of a model, or of all options, imports torch.

    Returns:
        whether that was all.

    Raises:
        UserError: an unknown option, model or data set.
    """
    if not argv:
        print(models_and_data(terminal_width()))
        print(f"\ntry: {program('fit')} --model vae        help: {program('fit')} --help")
        return True
    given, _ = parse_short_options(argv)
    _check_names(given)
    if "help" in given:
        print(help_text(given, everything=given["help"] == "all"))
    return "help" in given


def _check_names(given: Mapping[str, Any]) -> None:
    """Refuse a model or data set that is in no table, before anything is imported."""
    if "." not in given.get("model", "."):
        preset(given["model"])
    if "data" in given and not Path(given["data"]).exists():
        datamodules.resolve_dataset(given["data"])


def help_text(given: Mapping[str, Any], everything: bool = False) -> str:
    """Short options, and those of the model and data that were named; with ``everything`` also the Trainer's."""
    fit = program("fit")
    lines = [f"usage: {fit} --model NAME [--data NAME] [options]", ""]
    lines += [_line(f"--{key} {meta}", about) for key, (_, meta, about) in SHORT_OPTIONS.items()]
    lines += [
        _line("--print_config", "print the resolved configuration and stop"),
        _line("--help --model NAME", "these, and the options of a model and its data"),
        _line("--help all", "every option"),
        "",
    ]
    if everything or {"model", "data"} & set(given):
        lines += [*_chosen(given, everything), ""]
    return "\n".join(
        [*lines, f"models and data sets: {program('list')}", "examples:", *(f"  {fit} {e}" for e in EXAMPLES)]
    )


def _chosen(given: Mapping[str, Any], everything: bool) -> list[str]:
    """The options of the model and data that were named; with ``everything`` also the Trainer's."""
    from lightning_gen.config import data_paths  # which imports torch

    name = given.get("model", "vae")
    row = preset(name) if "." not in name else None
    model = resolve(row.model if row else name, {}, "model class")
    path, arguments = data_paths.find(given.get("data", row.data if row else "digits"), row.model if row else name)
    defaults = row.arguments if row else {}
    lines = [f"options of {name}:", *_section("model", options_of(model), defaults, everything)]
    data = options_of(resolve(path, {}, "data set"))
    lines += ["", "options of the data:", *_section("data", data, arguments, everything)]
    if everything:
        from lightning import Trainer  # which takes seconds

        lines += ["", "options of Lightning's Trainer:", *_section("trainer", options_of(Trainer), {}, everything)]
    return lines


def _section(section: str, options: Mapping[str, Option], row: Mapping[str, Any], everything: bool) -> list[str]:
    lines = []
    for name, option in options.items():
        if f"{section}.{name}" in REPLACED_OPTIONS:
            continue
        default = row.get(name, option.default)
        shown = "" if default is inspect.Parameter.empty else f" (default {default})"
        if len(shown) > 60:
            shown = " (default: see --print_config)"
        about = option.about if everything else first_sentence(option.about)
        entry = ".KEY VALUE" if option.is_dict else f" {_meta(option)}"
        lines.append(_line(f"--{section}.{name}{entry}", f"{about.rstrip('.')}{shown}"))
    return lines


def _meta(option: Option) -> str:
    choices = re.fullmatch(r"Literal\[(.*)\]", option.type_name)
    return choices.group(1).replace("'", "").replace(" ", "") if choices else option.type_name.removesuffix(" | none")


def _line(option: str, about: str) -> str:
    """An option and what it is about, in lines as wide as the terminal, or of 100 letters where there is none."""
    width = max(NARROW, shutil.get_terminal_size((100, 24)).columns)
    lines = textwrap.wrap(about, width - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    start = f"  {option:<{INDENT - 3}} "
    first = [start + lines[0]] if len(start) == INDENT else [start.rstrip(), " " * INDENT + lines[0]]
    return "\n".join([*first, *(" " * INDENT + line for line in lines[1:])])


def first_sentence(text: str) -> str:
    """A text up to its first semicolon or full stop, but for those of abbreviations: "Sohn et al. 2015" goes on."""
    return re.split(r"; |(?<!et al)(?<!e\.g)(?<!i\.e)\. ", text, maxsplit=1)[0]
