"""The help of fit.py: what most people need in some twenty lines, everything on demand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import lightning as L

from lightning_gen import datamodules
from lightning_gen.config.cli import SHORT_OPTIONS
from lightning_gen.config.options import REPLACED_OPTIONS, Option, options_of
from lightning_gen.names import resolve
from lightning_gen.presets import preset

EXAMPLES = """examples:
  python scripts/fit.py --model vae
  python scripts/fit.py --model beta-vae --data mnist --model.terms.kl 2 --steps 20000 --name test
  python scripts/fit.py --model conv-vae --data ./pictures --data.size 64 --trainer.devices 2"""


def help_text(given: Mapping[str, Any], everything: bool = False) -> str:
    """Short options and those of the chosen model; with ``everything`` also all of the data's and the Trainer's."""
    name = given.get("model", "vae")
    row = preset(name) if "." not in name else None
    model = resolve(row.model if row else name, {}, "model class")
    path, arguments = datamodules.resolve_dataset(given.get("data", row.data if row else "digits"))
    lines = ["usage: python scripts/fit.py --model NAME [--data NAME] [options]", ""]
    lines += [_line(f"--{key} {meta}", about) for key, (_, meta, about) in SHORT_OPTIONS.items()]
    lines += [_line("--print_config", "print the resolved configuration and stop"), _line("--help all", "every option")]
    lines += [
        "",
        f"options of {name}:",
        *_section("model", options_of(model), row.arguments if row else {}, everything),
    ]
    data = options_of(resolve(path, {}, "data set"))
    lines += ["", "options of the data:", *_section("data", data, arguments, everything)]
    if everything:
        lines += ["", "options of Lightning's Trainer:", *_section("trainer", options_of(L.Trainer), {}, everything)]
    return "\n".join([*lines, "", EXAMPLES])


def _section(section: str, options: Mapping[str, Option], row: Mapping[str, Any], everything: bool) -> list[str]:
    lines = []
    for name, option in options.items():
        if f"{section}.{name}" in REPLACED_OPTIONS:
            continue
        default = row.get(name, option.default)
        shown = "" if default is inspect.Parameter.empty else f" (default {default})"
        if len(shown) > 60:
            shown = " (default: see --print_config)"
        about = option.about if everything else option.about.split("; ")[0].split(". ")[0]
        entry = ".KEY VALUE" if option.is_dict else f" {_meta(option)}"
        lines.append(_line(f"--{section}.{name}{entry}", f"{about.rstrip('.')}{shown}"))
    return lines


def _meta(option: Option) -> str:
    choices = re.fullmatch(r"Literal\[(.*)\]", option.type_name)
    return choices.group(1).replace("'", "").replace(" ", "") if choices else option.type_name.removesuffix(" | none")


def _line(option: str, about: str) -> str:
    return f"  {option:<30} {about}"
