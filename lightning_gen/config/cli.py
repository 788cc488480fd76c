"""The configuration of a run, in layers: jsonargparse and Lightning's own parser check every option.

A configuration is built in layers: the class's defaults < the preset < ``--config FILE`` < the command line. Dicts such
as ``terms`` merge key by key; null removes a key.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_gen.config import data_paths
from lightning_gen.config.arguments import (
    ON_COLLAPSE,
    OPTIONS,
    SECTIONS,
    SHORT_OPTIONS,
    TOP,
)
from lightning_gen.config.objects import build, check_objects, import_classes
from lightning_gen.config.options import REPLACED_OPTIONS, check_known, options_of, type_error
from lightning_gen.datamodules.earlier import current
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.paths import to_path, to_text
from lightning_gen.names import expect_class, resolve
from lightning_gen.presets import preset
from lightning_gen.presets.layers import drop_network_options, merge
from lightning_gen.storage.runs import read_yaml
from lightning_gen.training import threads
from lightning_gen.training.module import GenerativeModule


class ResolvedConfig(NamedTuple):
    """The run's configuration from the command line, checked and resolved."""

    config: dict[str, Any]  # plain values, as in config.yaml
    parsed: Namespace  # for instantiation


def resolve_config(given: dict[str, Any], rest: list[str], base: Mapping[str, Any] | None = None) -> ResolvedConfig:
    """Merge the layers and check every option.

    Args:
        given: short options, from ``parse_short_options``.
        rest: arguments of the form ``--section.option value``.
        base: a resolved configuration to start from, when a run is resumed.

    Raises:
        UserError: an unknown name or option, or a value of the wrong type.
    """
    given = {name: to_text(value) if isinstance(value, str) else value for name, value in given.items()}
    pairs = _pairs([to_text(word) for word in rest])
    layer = _layer(given, base, {key: dict(pairs).get(f"model.{key}") for key in ("network", "critic")})
    classes = {section: _class(section, layer[section]["class_path"]) for section in ("model", "data")}
    passed = _take_dict_entries(pairs, layer, classes)
    for section, cls in classes.items():
        arguments = layer[section]["init_args"]
        check_known(section, cls, arguments)
        if "seed" in options_of(cls):
            arguments["seed"] = layer["seed"]
    import_classes(layer, pairs, classes | {"trainer": L.Trainer})
    parsed = _parse(layer, passed, classes)
    check_objects("trainer", L.Trainer, parsed.trainer.as_dict())
    for section, cls in classes.items():
        check_objects(section, cls, parsed[section].init_args.as_dict())
    return ResolvedConfig(_plain_config(layer, parsed), parsed)


def _layer(given: dict[str, Any], base: Mapping[str, Any] | None, networks: Mapping[str, Any]) -> dict[str, Any]:
    """The preset, below the configuration file (or the resumed run's), below the short options.

    ``networks`` are those that the command line asks for: the preset's options of others are dropped.
    """
    file = dict(base) if base is not None else read_config(given["config"]) if "config" in given else {}
    for option, key in (("model", "preset"), ("data", "dataset")):
        if option in given and file.get(key) not in (None, given[option]):
            raise UserError(
                f"--{option} {given[option]} contradicts {file[key]!r} of the configuration: drop one of them"
            )
    name = given.get("model", file.get("preset", file.get("model", {}).get("class_path", "vae")))
    row = preset(name) if "." not in name else None
    layer: dict[str, Any] = {"preset": name, "seed": 0, "save_every": 500, "trainer": {}}
    layer["model"] = {"class_path": row.model if row else name, "init_args": dict(row.arguments) if row else {}}
    own = file.get("data", {}).get("class_path")
    dataset = given.get("data", file.get("dataset", own or (row.data if row else "digits")))
    if own is None or base is None:
        path, arguments = data_paths.find(dataset, layer["model"]["class_path"])
    else:  # the name of a run's data may be a path where nothing is now: --data.root says where they are
        path, arguments = own, {}
    if row and dataset == row.data:
        arguments = {**arguments, **row.data_arguments}
    layer |= {
        "dataset": dataset,
        "data": {"class_path": path, "init_args": arguments},
        "steps": row.steps if row else None,
    }
    layer = _over(layer, file)
    drop_network_options(layer["model"]["init_args"], networks)
    return _checked(layer | _plain_options(given))


def _plain_options(given: dict[str, Any]) -> dict[str, Any]:
    """The short options that are entries of the configuration as they stand."""
    if "steps" in given and "epochs" in given:
        raise UserError("give --steps or --epochs, not both")
    length = {"steps": given.get("steps"), "epochs": given.get("epochs")} if {"steps", "epochs"} & set(given) else {}
    return length | {key: given[key] for key in OPTIONS if key in given}


