"""Numbers as pictures: grids of images, densities of points, bars. The kind of the data chooses among them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid

from lightning_gen.drawing import plane

TILE = 56  # pixels: smaller pictures are enlarged by a whole factor to about this size
GROUND = 255


def to_uint8(samples: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> uint8, rounded to the nearest of the 256 levels."""
    return ((samples.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def grid(pictures: Tensor, columns: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (3, H, W), with a white line between the tiles."""
    if pictures.shape[1] == 1:
        pictures = pictures.expand(-1, 3, -1, -1)
    factor = max(1, round(TILE / min(pictures.shape[2:])))
    large = pictures[:, :3].repeat_interleave(factor, 2).repeat_interleave(factor, 3)  # (N, 3, H * factor, W * factor)
    return make_grid(large, nrow=columns, padding=2, pad_value=GROUND)


def density(points: Tensor, extent: float | None = None, size: int = 128, factor: int = 3) -> Tensor:
    """Points (N, 2) -> uint8 (3, size * factor, size * factor): dark where they are many, white where there is none."""
    extent = extent or 1.1 * float(points.abs().max().clamp_min(1e-6))
    counts = plane.counts(points, plane.Window(torch.zeros(2), extent), size)
    shade = (counts / counts.max().clamp_min(1)).sqrt()  # the root shows thin regions too
    ink = torch.tensor([0.10, 0.25, 0.55])[:, None, None]  # a dark blue
    picture = ((1 - shade * (1 - ink)) * 255).round().to(torch.uint8)  # (3, size, size)
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def bars(values: Sequence[float], height: int = 160) -> Tensor:
    """Values >= 0 -> uint8 (3, height, W): one bar each, the largest over the whole height."""
    width = max(2, min(16, 640 // max(len(values), 1)))
    picture = torch.full((3, height, width * len(values) + 2), GROUND, dtype=torch.uint8)
    top = max([*values, 1e-12])
    for i, value in enumerate(values):
        filled = round((height - 2) * max(value, 0.0) / top)
        picture[:2, height - 1 - filled : height - 1, 1 + i * width : (i + 1) * width] = 60
    picture[:, height - 1, :] = 0  # the axis
    return picture
