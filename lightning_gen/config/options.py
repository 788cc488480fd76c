"""The options of a class, read from its constructor's signature and docstring: for the help and for clear errors."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from docstring_parser import parse as parse_docstring

from lightning_gen.datamodules.errors import UserError, unknown

REPLACED_OPTIONS = {  # options of Lightning that mean something else here, or that have a short name
    "trainer.max_steps": "--steps",
    "trainer.min_steps": "--steps",
    "trainer.max_epochs": "--epochs",
    "trainer.min_epochs": "--epochs",
    "trainer.val_check_interval": "--val_every",
    "trainer.check_val_every_n_epoch": "--val_every",
    "trainer.gradient_clip_val": "--model.clip",
    "trainer.gradient_clip_algorithm": "--model.clip",
    "trainer.enable_checkpointing": "--save_every",
    "trainer.default_root_dir": "--name, or another current folder",
    "trainer.use_distributed_sampler": "the data's own order",
    "trainer.accumulate_grad_batches": "--model.accumulate",
    "model.seed": "--seed",
    "data.seed": "--seed",
}


class Option(NamedTuple):
    """One argument of a constructor."""

    type: Any
    default: Any
    about: str

    @property
    def is_dict(self) -> bool:
        """Whether the option is a mapping whose entries can be given one by one, as ``--model.terms.kl 4``."""
        kinds = typing.get_args(self.type) if isinstance(self.type, types.UnionType) else (self.type,)
        return any((typing.get_origin(kind) or kind) is dict for kind in kinds)

    @property
    def takes_text(self) -> bool:
        """Whether a text is a value of the option; where it is none, a parser takes it for the path of a class."""
        return self.type is Any or any(kind in str(self.type) for kind in ("str", "Literal", "Path"))

    @property
    def type_name(self) -> str:
        text = self.type.__name__ if isinstance(self.type, type) else str(self.type)
        text = re.sub(r"(Union|Optional)\[(.*)\]$", r"\2", text.replace("typing.", "").replace(", ", " | "))
        return re.sub(r"[\w.]+\.(\w+)", r"\1", text).replace("NoneType", "none").replace("None", "none")


def options_of(cls: type) -> dict[str, Option]:
    """All options of a class, following ``**options`` up to its base classes."""
    options: dict[str, Option] = {}
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        init = vars(base)["__init__"]
        hints = typing.get_type_hints(init)
        texts = (parse_docstring(inspect.getdoc(place) or "") for place in (base, init))
        docs = {param.arg_name: param.description or "" for text in texts for param in text.params}
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "spec":
                options.setdefault(
                    p.name, Option(hints.get(p.name, Any), p.default, " ".join(docs.get(p.name, "").split()))
                )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return options


def check_known(section: str, cls: type, given: Mapping[str, Any]) -> None:
    """Refuse options that a class does not have.

    Raises:
        UserError: with the nearest name and the list.
    """
    options = options_of(cls)
    for name in given:
        if name not in options:
            known = [f"--{section}.{option}" for option in options if f"{section}.{option}" not in REPLACED_OPTIONS]
            raise unknown("option", f"--{section}.{name}", known)


def type_error(section: str, cls: type, name: str, value: Any) -> UserError:
    """The error for a value of the wrong type: names the option, its type, its default and its meaning."""
    option = options_of(cls)[name]
    default = "none" if option.default is inspect.Parameter.empty else repr(option.default)
    return UserError(
        f"--{section}.{name} takes {option.type_name} (default {default}), not {value!r}"
        + (f": {option.about}" if option.about else "")
    )
