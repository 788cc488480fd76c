"""PRESETS: the named models, the only place where their defaults live; every row is written out in full."""

from __future__ import annotations

from lightning_gen.datamodules.errors import unknown
from lightning_gen.presets import gan, translation, vae, vq
from lightning_gen.presets.row import Preset

PRESETS: dict[str, Preset] = {**vae.ROWS, **gan.ROWS, **translation.ROWS, **vq.ROWS}


def preset(name: str) -> Preset:
    """A row by name.

    Raises:
        UserError: there is no such row; with the nearest name and the list.
    """
    if name not in PRESETS:
        raise unknown("model", name, PRESETS)
    return PRESETS[name]
