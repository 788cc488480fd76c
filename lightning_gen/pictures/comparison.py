"""The picture of a comparison: samples of several runs side by side, and their curves."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_gen import kinds
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.pictures.views import count_of
from lightning_gen.protocols import Samples, Translates
from lightning_gen.storage.checkpoints import load
from lightning_gen.storage.loaded import check_finite, provenance, sample_in_batches
from lightning_gen.storage.runs import TRANSLATIONS

Curves = Mapping[str, Mapping[int, float]]  # of each scalar tag the value at each iteration
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#333333",
)  # colour-blind safe
LOOKS: list[Any] = [{"ls": dashes, "color": colour} for dashes in ("-", "--", ":", "-.") for colour in COLOURS]
STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.edgecolor": "#888888", "text.parse_math": False}
STYLE |= {"figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.08}  # inches


class RunSamples(NamedTuple):
    """A run's samples (N, *shape), or None with the reason as caption, and where they come from."""

    label: str  # of the run
    samples: Tensor | None
    spec: DataSpec
    caption: str
    source: dict[str, Any]
    picture: Tensor | None = None  # uint8 (3, H, W) of a translator, which makes nothing without pictures


def sample_run(label: str, checkpoint: Path, n: int, seed: int, trust: Sequence[str] = ()) -> RunSamples:
    """Samples 0 to n - 1 of a seed; of points so many that their density shows.

    Raises:
        UserError: the checkpoint is damaged, or needs a module that is not trusted.
    """
    model = load(checkpoint, trust=trust)
    spec, source = model.spec, provenance(model, checkpoint)
    if isinstance(model, Translates):
        return _translations(label, checkpoint.parent.parent / TRANSLATIONS, spec, source)
    if not isinstance(model, Samples):
        return RunSamples(label, None, spec, f"{type(model).__name__} cannot make new examples", source)
    if not kinds.kind_of(spec).draws:
        return RunSamples(label, None, spec, f"no picture is known of {spec.kind} data", source)
    with torch.inference_mode():
        x = sample_in_batches(model, count_of(n, spec), seed)
        check_finite(x, f"samples of {checkpoint}")
    return RunSamples(label, x, spec, f"{len(x):,} of {checkpoint.name}, iteration {model.iteration:,}", source)


def _translations(label: str, path: Path, spec: DataSpec, source: dict[str, Any]) -> RunSamples:
    """The translations at the end of a translator's run."""
    if not path.is_file():
        return RunSamples(label, None, spec, f"no {path.name}: the run has not finished", source)
    with Image.open(path) as opened:
        picture = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    return RunSamples(label, None, spec, f"{path.name}, of held-out pictures at the run's end", source, picture)


def figure(sheets: Sequence[RunSamples], curves: Mapping[str, Curves], tags: Sequence[str], seed: int) -> Tensor:
    """The samples of all runs side by side, their curves below; uint8 (3, H, W).

    Args:
        sheets: of each run.
        curves: label of a run -> tag -> iteration -> value.
        tags: the curves that are drawn.
        seed: of the samples.
    """
    ranges = [float(s.samples.abs().max()) for s in sheets if s.samples is not None and not kinds.kind_of(s.spec).tiled]
    extent = 1.1 * max(ranges, default=1.0)  # points are shown on one scale
    pictures = [s.picture if s.samples is None else kinds.sheet(s.samples, s.spec, extent=extent) for s in sheets]
    title = f"Samples of seed {seed}" if any(s.picture is None for s in sheets) else "Translations"
    columns = math.ceil(len(sheets) / (rows := math.ceil(len(sheets) / 4)))
    width = max(8.0, 3.0 * columns)  # inches
    lines = max(1, math.ceil(len(tags) / round(width / 2.7)))
    tall = max([0.3, *(picture.shape[1] / picture.shape[2] for picture in pictures if picture is not None)])
    heights = [rows * (tall * width / columns + 0.6) + 0.4, max(2.8, lines * 2.1) + 0.8][: 1 + bool(tags)]
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        whole = Figure((width, sum(heights)), dpi=160, layout="constrained")
        parts = whole.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for k, (sheet, picture) in enumerate(zip(sheets, pictures, strict=True)):
            _draw_sheet(parts[0].add_subplot(rows, columns, k + 1), sheet, picture, LOOKS[k % len(LOOKS)])
        for k, tag in enumerate(tags):
            _draw_curves(parts[1].add_subplot(lines, math.ceil(len(tags) / lines), k + 1), tag, curves)
        for part, heading in zip(parts, (title, "Curves over iterations"), strict=False):
            part.suptitle(heading, fontsize=12, fontweight="bold")
        known = {line.get_label(): line for plot in whole.axes for line in plot.lines}
        parts[-1].legend(known.values(), known.keys(), loc="outside lower center", ncols=columns, frameon=False)
        canvas = FigureCanvasAgg(whole)
        canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[:, :, :3]).permute(2, 0, 1)


def _draw_sheet(plot: Axes, sheet: RunSamples, picture: Tensor | None, look: Mapping[str, Any]) -> None:
    plot.set_title(textwrap.fill(sheet.label, 30), fontsize=10, fontweight="bold")
    plot.set_xlabel(textwrap.fill(sheet.caption, 40), fontsize=8, color="#555555")
    plot.imshow(np.full((2, 4, 3), 245) if picture is None else picture.permute(1, 2, 0).numpy())
    plot.set(xticks=[], yticks=[])
    plot.spines[:].set(edgecolor=look["color"], ls=look["ls"], linewidth=2.5)


def _draw_curves(plot: Axes, tag: str, curves: Mapping[str, Curves]) -> None:
    for (label, known), look in zip(curves.items(), itertools.cycle(LOOKS), strict=False):
        if tag in known:
            points = sorted(known[tag].items())
            plot.plot(*zip(*points, strict=True), marker="o" * (len(points) < 4), ms=4, label=label, **look)
    plot.set(title=tag, xlim=(0, None))
    plot.grid(color="#e6e6e6")
    plot.spines[["top", "right"]].set_visible(False)
    plot.locator_params(nbins=5)
    plot.xaxis.set_major_formatter("{x:,.0f}")
