"""evaluation.json: written after each group of metrics, so that an interrupted evaluation keeps what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from datamodules.errors import UserError
from lightning_gen.checkpoints import write_atomically
from lightning_gen.evaluation.values import Value

FORMAT = 1
FILE = "evaluation.json"


class Report:
    """The content of a run's evaluation.json.

    Args:
        path: of the file.
        setting: what was evaluated and how; finished groups of a file with the same setting are taken over.
        environment: versions and hardware.
        fresh: take nothing over.
    """

    def __init__(
        self, path: Path, setting: Mapping[str, Any], environment: Mapping[str, str], fresh: bool = False
    ) -> None:
        self.path = path
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
        before = read(path) if path.exists() and not fresh else {}
        if all(before.get(key) == self.content[key] for key in ("format", "setting", "environment")):
            self.content |= {key: before[key] for key in ("done", "values", "inapplicable")}

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
        """Save what there is."""
        write_atomically(self.path, json.dumps(self.content, indent=1, allow_nan=False).encode())

    def finish(self, pictures: list[str], complete: bool) -> None:
        """Save it as finished."""
        self.content |= {"pictures": pictures, "complete": complete and not self.content["failed"]}
        self.write()

    def show(self, console: Console) -> None:
        """Print the table and what is missing from it."""
        setting = self.content["setting"]
        extractor = f", extractor {setting['extractor']}" if setting["extractor"] else ""
        title = f"{setting['checkpoint']} on {setting['data']}: reference {setting['reference']}{extractor}"
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {path}: python scripts/evaluate.py {path.parent} writes it") from None
    except (OSError, ValueError):
        content = {}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not _is_whole(content):
        again = f"remove it, then python scripts/evaluate.py {path.parent}"
        raise UserError(f"{path} is damaged, or not of format {FORMAT}: {again}")
    return content


def _is_whole(content: Mapping[str, Any]) -> bool:
    if not all(isinstance(content.get(part), dict) for part in ("setting", "values", "inapplicable", "failed", "done")):
        return False
    try:  # what is infinite is text
        return all(float(value["value"]) is not None for value in content["values"].values())
    except (KeyError, TypeError, ValueError):
        return False
