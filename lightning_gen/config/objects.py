"""Objects in a configuration, written as {class_path, init_args}: each is a class of the kind that its place takes.

A parser imports what it reads, and a function is called like a class; so every path is looked at before it is.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lightning_gen.config.options import Option, options_of
from lightning_gen.datamodules.errors import UserError
from lightning_gen.names import named_classes, resolve

OPERATORS = ("__len__", "__getitem__", "__iter__", "__call__")  # that a protocol may ask for
Types = tuple[Any, ...]  # a value is of one of them


def import_classes(layer: Mapping[str, Any], pairs: Sequence[tuple[str, str]], classes: Mapping[str, type]) -> None:
    """Import what a configuration names by a class path, in a file or on the command line.

    Args:
        layer: the configuration, in layers already merged.
        pairs: (trainer.callbacks, value) of the command line.
        classes: section -> the class whose options its values are.

    Raises:
        UserError: one cannot be imported, is not trusted, or is no class.
    """
    for section, cls in classes.items():
        options, values = options_of(cls), layer[section]
        for name, value in (values if section == "trainer" else values.get("init_args") or {}).items():
            _import_all(f"{section}.{name}", value, _names_a_class(options.get(name)))
        for key, text in pairs:
            _, name, *inner = [*key.split("."), ""][:3]
            if key.startswith(f"{section}."):
                whole = not any(inner) or inner == ["class_path"]
                _import_all(key, _value(text), inner == ["class_path"] or (whole and _names_a_class(options.get(name))))


def check_objects(section: str, cls: type, values: Mapping[str, Any]) -> None:
    """Refuse a class that is not of the kind that its place takes, at any depth, before anything is made.

    Args:
        section: where the values stand, for the error's text.
        cls: the class whose options they are.
        values: option -> value, as parsed.

    Raises:
        UserError: for the first one.
    """
    options = _options(cls)
    for name, value in values.items():
        _check(f"{section}.{name}", value, (options[name].type,) if name in options else (Any,))


def build(value: Any) -> Any:
    """Make the objects that are written as {class_path, init_args}, at any depth; ``check_objects`` has seen them."""
    if isinstance(value, list):
        return [build(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "class_path" in value:
        arguments = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
        return resolve(value["class_path"], {}, "class")(**build(arguments))
    return {name: build(entry) for name, entry in value.items()}


def _import_all(where: str, value: Any, texts: bool) -> None:
    for path in named_classes(value, texts):
        if "." in path:  # without dots it is a short name of the library's own
            _class(where, path)


def _class(where: str, path: str) -> type:
    found: Any = resolve(path, {}, "class")
    if not isinstance(found, type):
        raise UserError(f"--{where}: {path} is no class, and nothing else is called")
    return found


def _check(where: str, value: Any, expected: Types) -> None:
    """The objects in a value that is of one of these types."""
    kinds = tuple(_members(expected))
    if isinstance(value, Mapping):
        if "class_path" in value:
            _check_object(where, value, kinds)
            return
        entries = _inner(kinds, collections.abc.Mapping, 1)
        for name, entry in value.items():
            _check(f"{where}.{name}", entry, entries)
    elif isinstance(value, list | tuple):
        entries = _inner(kinds, collections.abc.Iterable, 0)
        for entry in value:
            _check(where, entry, entries)


def _check_object(where: str, value: Mapping[str, Any], kinds: Types) -> None:
    cls = _class(where, value["class_path"])
    if not any(_is_a(cls, kind) for kind in kinds):
        named = [str(getattr(kind, "__name__", kind)) for kind in kinds if kind not in (Any, type(None), object)]
        takes = f"it takes {' | '.join(named)}" if named else "which class it takes is not known, so it takes none"
        raise UserError(f"--{where}: no object of {value['class_path']} can stand there, {takes}")
    arguments = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
    check_objects(where, cls, arguments)


def _members(expected: Types) -> Iterator[Any]:
    """The types of a union, and what type variables stand for."""
    for kind in expected:
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
            yield from _members(typing.get_args(kind))
        elif typing.get_origin(kind) is typing.Annotated:
            yield from _members((typing.get_args(kind)[0],))
        elif isinstance(kind, typing.TypeVar):
            yield from _members(kind.__constraints__ or (kind.__bound__,))
        else:
            yield kind


def _inner(kinds: Types, container: type, position: int) -> Types:
    """Types of the entries of those kinds that are containers."""
    found: Types = ()
    for kind in kinds:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if isinstance(origin, type) and issubclass(origin, container) and len(arguments) > position:
            found += tuple(a for a in (arguments if origin is tuple else arguments[position:]) if a is not Ellipsis)
    return found


def _is_a(cls: type, kind: Any) -> bool:
    """Whether an object of a class may stand where a type is written; of ``Any`` and ``object`` nothing is known."""
    kind = typing.get_origin(kind) or kind
    if kind is collections.abc.Callable:
        return any("__call__" in vars(base) for base in cls.__mro__)
    if not isinstance(kind, type) or kind in (object, type):
        return False
    if getattr(kind, "_is_protocol", False):
        members = {name for base in kind.__mro__ if getattr(base, "_is_protocol", False) for name in vars(base)}
        return all(hasattr(cls, name) for name in members if name in OPERATORS or not name.startswith("_"))
    return issubclass(cls, kind)


def _names_a_class(option: Option | None) -> bool:
    return option is not None and not option.takes_text


def _options(cls: type) -> dict[str, Option]:
    """The options of any class; none where its types cannot be told."""
    try:
        return options_of(cls)
    except Exception:  # of a library's class, whose types may be known to a type checker alone
        return {}


def _value(text: str) -> Any:
    """The value of an option as a parser reads it; the text itself where that fails."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
