"""evaluation.json: written after each group of metrics, so that an interrupted evaluation keeps what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_gen.atomic import write_atomically
from lightning_gen.datamodules.earlier import current
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.files import read_text
from lightning_gen.evaluation.samplers import describe_sampler
from lightning_gen.evaluation.values import Value

FORMAT = 1
FILE, PREVIOUS = "evaluation.json", "evaluation.previous.json"
PARTS = ("setting", "values", "inapplicable", "failed", "done")
OWN = "own_metrics"  # entry of the setting: import path of a function of the user's own -> hash of its code
ELSEWHERE = ("threads", "device")  # of the environment, which decide about the last digits alone


class Report:
    """The content of a run's evaluation.json.

    Args:
        path: of the file.
        setting: what was evaluated and how; finished groups of a file with the same setting are taken over.
        environment: versions and hardware.
        fresh: groups that are measured again.
        own: entry of the setting -> the groups that alone depend on it, and are measured again where it differs.

    Attributes:
        writes: whether this process is the one that writes.
        replaced: how an earlier report's setting differs from this one, if there was another; it is kept beside it.
    """

    def __init__(
        self,
        path: Path,
        setting: Mapping[str, Any],
        environment: Mapping[str, str],
        fresh: Sequence[str] = (),
        own: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.path, self.writes, self.replaced = path, True, ""
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "complete": False,
            "setting": dict(setting),
            "environment": dict(environment),
            "done": {},
            "values": {},
            "inapplicable": {},
            "failed": {},
            "pictures": [],
        }
        before = read(path) if path.exists() else None
        if before is None:
            return
        own = own or {}
        changed = _differing(before["setting"], self.content["setting"], [OWN])
        apart = _differing(before.get("environment", {}), self.content["environment"], ELSEWHERE)
        self.replaced = ", ".join([*(name for name in changed if name not in own), *apart])
        if not self.replaced:
            self.content |= {
                key: before.get(key, self.content[key]) for key in ("done", "values", "inapplicable", "pictures")
            }
            fresh = [*fresh, *self._take_over_own(before["setting"].get(OWN, {}))]
        for group in {*fresh, *(group for name in changed for group in own.get(name, ()))}:
            self.content["inapplicable"].pop(group, None)
            for name in self.content["done"].pop(group, []):
                self.content["values"].pop(name, None)

    def _take_over_own(self, before: Mapping[str, str | None]) -> list[str]:
        """Keep the user's own metrics of the earlier report; returns those whose code, or whose name's, is another."""
        now = self.content["setting"].get(OWN, {})
        names = {path.rpartition(".")[2] for path in now}
        again = [
            path
            for path, code in before.items()
            if (now[path] != code if path in now else path.rpartition(".")[2] in names)
        ]
        if known := {path: code for path, code in before.items() if path not in again} | now:
            self.content["setting"][OWN] = known
        return again

    def is_done(self, group: str) -> bool:
        """Whether a group of metrics was measured before, or was found not to apply."""
        return group in self.content["done"] or group in self.content["inapplicable"]

    def add(self, group: str, values: Mapping[str, Value]) -> None:
        """A finished group."""
        self.content["values"] |= {name: value.plain() for name, value in values.items()}
        self.content["done"][group] = list(values)
        self.write()

    def inapplicable(self, group: str, reason: str) -> None:
        """A group that does not apply to this model or data."""
        self.content["inapplicable"][group] = reason
        self.write()

    def failed(self, group: str, reason: str) -> None:
        """A group that could not be measured; the next evaluation tries again."""
        self.content["failed"][group] = reason
        self.write()

    def write(self) -> None:
        """Save what there is; a report of another setting becomes the previous one."""
        if not self.writes:
            return
        if self.replaced and self.path.exists():
            self.path.replace(self.path.with_name(PREVIOUS))
            self.replaced = ""
        write_atomically(self.path, json.dumps(self.content, indent=1, allow_nan=False).encode())

    def finish(self, pictures: list[str], complete: bool) -> None:
        """Save it as finished."""
        self.content |= {"pictures": pictures, "complete": complete and not self.content["failed"]}
        self.write()

    def has_pictures(self) -> bool:
        """Whether the pictures of this setting are there."""
        names = self.content["pictures"]
        return bool(names) and all((self.path.parent / name).exists() for name in names)

    def show(self, console: Console) -> None:
        """Print the table and what is missing from it."""
        setting = self.content["setting"]
        extractor = f", extractor {setting['extractor']}" if setting["extractor"] else ""
        sampler = f", codes by {describe_sampler(setting)}" if "sampler" in setting else ""
        title = f"{setting['checkpoint']} on {setting['data']}: reference {setting['reference']}{extractor}{sampler}"
        table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
        for name in ("metric", "value", "±", "real data", "better", "N", "k"):
            table.add_column(name, justify="left" if name in ("metric", "better") else "right", no_wrap=True)
        for name, value in self.content["values"].items():
            numbers = (_number(value[key]) for key in ("value", "std", "floor"))
            table.add_row(name, *numbers, value["better"], f"{value['n']:,}", str(value["k"] or ""))
        console.print(table)
        for name, value in self.content["values"].items():
            if value["note"]:
                console.print(f"{name}: {value['note']}", highlight=False, markup=False)
        for kind, text in (("inapplicable", "not applicable"), ("failed", "failed")):
            reasons: dict[str, list[str]] = {}
            for group, reason in self.content[kind].items():
                reasons.setdefault(reason, []).append(group)
            for reason, groups in reasons.items():
                console.print(f"{text}: {', '.join(groups)}: {reason}", highlight=False, markup=False)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str] = ()) -> list[str]:
    return [name for name in {**before, **now} if name not in but and before.get(name) != now.get(name)]


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def read(path: Path) -> dict[str, Any]:
    """An evaluation.json.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"no {path}: {program('evaluate')} {path.parent} writes it") from None
    except (OSError, ValueError, RecursionError):
        content = {}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not _is_whole(content):
        again = f"remove it, then {program('evaluate')} {path.parent}"
        raise UserError(f"{path} is damaged, or not of format {FORMAT}: {again}")
    return content | {"setting": current(content["setting"])}


def _is_whole(content: Mapping[str, Any]) -> bool:
    if not all(isinstance(content.get(part), dict) for part in PARTS):
        return False
    try:  # what is infinite is text
        return all(float(value["value"]) is not None for value in content["values"].values())
    except (KeyError, TypeError, ValueError):
        return False
