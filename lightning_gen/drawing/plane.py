"""Drawings of points in the plane, with torch alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 384  # pixels
FINE = 2  # edges are drawn so many times larger, then averaged, so that they are smooth
MARGIN = 1.2  # of the window over what the points span
BANDS = 9  # shades of the field: steps read like the lines of a map, and keep an animation's file small
OUTLINE, CORE = 0.06, 0.3  # of the highest density: 0.06 is 2.4 standard deviations from the centre of a Gaussian
NEIGHBOUR = 16  # the distance to this neighbour says how wide a density is smoothed
ASKED = 512  # points whose neighbours are looked for
DOT = 2  # pixels of the larger drawing: radius of a dot

Colour = tuple[float, float, float]
WHITE: Colour = (1.0, 1.0, 1.0)
LOW: Colour = (0.62, 0.75, 0.92)  # blue
HIGH: Colour = (0.97, 0.68, 0.64)  # red
REAL: Colour = (0.82, 0.93, 0.87)  # green, which is neither of the field's colours
REAL_CORE: Colour = (0.56, 0.80, 0.70)
REAL_EDGE: Colour = (0.08, 0.36, 0.30)
SAMPLE: Colour = (0.85, 0.35, 0.02)  # orange


class Window(NamedTuple):
    """A square of the plane: its centre (2,), and half of its side."""

    centre: Tensor
    half: float


def window(points: Tensor) -> Window:
    """The square that holds all points (N, 2), with a margin."""
    low, high = points.amin(0), points.amax(0)
    return Window((low + high) / 2, MARGIN * max(float((high - low).max()) / 2, 1e-6))


def raster(where: Window, size: int) -> Tensor:
    """Centres (size * size, 2) of a picture's cells, row by row from the upper left."""
    ticks = where.half * ((2 * torch.arange(size) + 1) / size - 1)
    y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
    return torch.stack([x, y], 2).flatten(0, 1) + where.centre  # (size, size, 2) -> (size * size, 2)


def counts(points: Tensor, where: Window, size: int) -> Tensor:
    """Number of the points (N, 2) in each of a picture's cells (size, size)."""
    cells = (((points - where.centre) / where.half + 1) / 2 * size).floor().long()  # (N, 2)
    x, y = cells[((cells >= 0) & (cells < size)).all(1)].unbind(1)
    return torch.zeros(size * size).index_add_(0, (size - 1 - y) * size + x, torch.ones(len(x))).view(size, size)


def draw_decision_field(real: Tensor, samples: Tensor, field: Tensor | None, where: Window, size: int = SIZE) -> Tensor:
    """Samples over the density of the data, over a heat map of the discriminator's logits.

    The field is red where it is high and blue where it is low, by the rank of its values: logits and the scores of a
    Wasserstein critic, which have no scale of their own, look alike. The data are green with a dark outline, the
    samples orange dots.

    Args:
        real: (N, 2) examples of the data.
        samples: (M, 2).
        field: (K, K), values at ``raster(where, K)``, of any scale; None leaves the background white.
        where: the square that is drawn.
        size: of the picture in pixels.

    Returns:
        uint8 (3, size, size).
    """
    large = size * FINE
    ground = torch.ones(3, large, large) if field is None else _map(field, large)
    level = _enlarged(_density(real, where, size), large)
    picture = _over(ground, REAL, (level > OUTLINE).float())
    picture = _over(picture, REAL_CORE, (level > CORE).float())
    picture = _over(picture, SAMPLE, _dots(samples, where, large))
    picture = _over(picture, REAL_EDGE, _outline(level > OUTLINE))  # above the dots, which may cover all of a mode
    return (F.avg_pool2d(picture[None], FINE)[0] * 255).round().to(torch.uint8)


def palette() -> Tensor:
    """The colours of ``draw_decision_field``, and those half way between dots or lines and the field: (K, 3) uint8."""
    ground = torch.tensor([LOW, WHITE, HIGH])
    shares = torch.linspace(0, 2, BANDS)[:, None]  # from the first over the second to the third
    bands = torch.where(
        shares < 1, torch.lerp(ground[0], ground[1], shares), torch.lerp(ground[1], ground[2], shares - 1)
    )
    drawn = torch.tensor([REAL, REAL_CORE, SAMPLE, REAL_EDGE])
    below = torch.cat([ground, drawn[:2]])
    halves = [torch.lerp(below, colour, 0.5) for colour in drawn[2:]]
    return (torch.cat([bands, drawn, *halves]) * 255).round().to(torch.uint8)


def _map(field: Tensor, size: int) -> Tensor:
    """Field (K, K) -> (3, size, size), from blue at its lowest values over white to red at its highest."""
    ranks = field.flatten().argsort().argsort().float().view_as(field) / max(1, field.numel() - 1)
    bands = (_enlarged(ranks, size) * BANDS).floor().clamp(0, BANDS - 1) / (BANDS - 1) * 2 - 1  # [-1, 1]
    picture = _over(torch.ones(3, size, size), HIGH, bands.clamp_min(0))
    return _over(picture, LOW, (-bands).clamp_min(0))


def _density(points: Tensor, where: Window, size: int) -> Tensor:
    """Points (N, 2) -> (size, size) in [0, 1], smoothed the more the fewer points there are."""
    some = points[:: max(1, len(points) // ASKED)]
    near = torch.cdist(some, points).kthvalue(min(NEIGHBOUR, len(points)), dim=1).values.median()
    pixels = float(near) / (2 * where.half) * size
    smoothed = _smooth(counts(points, where, size), min(max(1.0, pixels), size / 16))
    return smoothed / smoothed.max().clamp_min(1e-12)


def _smooth(image: Tensor, sigma: float) -> Tensor:
    """An image (H, W) under a Gaussian of this standard deviation in pixels."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    rows = F.conv2d(image[None, None], kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1), padding=(reach, 0))[0, 0]


def _enlarged(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]


def _dots(points: Tensor, where: Window, size: int) -> Tensor:
    """Where (size, size) small round dots at points (N, 2) are, 1, and 0 elsewhere."""
    ticks = torch.arange(-DOT, DOT + 1)
    disc = (ticks[:, None] ** 2 + ticks**2 <= DOT**2 + 1).float()
    return F.conv2d(counts(points, where, size)[None, None], disc[None, None], padding=DOT)[0, 0].clamp(max=1)


def _outline(inside: Tensor) -> Tensor:
    """A line of one pixel of the final picture round what is inside, (H, W)."""
    mask = inside.float()
    return F.max_pool2d(mask[None, None], 2 * FINE + 1, 1, FINE)[0, 0] - mask


def _over(picture: Tensor, colour: Colour, opacity: Tensor) -> Tensor:
    """A colour painted on a picture (3, H, W), with an opacity (H, W) in [0, 1]."""
    return picture + opacity * (picture.new_tensor(colour)[:, None, None] - picture)
