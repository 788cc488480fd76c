"""Pictures too large for memory: cut into tiles that overlap, and put together again without seams.

Of an overlap of o pixels the outer quarters are context alone, and the middle half fades linearly from one tile to the
next: a function that sees no further than o / 4 pixels in each direction gives what it gives of the whole picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError

OVERLAP = 32  # pixels, by default, or half a tile where that is less


class Tiling(NamedTuple):
    """How the sides of pictures are cut.

    Args:
        longest: side that is not cut, in pixels.
        side: of the tiles of a longer one; at most ``longest``.
        overlap: pixels that neighbours share at least; at most half of ``side``.
    """

    longest: int
    side: int
    overlap: int

    def num_tiles(self, height: int, width: int) -> int:
        """Tiles of a picture; 1 for one that is not cut."""
        return len(self.starts(height)) * len(self.starts(width))

    def starts(self, size: int) -> list[int]:
        """Where the tiles of a side begin: evenly spread, from 0 to where the last one ends with the side."""
        if size <= self.longest:
            return [0]
        more = math.ceil((size - self.side) / (self.side - self.overlap))
        return [k * (size - self.side) // more for k in range(more + 1)]

    def weights(self, size: int) -> list[Tensor]:
        """Of each tile of a side (its length,), float32 in [0, 1]: at each pixel the weights of all tiles sum to 1."""
        starts = self.starts(size)
        if len(starts) == 1:
            return [torch.ones(size)]
        width = max(1.0, self.overlap / 2)
        place = torch.arange(size) + 0.5
        middles = [(one + self.side + other) / 2 for one, other in itertools.pairwise(starts)]  # of the overlaps
        later = [((place - middle) / width + 0.5).clamp(0, 1) for middle in middles]  # share of the tiles that follow
        shares = itertools.pairwise([torch.ones(size), *later, torch.zeros(size)])
        return [(a - b)[start : start + self.side] for start, (a, b) in zip(starts, shares, strict=True)]

    def summary(self, counts: Sequence[int]) -> str:
        """One line on the numbers of tiles of all pictures, 1 of those that were not cut."""
        cut = [count for count in counts if count > 1]
        if not cut:
            return f"no picture has a side above --tile {self.longest}: none was cut"
        each = f", {min(cut)} to {max(cut)} a picture" if min(cut) < max(cut) else ""
        return (
            f"{len(cut)} of {len(counts)} pictures cut into {sum(cut):,} tiles{each}, with sides of at most "
            f"{self.longest} pixels; neighbours share {self.overlap} or more"
        )


def tiling_of(tile: int, overlap: int | None, *, stride: int, least: int) -> Tiling:
    """The tiling that a user's numbers and a network ask for: sides of tiles are multiples of the stride.

    Args:
        tile: longest side of a tile, in pixels.
        overlap: pixels that neighbours share; None is 32, or half a tile where that is less.
        stride: of which the network's sides are multiples.
        least: pixels that its sides have at least.

    Raises:
        UserError: a tile too small for the network, an overlap below 0 or above half a tile.
    """
    smallest = math.ceil(least / stride) * stride
    if tile < smallest:
        raise UserError(f"--tile {tile}: this network takes tiles of at least {smallest} pixels a side")
    side = tile // stride * stride
    if overlap is None:
        overlap = min(OVERLAP, side // 2)
    if not 0 <= overlap <= side // 2:
        raise UserError(f"--overlap {overlap}: possible are 0 to {side // 2} pixels, half of a tile")
    return Tiling(tile, side, overlap)


def map_tiles(function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling) -> Tensor:
    """A function of pictures on a large one, x (C, H, W) -> (C', H, W), tile by tile.

    Args:
        function: (C, h, w) -> (C', h, w), on the same device.
        x: the picture.
        tiling: how it is cut.
    """
    rows, columns = (list(zip(tiling.starts(n), tiling.weights(n), strict=True)) for n in x.shape[1:])
    whole: Tensor | None = None
    for (top, down), (left, across) in itertools.product(rows, columns):
        place = (slice(None), slice(top, top + len(down)), slice(left, left + len(across)))
        made = function(x[place]) * down[:, None] * across
        whole = made.new_zeros(len(made), *x.shape[1:]) if whole is None else whole
        whole[place] += made
    assert whole is not None  # a side has at least one tile
    return whole
