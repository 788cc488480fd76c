"""Of cells that were measured before values said so: which of their values are given the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_gen.presets import PRESETS

Tables = Mapping[str, Sequence[str]]  # title -> metrics


def given_of_cell(cell: Mapping[str, Any], tables: Tables) -> dict[str, str]:
    """Metric -> "class" for all that the model of a cell measures under classes; those of samples come first."""
    row = PRESETS.get(cell["model"])
    arguments = {**(row.arguments if row else {}), **{k.removeprefix("model."): v for k, v in cell["options"].items()}}
    if str(arguments.get("conditional", False)).lower() != "true" and arguments.get("condition") in (None, "none"):
        return {}
    samples, *others = tables.values()
    of_tokens = "quantizer" in arguments  # whose prior alone is conditional
    return dict.fromkeys(samples if of_tokens else [name for names in (samples, *others) for name in names], "class")


def base_of(metric: str, tables: Tables) -> str:
    """Of "fd_mnist_v1" the metric of the tables, "fd"."""
    known = [name for names in tables.values() for name in names if f"{metric}_".startswith(f"{name}_")]
    return max(known, key=len, default=metric)
