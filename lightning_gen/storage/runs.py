"""Run folders: tb_logs/<model>-<data>[-<name>]/version_<k>/ with config.yaml, checkpoints/ and summary.json."""

from __future__ import annotations

import contextlib
import json
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_gen.atomic import write_atomically
from lightning_gen.datamodules.earlier import current
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.files import read_text
from lightning_gen.datamodules.paths import printable

ROOT = Path("tb_logs")
CONFIG, SUMMARY = "config.yaml", "summary.json"
CHOSEN = ("threads", "val_examples")  # options of which a run stores what it took, where none was given
IN_OTHER_WORDS = ("preset", "dataset", "model.class_path", "data.class_path", "data.batch_size")  # what the first say
ENTRIES = 100_000  # of a configuration, at most: an alias of YAML repeats what it stands for
TRANSLATIONS = "translations.png"  # of held-out pictures, at the end of a translator's run


def new_folder(config: Mapping[str, Any], root: Path = ROOT) -> Path:
    """Make the next free version folder of this model and data."""
    words = [
        _word(config["preset"]),
        _word(config["dataset"]),
        re.sub(r"[^\w-]+", "_", config.get("name") or "").lower(),
    ]
    tag = "-".join(filter(None, words))
    parent = root / tag
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(found.group(1)) for p in parent.iterdir() if (found := re.fullmatch(r"version_(\d+)", p.name))]
        number = max(taken, default=-1) + 1
        while True:
            try:
                (parent / f"version_{number}").mkdir()
                return parent / f"version_{number}"
            except FileExistsError:  # another run was faster
                number += 1
    except OSError as error:
        raise UserError(f"cannot make a run folder in {parent}: {error.strerror}") from error


def _word(name: str) -> str:
    """A model's or data set's name as part of a folder's name: of a path its last part."""
    last = (
        name.rsplit(".", 1)[-1]
        if "/" not in name and "\\" not in name and not Path(name).exists()
        else Path(name).resolve().stem
    )
    return re.sub(r"[^\w-]+", "_", last).lower() or "data"


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Save the resolved configuration beside the checkpoints."""
    write_atomically(folder / CONFIG, dump(config).encode())


def read_config(run: str | Path) -> dict[str, Any]:
    """The resolved configuration of a run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = find_run_folder(str(run)) / CONFIG
    try:
        config = read_yaml(path)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(config, dict) or not {"preset", "dataset", "model", "data"} <= set(config):
        raise UserError(f"{path} is damaged: it is not what a run wrote")
    for section in ("model", "data", "trainer"):
        if not isinstance(config.get(section, {}), dict):
            form = f"it is {config[section]!r}, and not a mapping of options"
            raise UserError(f"{section} in the configuration of {path.parent} is damaged: {form}")
    for name in ("preset", "dataset"):
        if not isinstance(config[name], str):
            form = f"it is {config[name]!r}, and not a name"
            raise UserError(f"{name} in the configuration of {path.parent} is damaged: {form}")
    return current(config)


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file: mappings with texts as keys, lists, texts, numbers, true, false and null.

    Raises:
        UserError: it cannot be read, or holds anything else.
    """
    try:
        value = yaml.safe_load(read_text(path))
        _check_plain(value, "", [])
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"the configuration {path} is no YAML of options: it is nested too deeply") from None
    except UserError as error:
        raise UserError(f"the configuration {path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date that is none, a number of thousands of digits
        raise UserError(f"the configuration {path} is no YAML: {' '.join(str(error).split())}") from None
    return value


def _check_plain(value: Any, where: str, seen: list[None]) -> None:
    """Refuse what is no option's value; ``seen`` counts the entries."""
    seen.append(None)
    if len(seen) > ENTRIES:
        raise UserError(f"it has more than {ENTRIES:,} entries")
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise UserError(f"the key {key!r}{where} is no name: write it in quotes, if it is one")
            _check_plain(entry, f" of {key}", seen)
    elif isinstance(value, list):
        for entry in value:
            _check_plain(entry, where, seen)
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"the value{where} is a number of {len(str(value))} digits: the largest have 18")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(f"{value!r}{where} is a {type(value).__name__}: write it in quotes, if it is a text")


def dump(config: Mapping[str, Any]) -> str:
    """A configuration as YAML, in the form that ``--config`` takes."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def same_experiment(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two configurations are equal but for what a run chooses and stores by itself."""
    first, second = ({key: entry for key, entry in config.items() if key not in CHOSEN} for config in (before, after))
    return dump(first) == dump(second)


def flatten_config(value: Any, key: str = "") -> dict[str, Any]:
    """A nested configuration as {"model.init_args.latent_dim": 16, ...}."""
    if not isinstance(value, dict):
        return {key: value}
    entries: dict[str, Any] = {}
    for name, entry in value.items():
        entries |= flatten_config(entry, f"{key}.{name}" if key else str(name))
    return entries


def table_row(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """A configuration as a row of TensorBoard's HParams tab: the options as they are typed.

    The tab sorts its columns, those in which runs differ before all others. What runs are told apart by begins with a
    capital, which comes before all small letters.
    """
    arguments = config["model"]["init_args"]
    rates = {options["lr"] for options in (arguments.get("optimizers") or {}).values() if "lr" in options}
    rate = rates.pop() if len(rates) == 1 else ", ".join(sorted(map(str, rates)))
    first = {
        "Preset": config["preset"],
        "Data": config["dataset"],
        "Learning rate": arguments.get("lr") or rate,
        "Batch size": config["data"]["init_args"].get("batch_size"),
    }
    options = {key.replace(".init_args", ""): value for key, value in flatten_config(dict(config)).items()}
    row = first | {key: value for key, value in options.items() if key not in IN_OTHER_WORDS}
    return {key: value if type(value) in (int, float, str) else str(value) for key, value in row.items()}


def find_run_folder(run: str) -> Path:
    """The folder of a run that is given as a folder or as one of its checkpoints.

    Raises:
        UserError: it holds no config.yaml.
    """
    path = Path(run)
    for folder in (path, path.parent, path.parent.parent):
        if path.exists() and (folder / CONFIG).exists():
            return folder
    raise UserError(f"{run} is no run folder: there is no {CONFIG} in it; your runs are below {ROOT}/")


def check_loggable(folder: Path) -> None:
    """Refuse a folder that TensorBoard cannot write to.

    Raises:
        UserError: its path is not UTF-8.
    """
    if printable(str(folder)) != str(folder):
        raise UserError(f"{folder}: TensorBoard writes to no path that is not UTF-8: rename the folder, then --resume")


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Save summary.json."""
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2).encode())


def has_summary(folder: Path, iterations: int) -> bool:
    """Whether a run has a summary.json of so many iterations: what it writes last."""
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["iterations"] == iterations
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _processor() -> str:
    """The CPU's name, where the system reports it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M):
            return found.group(1)
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, as every result states them."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else _processor()
    packages = {name: version(name) for name in ("lightning-gen", "torch", "lightning")}
    return {
        **packages,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": name,
        "threads": str(torch.get_num_threads()),
    }
