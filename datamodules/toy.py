"""Toy: points in the plane."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .base import DataModule
from .errors import unknown
from .order import derive_seed
from .sources import Source, Tensors
from .spec import DataSpec

SIZES = {"train": 100_000, "val": 10_000, "test": 10_000}
Points = tuple[Tensor, Tensor | None]  # (N, 2) float32 and (N,) mode, where there are modes


class Modes(NamedTuple):
    """Equal Gaussians of standard deviation sigma round the centres (M, 2)."""

    centres: Tensor
    sigma: float


def _grid(side: int, step: float) -> Tensor:
    ticks = step * (torch.arange(side) - (side - 1) / 2)
    return torch.cartesian_prod(ticks, ticks)


def _ring(count: int, radius: float) -> Tensor:
    angle = torch.arange(count) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


MODES = {"grid25": Modes(_grid(5, 2.0), 0.05), "ring8": Modes(_ring(8, 2.0), 0.02)}


def _draw(modes: Modes, n: int, generator: torch.Generator) -> Points:
    centres, sigma = modes
    y = torch.randint(len(centres), (n,), generator=generator)
    return centres[y] + sigma * torch.randn(n, 2, generator=generator), y


def grid25(n: int, generator: torch.Generator) -> Points:
    """25 Gaussians of sigma 0.05 on the grid {-4, -2, 0, 2, 4}^2."""
    return _draw(MODES["grid25"], n, generator)


def ring8(n: int, generator: torch.Generator) -> Points:
    """8 Gaussians of sigma 0.02 on a circle of radius 2."""
    return _draw(MODES["ring8"], n, generator)


def swissroll(n: int, generator: torch.Generator) -> Points:
    """A spiral t (cos t, sin t) / 7.5, t in [1.5 pi, 4.5 pi], with noise of sigma 0.03: within about [-2, 2]."""
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    x = torch.stack([t * t.cos(), t * t.sin()], 1) / 7.5
    return x + 0.03 * torch.randn(n, 2, generator=generator), None


def moons(n: int, generator: torch.Generator) -> Points:
    """Two half circles of radius 1 round (0, 0) and (1, 0.5), with noise of sigma 0.1."""
    y = torch.randint(2, (n,), generator=generator)
    angle = math.pi * (torch.rand(n, generator=generator) + y)  # the upper half, or the lower
    x = torch.stack([angle.cos() + y, angle.sin() + 0.5 * y], 1)
    return x + 0.1 * torch.randn(n, 2, generator=generator), y


POINTS = {"grid25": (grid25, 25), "ring8": (ring8, 8), "swissroll": (swissroll, 0), "moons": (moons, 2)}


class Toy(DataModule):
    """Points in the plane: 100,000 for training, 10,000 each for validation and test, from a fixed seed.

    They reach the model as (2,) floats at the scale given below; where there are modes, they are the classes.

    Args:
        name: "grid25" (25 Gaussians of sigma 0.05 on {-4, -2, 0, 2, 4}^2), "ring8" (8 of sigma 0.02 on a circle of
            radius 2), "swissroll" (a spiral within [-2, 2]) or "moons" (two half circles of radius 1).
        options: those of every data set, see ``DataModule``.
    """

    def __init__(self, name: Literal["grid25", "ring8", "swissroll", "moons"] = "grid25", **options: Any) -> None:
        super().__init__(**options)
        if name not in POINTS:
            raise unknown("toy", name, POINTS)
        self.points = name

    def describe(self) -> DataSpec:
        """(2,) real; classes are the modes."""
        _, modes = POINTS[self.points]
        return DataSpec(shape=(2,), kind="vector", values="real", size=SIZES["train"], num_classes=modes)

    def modes(self) -> Modes | None:
        """The Gaussians of grid25 and ring8; the others have none."""
        return MODES.get(self.points)

    def splits(self) -> dict[str, Source]:
        """Draw the points."""
        draw, _ = POINTS[self.points]
        sources: dict[str, Source] = {}
        for split, n in SIZES.items():
            x, y = draw(n, torch.Generator().manual_seed(derive_seed(self.points, split)))
            sources[split] = Tensors(x=x) if y is None else Tensors(x=x, y=y)
        return sources
