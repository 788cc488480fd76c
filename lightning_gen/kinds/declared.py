"""Declared: a kind that data may name and that has no file of its own yet. Models train on it, without pictures."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds.base import Kind

AXES = {  # of an example of each kind; audio may be a spectrogram (M, F), of as many axes
    "audio": ("C", "T"),
    "video": ("C", "T", "H", "W"),
    "text": ("L",),
    "points": ("C", "P"),
    "table": ("D",),
}
CHANNELS = {"points": (3, 6)}  # of the first axis: coordinates, or those and colours or normals


class Declared(Kind):
    """Arrays, of which no picture is known.

    Args:
        name: of the kind.
    """

    draws: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name, self.axes = name, AXES[name]

    def check(self, spec: DataSpec) -> None:
        super().check(spec)
        possible = CHANNELS.get(self.name, ())
        for shape in (spec.shape, spec.shape_b) if spec.has_two_sides else (spec.shape,):
            if possible and shape[0] not in possible:
                raise UserError(
                    f"{self.name} data of shape {shape}: an example has the shape ({' or '.join(map(str, possible))}, "
                    f"{', '.join(self.axes[1:])})"
                )

    def notice(self, spec: DataSpec) -> str | None:
        return f"no pictures: nothing is known to draw {self.name} data, so samples are arrays, and views are left out"

    def sheet(self, samples: Tensor, spec: DataSpec, columns: int | None = None, extent: float | None = None) -> Tensor:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(f"no picture is known for data of kind {self.name!r} and shape {spec.shape}")
