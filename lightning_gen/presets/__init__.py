"""PRESETS: the named models, the only place where their defaults live; every row is written out in full."""

from __future__ import annotations

from typing import NamedTuple

from lightning_gen.datamodules import DATASETS
from lightning_gen.datamodules.errors import unknown
from lightning_gen.presets import flow, gan, translation, vae, vq
from lightning_gen.presets.row import Preset


class Family(NamedTuple):
    """Presets that the list shows together.

    Args:
        title: the heading.
        recommended: the row to begin with.
        rows: all of them.
    """

    title: str
    recommended: str
    rows: dict[str, Preset]

    @property
    def kind(self) -> str:
        """The kind of data that its recommended row is for."""
        return kind_of(self.rows[self.recommended])


FAMILIES: dict[str, Family] = {
    "vae": Family("variational autoencoders", "vae", vae.ROWS),
    "autoencoder": Family("other autoencoders", "wae", vae.AUTOENCODERS),
    "flow": Family("flow matching and diffusion", "flow", flow.ROWS),
    "gan": Family("generative adversarial networks", "r3gan", gan.ROWS),
    "translation": Family("image-to-image translation", "cyclegan", translation.ROWS),
    "vq": Family("vector-quantised autoencoders", "vq-vae", vq.ROWS),
}
PRESETS: dict[str, Preset] = {name: row for family in FAMILIES.values() for name, row in family.rows.items()}


def kind_of(row: Preset) -> str:
    """The kind of data that a row is for."""
    return DATASETS[row.data].kind


def preset(name: str) -> Preset:
    """A row by name.

    Raises:
        UserError: there is no such row; with the nearest name and the list.
    """
    if name not in PRESETS:
        raise unknown("model", name, PRESETS)
    return PRESETS[name]
