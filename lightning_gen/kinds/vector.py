"""Vectors (D,): arrays, and the density of their first two numbers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.drawing.render import bars, density
from lightning_gen.kinds.base import Claim, Kind, arrays

BINS = 60  # of the histogram of single numbers


class Vector(Kind):
    """Numbers side by side, such as points of a plane or rows of measurements."""

    plural: ClassVar[str] = "vectors"
    axes = ("D",)
    tiled: ClassVar[bool] = False

    def claims(self, path: Path) -> list[Claim]:
        return arrays(path)

    def sheet(self, samples: Tensor, spec: DataSpec, columns: int | None = None, extent: float | None = None) -> Tensor:
        """The density of the first two numbers, or a histogram where there is one; ``columns`` makes no difference.

        Standardized columns are drawn as such: round the mean of the data, each at its own scale.
        """
        x = samples.detach().float().cpu()
        if spec.shape[0] > 1:
            return density(x[:, :2], extent)
        reach = extent or 1.1 * float(x.abs().max().clamp_min(1e-6))
        return bars(torch.histc(x, BINS, -reach, reach).tolist())

    def in_plane(self, spec: DataSpec) -> bool:
        return spec.shape == (2,)

    def extractor(self, spec: DataSpec) -> str | None:
        return "raw"
