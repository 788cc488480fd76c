"""Images (C, H, W): picture files, grids, the metrics of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.array_files import read_arrays
from lightning_gen.datamodules.decode import SUFFIXES
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.images import try_read
from lightning_gen.datamodules.listing import is_picture, list_pictures
from lightning_gen.datamodules.pixels import threshold, to_float
from lightning_gen.datamodules.reader import reader_of
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model, to_units
from lightning_gen.drawing.images import save_array, save_png, save_tiff
from lightning_gen.drawing.render import grid, to_uint8
from lightning_gen.kinds.base import ARRAYS, Claim, Health, Kind, arrays

LEAST = 8  # pixels of a side that convolutions halve
SMALL = 16  # up to here an image is few numbers, and a fully connected network is as good and faster
BYTES = ("binary", "uint8")  # values that are stored as 0..255
WHITE_16 = 65535  # of a PNG file of 16 bits
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
        """PNG of values 0 to 65535 at most, TIFF of other grey values in units of their own, else an array."""
        if not self._is_picture(spec):
            return ".npy"
        if not spec.range or (self._is_whole(spec) and spec.range[0] >= 0 and spec.range[1] <= WHITE_16):
            return ".png"
        return ".tif" if spec.shape[0] == 1 else ".npy"

    def is_example_file(self, path: Path, is_file: bool | None = None) -> bool:
        return is_picture(path, is_file)

    def read(self, path: Path, spec: DataSpec) -> Tensor:
        """A picture file of any size -> (C, H, W): its largest centred part of the right proportions, resized.

        An array holds one image of the spec's shape, in its units; of values and channels of no picture it must be one.
        """
        if path.suffix in ARRAYS:
            return self._read_array(path, spec)
        if not self._is_picture(spec):
            what = f"images {spec.shape} of {spec.values!r} values"
            raise UserError(f"{path}: {what} are no pictures: give a {ARRAYS[0]} file of this shape")
        image = try_read(reader_of(spec), str(path))
        if isinstance(image, str):
            raise UserError(f"cannot read {path} as a picture: {image}")
        x = self._to_model(torch.from_numpy(image), spec)
        return threshold(x) if spec.values == "binary" else x

    def _read_array(self, path: Path, spec: DataSpec) -> Tensor:
        """One image (C, H, W), (H, W, C) or, of one channel, (H, W)."""
        x = torch.from_numpy(np.ascontiguousarray(read_arrays(path)["x"]))
        channels, height, width = spec.shape
        if tuple(x.shape) == (height, width, channels) != spec.shape:
            x = x.permute(2, 0, 1)
        x = x.reshape(spec.shape) if tuple(x.shape) in ((height, width), (1, *spec.shape)) else x
        if tuple(x.shape) != spec.shape or (spec.values in BYTES and x.dtype != torch.uint8):
            wanted = f"one image {spec.shape}" + (" of uint8" if spec.values in BYTES else "")
            raise UserError(f"{path} holds {x.dtype} of shape {tuple(x.shape)}: expected {wanted}")
        if not x.isfinite().all():
            raise UserError(f"{path} holds values that are not finite (nan or inf)")
        return self._to_model(x, spec).contiguous()

    @staticmethod
    def _to_model(x: Tensor, spec: DataSpec) -> Tensor:
        """Stored values as a model sees them; pictures of 8 bits are no other in data of floats in [0, 1]."""
        return to_float(x, "uint8") if x.dtype == torch.uint8 and not spec.range else to_model(x, spec)

    def write(self, x: Tensor, path: Path, spec: DataSpec, provenance: Mapping[str, object] | None) -> None:
        """PNG of 8 or 16 bits, TIFF of floats or int16, or an array, see ``suffix``; in the units of the data."""
        suffix, is_whole = self.suffix(spec), self._is_whole(spec)
        if suffix == ".npy":
            values = to_uint8(x) if spec.values in BYTES else to_units(x.detach().cpu(), spec)
            save_array(values.numpy(), path)
        elif not spec.range:
            save_png(to_uint8(x), path, provenance)
        else:
            values = to_units(x.detach().cpu().clamp(-1, 1), spec)
            values = values.round() if is_whole else values
            if suffix == ".png":
                is_byte = spec.bits == 8 and spec.range[1] <= 255
                save_png(values.to(torch.uint8 if is_byte else torch.int32), path, provenance)
            else:
                fits = is_whole and spec.range[0] >= -(2**15) and spec.range[1] < 2**15
                save_tiff(values.to(torch.int16) if fits else values, path, provenance)

    def stored(self, x: Tensor, spec: DataSpec) -> Tensor:
        """Rounded to 256 levels, uint8; numbers of more bits, and in units of their own, as they are."""
        return super().stored(x, spec) if self._keeps_depth(spec) else to_uint8(x)

    def restored(self, x: Tensor, spec: DataSpec) -> Tensor:
        return x if self._keeps_depth(spec) else x.float() / 127.5 - 1

    @staticmethod
    def _is_picture(spec: DataSpec) -> bool:
        return spec.values != "real" and spec.shape[0] in (1, 3)

    @staticmethod
    def _is_whole(spec: DataSpec) -> bool:
        """Whether the user's values are whole numbers of at most 16 bits."""
        return 0 < spec.bits <= 16

    @staticmethod
    def _keeps_depth(spec: DataSpec) -> bool:
        return spec.values == "real" or bool(spec.range)

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
        """Of 8 bits, as codecs of pictures take them."""
        return self._is_picture(spec) and not spec.range

    def points(self, x: Tensor) -> Tensor:
        """Of large images the means of patches."""
        if max(x.shape[2:]) > COARSE:
            x = F.adaptive_avg_pool2d(x, (min(COARSE, x.shape[2]), min(COARSE, x.shape[3])))
        return x.flatten(1)
