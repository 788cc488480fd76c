"""What a row of the table of presets holds."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A named model.

    Args:
        model: import path of the class.
        about: one line for the list.
        arguments: of the class.
        steps: length of the run in iterations.
        paper: where it comes from.
        data: the data set that belongs to a published recipe.
        data_arguments: options of that data set.
        expected: what a run reaches, with its conditions.
    """

    model: str
    about: str
    arguments: dict[str, Any]
    steps: int
    paper: str
    data: str = "digits"
    data_arguments: dict[str, Any] = {}  # noqa: RUF012 - never changed
    expected: str = ""


ADAM = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "l1": 0.0}
