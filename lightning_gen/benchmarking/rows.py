"""Rows of a benchmark: models by name, and configuration files, with what the benchmark sets in the place of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning_gen.benchmarking.results import cell_path
from lightning_gen.config import cli, data_paths
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.paths import to_path
from lightning_gen.names import file_in_working_folder, named_classes, source_sha256
from lightning_gen.presets import PRESETS
from lightning_gen.storage.runs import flatten_config

SUFFIXES = (".yaml", ".yml")
REPLACED = ("steps", "epochs", "seed", "name")  # of a file; the benchmark has its own
OPEN_KEYS = ("terms", "penalties", "augment")  # options of a model whose keys may be import paths
LOCAL = ("data.root", "data.num_workers")  # where and how the data are read, which changes no result
OWN_FILES = ("folder", "paired", "unpaired")  # data that their root defines


def is_local(option: str, data: str) -> bool:
    """Whether an option says where or how data are read, and changes no result."""
    return option in LOCAL and data not in OWN_FILES


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file that is a row of a benchmark.

    Args:
        path: as it was typed.
        content: its options, without those that the benchmark has itself, and those that change no result.
        replaced: its options in whose place the benchmark has its own.
    """

    path: str
    content: dict[str, Any]
    replaced: dict[str, Any]

    @property
    def shown(self) -> str:
        """The path as results keep it: of an absolute one the file's name."""
        return Path(self.path).name if is_absolute(self.path) else self.path

    @cached_property
    def record(self) -> dict[str, Any]:
        """What its cells keep of it; with hashes of the user's modules that it names, since these decide too."""
        text = json.dumps(self.content, sort_keys=True)
        record = {"file": Path(self.path).name, "sha256": sha256(text.encode()).hexdigest(), "content": self.content}
        modules = {file.name: source_sha256(file) for file in _modules(self.content).values()}
        return record | ({"modules": modules} if modules else {})

    def changes(self, record: Mapping[str, Any] | None) -> list[str]:
        """What differs from the record of a cell: options and modules; nothing where the file is that of the cell."""
        before, now = record or {"sha256": None}, self.record
        if all(before.get(key) == now.get(key) for key in ("sha256", "modules")):
            return []
        pairs = [(flatten_config(old.get("content", {})), old.get("modules", {})) for old in (before, now)]
        (options, modules), (own, mine) = pairs
        return [
            *(key for key in {**options, **own} if options.get(key) != own.get(key)),
            *(name for name in {**modules, **mine} if modules.get(name) != mine.get(name)),
        ]


def read_rows(names: Sequence[str], data: str) -> dict[str, ConfigFile | None]:
    """The rows in their order: name -> its configuration file, or None of a model.

    Args:
        names: models of the list, import paths, and configuration files, whose rows have the names of the files
            without their ending.
        data: the benchmark's.

    Raises:
        UserError: a file is missing or damaged, of other data, or has the name of another row or of a preset.
    """
    rows: dict[str, ConfigFile | None] = {}
    taken = {_place(name): f"the preset {name}" for name in PRESETS}
    for name in dict.fromkeys(names):
        is_file = name not in PRESETS and (Path(name).suffix in SUFFIXES or to_path(name).is_file())
        row = Path(name).stem if is_file else name
        if name not in PRESETS:
            if owner := taken.get(_place(row)):
                raise UserError(f"{name} would be a row of the same name as {owner}: rename the file")
            taken[_place(row)] = name
        rows[row] = _read(name, data) if is_file else None
    return rows


def _place(row: str) -> Path:
    """What cells of a row are called: rows that differ only in odd characters share it."""
    return cell_path(Path(), "", row, "", {}, 0)


def _read(path: str, data: str) -> ConfigFile:
    options = cli.read_config(path)
    if options.get("dataset") not in (None, data):
        of = f"is of the data {options['dataset']}, this benchmark of {data}"
        raise UserError(f"{path} {of}: remove dataset from the file, or give another --data")
    content = {k: v for k, v in options.items() if v is not None and k not in (*REPLACED, "dataset")}
    if "init_args" in content.get("data", {}):
        arguments = content["data"]["init_args"].items()
        kept = {name: value for name, value in arguments if not is_local(f"data.{name}", data)}
        content["data"] = {**content["data"], "init_args": kept}
    for key, value in _texts(content):
        if is_absolute(value):
            raise UserError(f"{path}: {key} {value}: results hold no paths of one machine, so give a relative one")
    return ConfigFile(path, content, {key: options[key] for key in REPLACED if options.get(key) is not None})


def is_absolute(text: str) -> bool:
    """Whether a text is a path that holds on one machine, or for one user, alone."""
    return text.startswith("~") or Path(text).is_absolute()


def _texts(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in flatten_config(options).items():
        for entry in value if isinstance(value, list) else [value]:
            yield from [(key, entry)] if isinstance(entry, str) else ()


def _modules(options: Mapping[str, Any]) -> dict[str, Path]:
    """Modules of the working folder that options name, and their files: in import paths, and in keys such as terms'."""
    paths = [text for text in named_classes(options, texts=True, inside=True) if not to_path(text).exists()]
    model = (options.get("model") or {}).get("init_args") or {}
    paths += flatten_config({key: path for name in OPEN_KEYS for key, path in (model.get(name) or {}).items()})
    names = dict.fromkeys(path.partition(".")[0] for path in paths if "." in path)
    return {name: file for name in names if (file := file_in_working_folder(name))}


# Checks of a row


def check_trust(file: ConfigFile, trust: Sequence[str]) -> None:
    """Refuse a file that names modules of the user's which evaluations of its runs may not import.

    Raises:
        UserError: that says what to trust.
    """
    loaded = {key: value for key, value in file.content.items() if key != "trainer"}  # in training alone
    known = [name.partition(".")[0] for name in trust]
    for module in _modules(loaded):
        if module not in known:
            told = f"add --trust {module}, if you know what is in it"
            raise UserError(f"{file.path} names the module {module}, which evaluate imports only where told: {told}")


def check_data(file: ConfigFile, data: str, config: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Refuse a file whose data are not the benchmark's.

    Args:
        file: the row.
        data: of the benchmark.
        config: the row's, resolved.
        given: options of the command line, which stand over those of the file.

    Raises:
        UserError: its class, or where they are, differs.
    """
    path, arguments = data_paths.find(data, config["model"]["class_path"])
    own = config["data"]
    where = [key for key, value in arguments.items() if f"data.{key}" not in given and own["init_args"][key] != value]
    wrong = ["class_path", *where] if own["class_path"] != path else where
    if wrong:
        raise UserError(f"{file.path} sets {', '.join(wrong)} of other data than --data {data}: remove it")


def notes(file: ConfigFile, data: str, config: Mapping[str, Any], given: Mapping[str, str]) -> list[str]:
    """What the benchmark sets in the place of a file's options, and the options of data that the row has for itself."""
    lines = []
    if file.replaced:
        what = ", ".join(f"{key} {value}" for key, value in file.replaced.items())
        lines.append(f"{file.path}: the benchmark's own stand in the place of {what}")
    shared = [f"--{key}={value}" for key, value in given.items() if key.startswith("data.")]
    usual = cli.resolve_config({"model": config["preset"], "data": data}, shared).config["data"]["init_args"]
    own = config["data"]["init_args"].items()
    apart = {key: value for key, value in own if usual.get(key) != value and not is_local(f"data.{key}", data)}
    if apart:
        what = ", ".join(f"data.{key} {value}" for key, value in apart.items())
        lines.append(f"{file.path}: {what} in this row alone")
    return lines