def _checked(layer: dict[str, Any]) -> dict[str, Any]:
    for key in ("steps", "epochs", "val_every", "val_examples", "save_every", "patience", "seed"):
        value, least = layer.get(key), 0 if key == "seed" else 1
        if value is not None and not (isinstance(value, int) and least <= value < 2**32):
            raise UserError(f"--{key} {value}: it must be a whole number, at least {least} and below 2^32")
    if "threads" in layer:
        layer["threads"] = threads.checked(layer["threads"])
    if layer.get("on_collapse") not in (None, *ON_COLLAPSE):
        raise unknown("choice of --on_collapse", str(layer["on_collapse"]), ON_COLLAPSE)
    return layer


def _over(layer: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """A configuration file over the preset; a section with its class is whole and replaces the preset's."""
    for section in ("model", "data"):
        if "class_path" in (file.get(section) or {}):
            layer[section] = {"class_path": file[section]["class_path"], "init_args": {}}
    ours, theirs = layer["model"]["init_args"], (file.get("model") or {}).get("init_args") or {}
    drop_network_options(ours, theirs)
    return merge(layer, file)


def read_config(path: str) -> dict[str, Any]:
    """A configuration file.

    Raises:
        UserError: it is missing, or no mapping.
    """
    config = read_yaml(to_path(path))
    if not isinstance(config, dict):
        raise UserError(f"the configuration {path} is no mapping of options: see --print_config for its form")
    check_shape(path, config)
    return current(config)


def check_shape(path: str, config: dict[str, Any]) -> None:
    """Refuse a configuration file whose entries have other names or forms than ``--print_config`` shows.

    Raises:
        UserError: it has.
    """
    for key, value in config.items():
        if key not in (*TOP, *SECTIONS):
            raise unknown("key of the configuration", key, (*TOP, *SECTIONS))
        if key in SECTIONS and not isinstance(value, dict):
            raise UserError(f"{key} in {path} must be a mapping, not {value!r}: see --print_config for its form")
        if key in ("preset", "dataset") and not isinstance(value, str):
            raise UserError(f"{key} in {path} must be a name, not {value!r}")
    for section in ("model", "data"):
        entries = config.get(section, {})
        if not isinstance(entries.get("init_args", {}), dict) or not {"class_path", "init_args"} >= set(entries):
            raise UserError(f"{section} in {path} holds class_path and init_args: see --print_config for its form")
        if not isinstance(entries.get("class_path", ""), str):
            raise UserError(f"class_path {entries['class_path']!r} of {section} in {path} is no import path")
    for name in config.get("trainer", {}):
        if f"trainer.{name}" in REPLACED_OPTIONS:
            raise UserError(f"trainer.{name} in {path} is not used here: use {REPLACED_OPTIONS[f'trainer.{name}']}")


def _class(section: str, path: str) -> type:
    cls: Any = resolve(path, {}, "model class" if section == "model" else "data set")
    base = GenerativeModule if section == "model" else L.LightningDataModule
    expect_class(cls, base, f"--{section} {path}")
    if inspect.isabstract(cls) or (section == "model" and not hasattr(cls, "players")):
        raise UserError(f"--{section} {path} is a base class: name one of its models or sets")
    return cls


def _pairs(rest: list[str]) -> list[tuple[str, str]]:
    """``--a.b value`` and ``--a.b=value`` -> (a.b, value); ``--a.b 0 4095`` -> (a.b, "[0, 4095]")."""
    pairs, words = [], list(rest)
    while words:
        token = words.pop(0)
        if not token.startswith("--"):
            raise UserError(f"unexpected argument {token!r}: options are written --model.latent_dim 32")
        key, equals, value = token[2:].partition("=")
        if not equals:
            value = words.pop(0) if words else "--"
            if value.startswith("--"):
                raise UserError(f"--{key} needs a value")
            numbers = [value, *itertools.takewhile(_is_number, words)] if _is_number(value) else [value]
            if len(numbers) > 1:
                del words[: len(numbers) - 1]
                value = f"[{', '.join(numbers)}]"
        if key in REPLACED_OPTIONS:
            raise UserError(f"--{key} is not used here: use {REPLACED_OPTIONS[key]}")
        if re.fullmatch(r"[-+]?[\d_]{19,}", value):
            raise UserError(f"--{key}: {value} is a number of {len(value)} digits: the largest have 18")
        pairs.append((key, value))
    return pairs


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word, re.IGNORECASE) is not None


