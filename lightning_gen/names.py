"""Names are open: wherever a table's name is taken, so is an import path, or in Python the object itself."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lightning_gen.datamodules.errors import UserError, unknown

T = TypeVar("T")

_trusted: ContextVar[tuple[str, ...] | None] = ContextVar("trusted", default=None)


@contextmanager
def trusted_imports(prefixes: Sequence[str] | None) -> Iterator[None]:
    """Inside, import paths are followed only below these modules; a checkpoint is opened in this way.

    The outermost call counts: what a checkpoint opens in turn cannot widen it.

    Args:
        prefixes: modules such as "my_nets", which covers "my_nets.Net" and "my_nets.deep.Net"; None allows every path.
    """
    outer = _trusted.get()  # a checkpoint that opens another one cannot widen what is trusted
    token = _trusted.set(outer or (None if prefixes is None else ("lightning_gen", *prefixes)))
    try:
        yield
    finally:
        _trusted.reset(token)


def resolve(name: str | T, table: Mapping[str, T], kind: str) -> T:
    """The row that a name stands for: of the table, from an import path, or the object itself.

    Args:
        name: a name in the table, a dotted path such as "my_nets.Net", or any object, which is returned as it is.
        table: the known names.
        kind: what the table holds, for the error's text.

    Raises:
        UserError: for an unknown name, a path that cannot be imported, or one outside ``trusted_imports``.
    """
    if not isinstance(name, str):
        return name
    if name in table:
        return table[name]
    if "." not in name:
        raise unknown(kind, name, table)
    try:
        return _import(name)
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        known = f". A name without dots is one of: {', '.join(sorted(table))}" if table else ""
        raise UserError(f"cannot import {kind} {name!r}: {error}{_hidden(name)}{known}") from error


def _import(path: str) -> Any:
    """The object at a dotted path, importing the modules on the way; every step must be trusted."""
    first, *rest = path.split(".")
    _check_trust(path, path)
    find_in_working_folder(first)
    value, here = import_module(first), first
    for part in rest:
        here = f"{here}.{part}"
        if isinstance(value, ModuleType) and not hasattr(value, part):
            import_module(here)
        value = getattr(value, part)
        _check_trust(_home(value, here), path)
    return value


def find_in_working_folder(module: str) -> None:
    """Make a module of the working folder importable where Python finds none of its name; its neighbours are, then.

    The folder is put at the end of the import path, and not before a name asks for it: what lies there must not stand
    in for a package that the program imports by itself. Processes that a loader starts take over the path.
    """
    folder = os.getcwd()
    invalidate_caches()  # the file may be new
    if module in sys.modules or folder in sys.path or not PathFinder.find_spec(module, [folder]):
        return
    if find_spec(module) is None:
        sys.path.append(folder)


def file_in_working_folder(module: str) -> Path | None:
    """The file of a module that lies in the working folder, of a package its ``__init__.py``; imports nothing."""
    invalidate_caches()
    found = PathFinder.find_spec(module, [os.getcwd()]) if module.isidentifier() else None
    return Path(found.origin) if found and found.origin else None


def source_sha256(file: Path) -> str:
    """SHA-256 of the code of a module, by its file; of a package that of all its modules."""
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _hidden(path: str) -> str:
    """That a module of the working folder is not the one that was looked into, if it is so."""
    first, folder = path.split(".")[0], os.getcwd()
    own, taken = PathFinder.find_spec(first, [folder]), sys.modules.get(first)
    if not (own and own.origin and taken) or getattr(taken, "__file__", None) == own.origin:
        return ""
    return f". {own.origin} is not looked at, since {first!r} is installed or part of Python: rename it"


def _home(value: Any, path: str) -> str:
    """The module in which an object was made: a trusted module's imports ("my_nets.os.system") are not its own."""
    if isinstance(value, ModuleType):
        return value.__name__
    return f"{value.__module__}" if hasattr(value, "__qualname__") else path


def _check_trust(home: str, path: str) -> None:
    trusted = _trusted.get()
    if trusted is not None and not any(f"{home}.".startswith(f"{prefix}.") for prefix in trusted):
        module = home.rpartition(".")[0] if home == path else home
        raise UserError(f"checkpoint asks to import {path!r}: pass trust=[{module!r}] to load(), or --trust {module}")


