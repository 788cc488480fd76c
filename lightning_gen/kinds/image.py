"""Images (C, H, W): picture files, grids, the metrics of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.images import SUFFIXES, Reader, try_read
from lightning_gen.datamodules.listing import is_picture, list_pictures
from lightning_gen.datamodules.pixels import threshold, to_float
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.drawing.images import save_array, save_png
from lightning_gen.drawing.render import grid, to_uint8
from lightning_gen.kinds.base import Claim, Health, Kind, arrays

LEAST = 8  # pixels of a side that convolutions halve
SMALL = 16  # up to here an image is few numbers, and a fully connected network is as good and faster
COARSE = 32  # sides of an image between which distances are taken


class Image(Kind):
    """Images of any number of channels; those of 1 and 3 are pictures."""

    plural: ClassVar[str] = "pictures"
    axes = ("C", "H", "W")
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    many: ClassVar[bool] = False
    translator: ClassVar[str | None] = "cyclegan"
    reconstruction_metrics: ClassVar[tuple[str, ...]] = ("psnr", "ssim")

    def claims(self, path: Path) -> list[Claim]:
        """A folder of pictures, whose sub-folders are classes, or two sides where they are named so; arrays."""
        if not path.is_dir():
            return arrays(path)
        folder = [Claim("folder", {"root": str(path)})] if any(True for _ in list_pictures(path)) else []
        if all((path / name).is_dir() for name in ("trainA", "trainB")):
            return [*folder, Claim("unpaired", {"root": str(path)}, two_sides=True)]
        return folder

    def preset(self, spec: DataSpec) -> str | None:
        small = min(spec.shape[1:]) < LEAST
        return super().preset(spec) if spec.has_two_sides or small else "conv-vae"

    # Files

    def suffix(self, spec: DataSpec) -> str:
        return ".png" if self.fits_png(spec) else ".npy"

    def is_example_file(self, path: Path, is_file: bool | None = None) -> bool:
        return is_picture(path, is_file)

    def read(self, path: Path, spec: DataSpec) -> Tensor:
        """A picture file of any size -> (C, H, W): its largest centred part of the right proportions, resized."""
        if not self.fits_png(spec):
            raise UserError(f"{path}: images {spec.shape} of {spec.values!r} values are not read from picture files")
        channels, height, width = spec.shape
        image = try_read(Reader(height, width, channels, "center"), str(path))
        if isinstance(image, str):
            raise UserError(f"cannot read {path} as a picture: {image}")
        x = to_float(torch.from_numpy(image.copy()), "uint8")
        return threshold(x) if spec.values == "binary" else x

    def write(self, x: Tensor, path: Path, spec: DataSpec, provenance: Mapping[str, object]) -> None:
        """A PNG file; an array where the numbers are of no picture."""
        if self.fits_png(spec):
            save_png(to_uint8(x), path, provenance)
        else:
            save_array(self.stored(x, spec).numpy(), path)

    def stored(self, x: Tensor, spec: DataSpec) -> Tensor:
        """Rounded to 256 levels, uint8; numbers in units of their own as they are."""
        return super().stored(x, spec) if spec.values == "real" else to_uint8(x)

    def restored(self, x: Tensor, spec: DataSpec) -> Tensor:
        return x if spec.values == "real" else x.float() / 127.5 - 1

    # Views

    def sheet(self, samples: Tensor, spec: DataSpec, columns: int | None = None, extent: float | None = None) -> Tensor:
        """A grid of pictures."""
        return grid(to_uint8(samples), columns or math.ceil(math.sqrt(len(samples))))

    def blank(self, n: int, spec: DataSpec) -> Tensor:
        """White, as the background of a grid."""
        return torch.ones(n, *spec.shape)

    def describe(self, x: Tensor, spec: DataSpec) -> Health:
        """Also the share of ``saturated`` pixels, at an end of the range: no error by itself, since ink is black."""
        values, problems = super().describe(x, spec)
        if spec.values != "real":
            levels = to_uint8(x)
            values["saturated"] = float(((levels == 0) | (levels == 255)).double().mean())
        return Health(values, problems)

    # Models

    def augmentations(self, spec: DataSpec) -> tuple[str, ...]:
        return () if spec.values == "real" else ("color", "translation", "cutout")

    def network(self, spec: DataSpec) -> str:
        """Convolutions above 16 pixels, else fully connected."""
        sides = spec.shape[1:]
        return "dcgan" if min(sides, default=0) >= LEAST and max(sides) > SMALL else "mlp"

    def extractor(self, spec: DataSpec) -> str | None:
        return "inception" if spec.shape[0] == 3 else None

    def trains_extractor(self, spec: DataSpec) -> bool:
        return spec.values != "real"

    def fits_png(self, spec: DataSpec) -> bool:
        return spec.values != "real" and spec.shape[0] in (1, 3)

    def points(self, x: Tensor) -> Tensor:
        """Of large images the means of patches."""
        if max(x.shape[2:]) > COARSE:
            x = F.adaptive_avg_pool2d(x, (min(COARSE, x.shape[2]), min(COARSE, x.shape[3])))
        return x.flatten(1)
