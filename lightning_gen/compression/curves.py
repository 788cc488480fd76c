"""Rate against distortion: points, those of picture formats, and the plot."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_gen.compression.baselines import mosaic
from lightning_gen.drawing.render import to_uint8

COLOURS = {"vae": "#0072B2", "vq-vae": "#D55E00", "JPEG": "#666666", "WebP": "#009E73"}
ABOVE = ("vae", "WebP")  # whose labels stand to the left
MARKS = {"vae": "o", "vq-vae": "s", "JPEG": "x", "WebP": "+"}
FORMATS: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "JPEG": ({"format": "JPEG", "optimize": True}, (2, 5, 10, 20, 40)),
    "WebP": ({"format": "WebP", "method": 6}, (0, 5, 20, 50, 75)),
}


class Point(NamedTuple):
    """A point of a curve: what it differs in, its rate in bits for each value, its mean squared error in [0, 1]."""

    curve: str
    label: str
    rate: float
    error: float

    @property
    def psnr(self) -> float:
        """In dB."""
        return -10 * math.log10(max(self.error, 1e-12))


def image_codec_points(x: Tensor) -> list[Point]:
    """Lossy picture formats on pictures (n, C, H, W) in [-1, 1], all in one picture, so that no header counts."""
    pictures = to_uint8(x).permute(0, 2, 3, 1).numpy()  # (n, H, W, C)
    sheet = mosaic(pictures)
    if sheet is None:
        return []
    image = Image.fromarray(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet)
    points = []
    for name, (options, qualities) in FORMATS.items():
        for quality in qualities:
            file = io.BytesIO()
            image.save(file, **options, quality=quality)
            with Image.open(file) as opened:
                back = np.asarray(opened.convert(image.mode)).reshape(sheet.shape)
            shown = len(pictures) / (sheet.size / pictures[0].size)  # the rest of the sheet is black
            error = float(((back / 255.0 - sheet / 255.0) ** 2).mean()) / shown
            points.append(Point(name, f"quality {quality}", 8 * len(file.getvalue()) / pictures.size, error))
    return points


def draw(points: Sequence[Point], title: str) -> Tensor:
    """All curves, PSNR over the rate; uint8 (3, H, W)."""
    figure = Figure((7.0, 4.6), dpi=120, layout="constrained")
    plot = figure.add_subplot()
    for curve in dict.fromkeys(point.curve for point in points):
        own = sorted((point for point in points if point.curve == curve), key=lambda point: point.rate)
        style: dict[str, Any] = {"color": COLOURS.get(curve), "marker": MARKS.get(curve, "o"), "lw": 1.2, "ms": 5}
        plot.plot([p.rate for p in own], [p.psnr for p in own], label=curve, **style)
        left = curve in ABOVE
        place: dict[str, Any] = {"xytext": (-5, 5) if left else (5, -10), "ha": "right" if left else "left"}
        for point in own:
            label = point.label.removeprefix("quality ")
            at = (point.rate, point.psnr)
            plot.annotate(label, at, textcoords="offset points", fontsize=7, color=style["color"], **place)
    plot.set(xlabel="rate, bits for each value", ylabel="PSNR, dB", xscale="log", title=title)
    plot.margins(x=0.12)
    plot.grid(alpha=0.3)
    plot.legend(frameon=False, fontsize=9)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[:, :, :3]).permute(2, 0, 1)
