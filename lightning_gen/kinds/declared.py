"""Declared: a kind that data may name and that has no file of its own yet. Models train on it, without pictures."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds.base import Kind


class Declared(Kind):
    """Arrays of any shape, of which no picture is known.

    Args:
        name: of the kind.
    """

    draws: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    def notice(self, spec: DataSpec) -> str | None:
        return f"no pictures: nothing is known to draw {self.name} data, so samples are arrays, and views are left out"

    def sheet(self, samples: Tensor, spec: DataSpec, columns: int | None = None, extent: float | None = None) -> Tensor:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(f"no picture is known for data of kind {self.name!r} and shape {spec.shape}")