def check_class_paths(value: Any, texts: bool = False) -> None:
    """Refuse a configuration that names a class, at any depth, outside ``trusted_imports``; imports nothing.

    Args:
        value: plain values; a class is named by the entry ``class_path`` of a mapping.
        texts: whether every text that reads like an import path names one, as in the place of an object.

    Raises:
        UserError: for the first such class, or a class path that is no text.
    """
    for path in named_classes(value, texts, inside=texts):
        if "." in path:
            _check_trust(path, path)


def named_classes(value: Any, texts: bool = False, inside: bool = False) -> Iterator[str]:
    """What a configuration names as classes, at any depth; imports nothing.

    Args:
        value: plain values; a class is named by the entry ``class_path`` of a mapping.
        texts: whether every text that reads like an import path names one, as in the place of an object.
        inside: whether that holds of the arguments of such objects too.

    Raises:
        UserError: a class path is no text.
    """
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if name == "class_path" and not isinstance(entry, str):
                raise UserError(f"class_path {entry!r} is no import path")
            yield from named_classes(entry, name == "class_path" or (texts and (inside or name != "init_args")), inside)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from named_classes(entry, texts, inside)
    elif texts and isinstance(value, str) and "." in value:
        yield value


def join_nested_paths(
    given: Mapping[str, Any], table: Mapping[str, Any], leaves: frozenset[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Names and values, with the keys of an import path, which a command line delivers nested, joined by dots.

    Args:
        given: name -> value or options; or the first part of a path -> the rest of it.
        table: the known names, whose mappings are options.
        leaves: keys of which one at least is in the options of what is known by its path.
        prefix: of the names.
    """
    for key, value in given.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in table and not leaves & set(value):
            yield from join_nested_paths(value, table, leaves, f"{name}.")
        else:
            yield name, value


def to_serializable(value: Any) -> Any:
    """A hyper-parameter as ``torch.load(weights_only=True)`` accepts it.

    Numbers, strings and None stay; lists and tuples become lists, mappings dicts with string keys, classes and
    functions their import path, and any other object "<instance of module.Class>", which no name resolves to.
    """
    if (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.generic):
        return to_serializable(value.item())
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_serializable(v) for key, v in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [to_serializable(v) for v in value]
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"<instance of {type(value).__module__}.{type(value).__qualname__}>"


def expect_class(value: Any, base: type, what: str) -> None:
    """Refuse what is no class of a kind, before it is called.

    Raises:
        UserError: that names what was expected.
    """
    if not (isinstance(value, type) and issubclass(value, base)):
        raise UserError(f"{what} is no {base.__name__}")


def check_above_zero(**values: float) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        UserError: that names the value.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name} {value}: it must be above 0")


def check_at_least_one(**numbers: int) -> None:
    """Refuse counts and sizes below 1.

    Raises:
        UserError: that names the option.
    """
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name} {value}: it must be at least 1")


# what may be given where the default is of a type; a default of another type (None) says nothing
_ACCEPTS: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str, Callable),  # type: ignore[dict-item]  # a name may be the object itself
    list: (list, tuple),
    tuple: (list, tuple),
}


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any], what: str, skip: int = 0) -> None:
    """Refuse keyword arguments that a function does not take, or whose type is not that of the default.

    Args:
        function: what is going to be called.
        given: keyword arguments for it.
        what: its name in the error's text, such as "network 'mlp'".
        skip: number of leading parameters, which are passed by position.

    Raises:
        UserError: that lists the options with their defaults.
    """
    parameters = list(inspect.signature(function).parameters.values())
    leading = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:skip]
    parameters = [p for p in parameters if p not in leading]  # what *arguments take is passed by position, too
    known = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    required = [name for name, default in known.items() if default is inspect.Parameter.empty]
    options = ", ".join(name if name in required else f"{name}={default!r}" for name, default in known.items())
    if missing := [name for name in required if name not in given]:
        raise UserError(f"{what} needs {', '.join(missing)}: its options are {options}")
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name, value in given.items():
        if name not in known and not is_open:
            raise UserError(f"{what} has no option {name!r}: its options are {options or '(none)'}")
        if not _fits(value, known.get(name)):
            raise UserError(f"{what}: {name}={value!r} is not of the type of its default {known[name]!r}")


def _fits(value: Any, default: Any) -> bool:
    accepted = _ACCEPTS.get(type(default))
    if accepted is None:
        return True
    return isinstance(value, accepted) and (bool in accepted or not isinstance(value, bool))
