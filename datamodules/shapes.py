"""Shapes: dSprites, drawn from its recipe when a batch is asked for, so that it needs neither download nor memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.base import DataModule
from datamodules.order import fixed_split
from datamodules.sources import Batch, Source, subsets
from datamodules.spec import DataSpec

FACTORS = (3, 6, 40, 32, 32)  # shape (square, ellipse, heart), scale, orientation, x, y
SIZE = math.prod(FACTORS)  # 737,280
HELD_OUT = SIZE // 100
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


def to_factors(ids: Tensor) -> Tensor:
    """Factor indices (B, 5) of images (B,) in the official order, the last factor running fastest."""
    return torch.stack(torch.unravel_index(ids, FACTORS), 1)


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
    """All 737,280 images as a source that draws them."""

    def __len__(self) -> int:
        return SIZE

    def fetch(self, index: Tensor) -> Batch:
        """Images and factors (B, 5)."""
        factors = to_factors(index)
        return {"x": render(factors), "factors": factors, "index": index}


class Shapes(DataModule):
    """dSprites (Matthey et al. 2017): 737,280 white shapes on black, 64x64, with their five factors.

    All combinations of shape (square, ellipse, heart), 6 scales, 40 orientations and 32 x 32 positions, drawn here by
    the official recipe (see ``render`` for the agreement). A fixed permutation gives 1 % for validation and for test.
    """

    def describe(self) -> DataSpec:
        """(1, 64, 64) binary with five factors."""
        return DataSpec(shape=(1, SIDE, SIDE), values="binary", size=SIZE - 2 * HELD_OUT, factors=FACTORS)

    def splits(self) -> dict[str, Source]:
        """Three fixed parts of all combinations."""
        return subsets(Rendered(), fixed_split(SIZE, HELD_OUT, HELD_OUT))