def _take_dict_entries(pairs: list[tuple[str, str]], layer: dict[str, Any], classes: dict[str, type]) -> list[str]:
    """Merge the entries of dict options into the layer; the rest in jsonargparse's spelling."""
    passed = []
    for key, value in pairs:
        section, *path = key.split(".")
        if not path:
            raise UserError(f"--{key} {value}: write --{section}.OPTION")
        if section == "trainer":
            check_known("trainer", L.Trainer, [path[0]])  # type: ignore[arg-type]
            passed.append(f"--{key}={value}")
            continue
        check_known(section, classes[section], [path[0]])  # type: ignore[arg-type]
        if len(path) > 1 and options_of(classes[section])[path[0]].is_dict:
            entry: Any = _value(value)
            for name in reversed(path):
                entry = {name: entry}
            _lift_weights(layer[section]["init_args"], entry)
            layer[section]["init_args"] = merge(layer[section]["init_args"], entry)
        elif options_of(classes[section])[path[0]].type is str:  # as it stands: [ab] is an expression and no list
            layer[section]["init_args"][path[0]] = value
        else:
            passed.append(f"--{section}.init_args.{'.'.join(path)}={value}")
    return passed


def _lift_weights(low: dict[str, Any], high: Mapping[str, Any]) -> None:
    """What is written as its weight alone becomes {"weight": weight} when one of its arguments is set."""
    for key in ("terms", "penalties"):
        known = low.get(key) or {}
        for name, entry in (high.get(key) or {}).items():
            if isinstance(entry, Mapping) and isinstance(known.get(name), (int, float, str)):
                low[key] = {**(low.get(key) or {}), name: {"weight": known[name]}}


def _value(text: str) -> Any:
    """The value of a dict's entry; YAML, but 1e-3 is a number."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _parser() -> LightningArgumentParser:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    for name in TOP:
        kind: Any = SHORT_OPTIONS[name][0] if name in SHORT_OPTIONS else str
        parser.add_argument(f"--{name}", type=(int | str if name == "threads" else kind) | None)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    parser.add_subclass_arguments(GenerativeModule, "model", fail_untyped=False, skip={"spec"})
    parser.add_subclass_arguments(L.LightningDataModule, "data", fail_untyped=False)
    return parser


def _parse(layer: dict[str, Any], passed: list[str], classes: dict[str, type]) -> Namespace:
    try:
        return _parser().parse_args([f"--config={json.dumps(layer)}", *passed])
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise _clear(str(error), classes | {"trainer": L.Trainer}) from error


def _clear(text: str, classes: Mapping[str, type]) -> UserError:
    """jsonargparse's error as one line that names the option, its type and its default."""
    keys = re.findall(r'Parser key "([\w.]+)"', text)
    value = re.search(r"Got value: (.*)", text) or re.search(r"Given value: (.*)", text)
    given = value.group(1) if value else "this value"
    for key in reversed(keys):
        for section, cls in classes.items():
            name = key.removeprefix(f"{section}.").removeprefix("init_args.").split(".")[0]
            if name in options_of(cls) and (keys[0].startswith(section)):
                return type_error(section, cls, name, given)
    if keys and keys[0] in SHORT_OPTIONS:
        return UserError(f"{keys[0]} takes {SHORT_OPTIONS[keys[0]][0].__name__}, not {given}")
    return UserError(" ".join(text.split())[:500])


def _plain_config(layer: dict[str, Any], parsed: Namespace) -> dict[str, Any]:
    """The resolved configuration as plain values: what config.yaml holds."""
    plain = json.loads(json.dumps(parsed.as_dict(), default=str))
    defaults = {name: option.default for name, option in options_of(L.Trainer).items()}
    config = {key: plain.get(key) for key in TOP}
    for section in ("model", "data"):
        arguments = {k: v for k, v in plain[section]["init_args"].items() if k not in ("spec", "seed")}
        config[section] = {"class_path": plain[section]["class_path"], "init_args": arguments}
    config["trainer"] = {k: v for k, v in plain["trainer"].items() if v != defaults.get(k)}
    return config


def instantiate(plan: ResolvedConfig) -> tuple[GenerativeModule, L.LightningDataModule]:
    """The model and its data; the data first, because the model takes their spec."""
    data = instantiate_data(plan)
    return instantiate_model(plan, data), data


def instantiate_model(plan: ResolvedConfig, data: Any) -> GenerativeModule:
    """The model alone, for these data."""
    model = plan.parsed.model
    return resolve(model.class_path, {}, "model class")(data.spec, **build(model.init_args.as_dict()))


def instantiate_data(plan: ResolvedConfig) -> Any:
    """The data alone."""
    data = plan.parsed.data
    return resolve(data.class_path, {}, "data set")(**build(data.init_args.as_dict()))
