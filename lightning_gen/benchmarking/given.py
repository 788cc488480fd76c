"""Of cells that were measured before values said so: which of their values are given the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_gen.evaluation.metric_names import LATENTS, SAMPLES
from lightning_gen.presets import PRESETS


def given_of_cell(cell: Mapping[str, Any]) -> dict[str, str]:
    """Metric -> "class" for all that the model of a cell measures under classes."""
    row = PRESETS.get(cell["model"])
    arguments = {**(row.arguments if row else {}), **{k.removeprefix("model."): v for k, v in cell["options"].items()}}
    if str(arguments.get("conditional", False)).lower() != "true" and arguments.get("condition") in (None, "none"):
        return {}
    of_tokens = "quantizer" in arguments  # whose prior alone is conditional
    return dict.fromkeys(SAMPLES if of_tokens else (*SAMPLES, *LATENTS), "class")
