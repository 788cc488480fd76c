"""Shapes: dSprites, rendered on demand, batch by batch, so that it needs neither download nor memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .base import DataModule
from .errors import UserError, unknown
from .order import fixed_split
from .sources import Batch, Source, subsets
from .spec import DataSpec

NAMES = ("shape", "scale", "orientation", "x", "y")
FACTORS = (3, 6, 40, 32, 32)  # shape (square, ellipse, heart), scale, orientation, x, y
SIZES = dict(zip(NAMES, FACTORS, strict=True))
SIZE = math.prod(FACTORS)  # 737,280
SMALL = 100_000  # images: of a smaller set a tenth is held out
SIDE, REACH = 64, 14  # pixels of the image; no shape reaches further from its centre than 13.6

# The heart's radius in the direction of (u, v) is P(c) + s Q(c), with c = v / r and s = |u| / r: the polynomials below,
# lowest power first, in pixels at scale 1. Fitted to the official frames: 108 of their 40,858 white heart pixels differ
# (0.26 %).
HEART_P = (80.390, 19.356, -126.048, -17.341, 52.943)
HEART_Q = (-72.262, -25.139, 92.595, 9.409, -20.696)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value.mul_(x).add_(coefficient)
    return value


def _square(u: Tensor, v: Tensor) -> Tensor:
    """Scale at which the border of the square of side 19.2 passes through (u, v)."""
    return torch.maximum(u.abs(), v.abs()) / 9.6


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    """Scale at which the border of the ellipse with half axes 12.8 and 7.2 passes through (u, v)."""
    return ((u / 12.8).square() + (v / 7.2).square()).sqrt()


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Scale at which the border of the heart passes through (u, v)."""
    r = (u.square() + v.square()).sqrt().clamp_min(1e-6)
    c, s = v / r, u.abs() / r
    return r / (_polynomial(HEART_P, c) + s * _polynomial(HEART_Q, c))


SHAPES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_square, _ellipse, _heart)


def render(factors: Tensor) -> Tensor:
    """Draw shapes: a pixel is white when its centre lies inside, without anti-aliasing.

    Against the official animation, wrong pixels per white pixel: square 0.04 %, ellipse 0.5 %, heart 0.3 %.

    Args:
        factors: (B, 5) indices of shape, scale, orientation, x and y.

    Returns:
        (B, 1, 64, 64) uint8, 0 or 255.
    """
    shape, scale, orientation, *place = factors.unbind(1)
    angle = torch.linspace(0, 2 * math.pi, FACTORS[2], dtype=torch.float64)[orientation].view(-1, 1, 1)
    cos, sin = angle.cos().float(), angle.sin().float()
    size = (0.5 + 0.1 * scale).view(-1, 1, 1)
    window = torch.arange(-REACH, REACH + 1)  # pixels round the one that holds the centre
    x, y = ((16 + k + k // 31).unsqueeze(1) + window for k in place)  # (B, 29) columns and rows of the window
    dx, dy = ((window + 0.5) - (k % 31 / 31).unsqueeze(1) for k in place)  # from the centre, at 16 + 32 k / 31
    dx, dy = dx.unsqueeze(1), dy.unsqueeze(2)
    u, v = dx * cos - dy * sin, dx * sin + dy * cos  # (B, 29, 29), turned back into the shape's own axes
    inside = torch.empty(u.shape, dtype=torch.bool)
    for number, border in enumerate(SHAPES):
        rows = (shape == number).nonzero().squeeze(1)
        inside[rows] = border(u[rows], v[rows]) < size[rows]
    image = torch.zeros(len(factors), SIDE * SIDE, dtype=torch.uint8)
    pixels = (y.unsqueeze(2) * SIDE + x.unsqueeze(1)).flatten(1)  # (B, 841)
    image.scatter_(1, pixels, inside.flatten(1).to(torch.uint8).mul_(255))
    return image.view(-1, 1, SIDE, SIDE)


class Rendered:
    """All images as a source that draws them, or those in which some factors have a fixed value.

    Args:
        fixed: name of a factor -> its index.
    """

    def __init__(self, fixed: Mapping[str, int] | None = None) -> None:
        self.values = [torch.tensor([fixed[n]]) if n in (fixed or {}) else torch.arange(k) for n, k in SIZES.items()]  # type: ignore[index]
        self.free = [i for i, values in enumerate(self.values) if len(values) > 1]
        self.sizes = tuple(len(values) for values in self.values)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def fetch(self, index: Tensor) -> Batch:
        """Images, and the factors (B, F) that are not fixed; the last factor runs fastest."""
        places = torch.unravel_index(index, self.sizes)
        factors = torch.stack([values[place] for values, place in zip(self.values, places, strict=True)], 1)
        return {"x": render(factors), "factors": factors[:, self.free], "index": index}


class Shapes(DataModule):
    """dSprites (Matthey et al. 2017): 737,280 white shapes on black, 64x64, with their five factors.

    All combinations of shape (square, ellipse, heart), 6 scales, 40 orientations and 32 x 32 positions, drawn here by
    the official recipe (see ``render`` for the agreement). A fixed permutation gives 1 % for validation and for test.

    Args:
        fixed: factor -> index at which it is held, for a smaller set: {"shape": 1, "orientation": 0} are the 6,144
            upright ellipses. Of less than 100,000 images a tenth each is for validation and for test.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(self, fixed: dict[str, int] | None = None, **options: Any) -> None:
        super().__init__(**options)
        for name, index in (fixed or {}).items():
            if name not in SIZES:
                raise unknown("factor", name, SIZES)
            if not 0 <= index < SIZES[name]:
                raise UserError(f"fixed {name} {index}: possible are 0 to {SIZES[name] - 1}")
        self.source = Rendered(fixed)
        if len(self.source) < 10:
            raise UserError(f"fixed {fixed} leaves {len(self.source)} images: leave a factor of ten values or two free")
        size = len(self.source)
        self.held_out = size // (100 if size >= SMALL else 10)

    def describe(self) -> DataSpec:
        """(1, 64, 64) binary with five factors, less those that are fixed."""
        size = len(self.source) - 2 * self.held_out
        factors = tuple(FACTORS[i] for i in self.source.free)
        return DataSpec(shape=(1, SIDE, SIDE), values="binary", size=size, factors=factors)

    def splits(self) -> dict[str, Source]:
        """Three fixed parts of all combinations."""
        return subsets(self.source, fixed_split(len(self.source), self.held_out, self.held_out))
