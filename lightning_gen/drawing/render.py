"""Numbers as pictures: grids of images, densities of points, bars. The kind of the data chooses among them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

from lightning_gen.drawing import plane

TILE = 56  # pixels: smaller pictures are enlarged by a whole factor to about this size
LONGEST = 4 * TILE  # pixels: a long and narrow picture is enlarged up to here
GAP = 2  # pixels between tiles
SHEET = 2**25  # pixels of a sheet, about
BARS = 2048  # of a chart, at most
GROUND = 255


def to_uint8(samples: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> uint8, rounded to the nearest of the 256 levels."""
    return ((samples.detach().float().cpu().contiguous().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def grid(pictures: Tensor, columns: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (3, H, W), with a white line between the tiles.

    Small pictures are enlarged; where all together would make a sheet of more than ``SHEET`` pixels, they are made
    smaller, each to a pixel at least.
    """
    if pictures.shape[1] == 1:
        pictures = pictures.expand(-1, 3, -1, -1)
    height, width = pictures.shape[2:]
    most = max(1, math.isqrt(SHEET // len(pictures)) - GAP)  # side of a square tile
    factor = max(1, min(round(TILE / min(height, width)), LONGEST // max(height, width)))
    while factor > 1 and height * width * factor**2 > most**2:
        factor -= 1
    if height * width > most**2:
        return make_grid(_smaller(pictures[:, :3], most), nrow=columns, padding=GAP, pad_value=GROUND)
    large = pictures[:, :3].repeat_interleave(factor, 2).repeat_interleave(factor, 3)  # (N, 3, H * factor, W * factor)
    return make_grid(large, nrow=columns, padding=GAP, pad_value=GROUND)


def _smaller(pictures: Tensor, side: int) -> Tensor:
    """Pictures uint8 (N, 3, H, W) with at most side x side pixels each, means of those that fall into one."""
    height, width = pictures.shape[2:]
    scale = side / math.sqrt(height * width)
    tall = min(max(1, int(height * scale)), side**2)
    size = tall, max(1, min(int(width * scale), side**2 // tall))
    parts = pictures.split(max(1, 2**24 // pictures[0].numel()))  # as floats they take four times the memory
    return torch.cat([F.adaptive_avg_pool2d(part.float(), size).round().to(torch.uint8) for part in parts])


def density(points: Tensor, extent: float | None = None, size: int = 128, factor: int = 3) -> Tensor:
    """Points (N, 2) -> uint8 (3, size * factor, size * factor): dark where they are many, white where there is none."""
    extent = extent or 1.1 * float(points.abs().max().clamp_min(1e-6))
    counts = plane.counts(points, plane.Window(torch.zeros(2), extent), size)
    shade = (counts / counts.max().clamp_min(1)).sqrt()  # the root shows thin regions too
    ink = torch.tensor([0.10, 0.25, 0.55])[:, None, None]  # a dark blue
    picture = ((1 - shade * (1 - ink)) * 255).round().to(torch.uint8)  # (3, size, size)
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def bars(values: Sequence[float], height: int = 160) -> Tensor:
    """Values >= 0 -> uint8 (3, height, W): one bar each, the largest over the whole height.

    Of very many values a bar shows the largest of some neighbours.
    """
    some = math.ceil(len(values) / BARS)
    values = [max(values[k : k + some]) for k in range(0, len(values), some)] if some > 1 else values
    width = max(2, min(16, 640 // max(len(values), 1)))
    picture = torch.full((3, height, width * len(values) + 2), GROUND, dtype=torch.uint8)
    top = max([*values, 1e-12])
    for i, value in enumerate(values):
        filled = round((height - 2) * max(value, 0.0) / top)
        picture[:2, height - 1 - filled : height - 1, 1 + i * width : (i + 1) * width] = 60
    picture[:, height - 1, :] = 0  # the axis
    return picture
