"""OutlineShapes: outlines and filled shapes, a translation with known pairs."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .errors import UserError, unknown
from .order import derive_seed
from .pair_data import PairData, PairSource
from .sources import Source, Tensors
from .spec import DataSpec

COUNTS = {"train": 4000, "val": 200, "test": 200}
SHAPES = ("circle", "square", "triangle")
OUTLINES = ("coloured", "black")
COLOURS = ((224, 32, 40), (240, 186, 0), (36, 168, 64), (0, 176, 208), (44, 72, 224), (200, 40, 184))  # red to magenta
SMALLEST = 16  # pixels


class ShapeParameters(NamedTuple):
    """What is drawn: (N,) each.

    Args:
        shape: position in ``SHAPES``.
        colour: position in ``COLOURS``.
        x: column of the centre, as a share of the picture.
        y: row of the centre.
        radius: half the extent, as a share of the picture.
    """

    shape: Tensor
    colour: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor


def draw(count: int, seed: int) -> ShapeParameters:
    """Shapes, colours, sizes and places at random, all of them well inside the picture."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    colour = torch.randint(len(COLOURS), (count,), generator=generator)
    x, y, radius = torch.rand((3, count), generator=generator)
    radius = 0.19 + 0.13 * radius
    reach = 0.42 - 1.1 * radius  # of the centre, either way from the middle
    return ShapeParameters(shape, colour, 0.5 + reach * (2 * x - 1), 0.5 + reach * (2 * y - 1), radius)


def distance(draws: ShapeParameters, size: int) -> Tensor:
    """Pixels (N, size, size) to the border of the shape, negative inside; beyond a corner to the longer side's line."""
    at = torch.arange(size) + 0.5
    x = at.view(1, 1, -1) - size * draws.x.view(-1, 1, 1)
    y = at.view(1, -1, 1) - size * draws.y.view(-1, 1, 1)
    r = size * draws.radius.view(-1, 1, 1)
    circle = (x.square() + y.square()).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - 0.88 * r
    low, slope = y - 0.9 * r, 3**0.5 / 2 * x.abs() - (y + 0.9 * r) / 2  # the base, and the two sides from the top
    triangle = torch.maximum(low, slope)
    return torch.stack([circle, square, triangle])[draws.shape, torch.arange(len(draws.shape))]


def paint(draws: ShapeParameters, size: int, filled: bool, black: bool = False) -> Tensor:
    """Shapes on white, with smooth borders.

    Args:
        draws: what to paint, N shapes.
        size: height and width.
        filled: all of it, or a line of 2/32 of the picture along the inside of its border.
        black: in black instead of its colour.

    Returns:
        (N, 3, size, size) uint8.
    """
    border = distance(draws, size)
    cover = (0.5 - border).clamp(0, 1)  # how much of a pixel lies inside
    if not filled:
        cover = cover - (0.5 - border - size / 16).clamp(0, 1)
    palette = torch.zeros(len(COLOURS), 3) if black else torch.tensor(COLOURS, dtype=torch.float32)
    colour = palette[draws.colour].view(-1, 3, 1, 1)
    return (255 + cover.unsqueeze(1) * (colour - 255)).round().to(torch.uint8)


class OutlineShapes(PairData):
    """Circles, squares and triangles in six colours on white: a their outlines, b the filled shapes.

    The truth is known: every outline has one filled shape of the same place, size and colour. Validation and test are
    such pairs; training shows 4,000 outlines and 4,000 fillings of other shapes, unless ``paired``. All is drawn from
    fixed seeds; the outlines are the same either way.

    Args:
        paired: train on pairs.
        outline: "coloured", or "black": then the colour is unknown, and many fillings are right.
        size: height and width in pixels.
        options: those of every set of pairs, see ``PairData``.
    """

    def __init__(
        self,
        paired: bool = False,
        *,
        outline: Literal["coloured", "black"] = "coloured",
        size: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if outline not in OUTLINES:
            raise unknown("outline", outline, OUTLINES)
        if size < SMALLEST:
            raise UserError(f"size {size}: give {SMALLEST} pixels or more")
        self.paired, self.outline, self.side_length = paired, outline, size

    def describe(self) -> DataSpec:
        """Two sides (3, size, size) uint8."""
        shape = (3, self.side_length, self.side_length)
        pairs = "all" if self.paired else "held_out"
        return DataSpec(shape=shape, size=COUNTS["train"], shape_b=shape, pairs=pairs)

    def splits(self) -> dict[str, Source]:
        """Draw them."""
        return {split: self._drawn(split) for split in COUNTS}

    def _drawn(self, split: str) -> PairSource:
        size = self.side_length
        outlines = draw(COUNTS[split], derive_seed("outline-shapes", split, "a"))
        shapes = outlines if self.has_pairs(split) else draw(COUNTS[split], derive_seed("outline-shapes", split, "b"))
        a = paint(outlines, size, filled=False, black=self.outline == "black")
        return PairSource(*self.swap_for_direction(Tensors(x=a), Tensors(x=paint(shapes, size, filled=True))))
