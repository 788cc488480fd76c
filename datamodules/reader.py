"""Reader: how the picture of a file, or one in memory, becomes an array of one shape and one scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from .decode import MAX_PIXELS, Picture, open_picture
from .errors import UserError, unknown
from .spec import DataSpec

CROPS = ("center", "stretch")
INTERPOLATIONS = {name.lower(): Image.Resampling[name] for name in ("BICUBIC", "BILINEAR", "BOX", "LANCZOS", "NEAREST")}


class Reader(NamedTuple):
    """How a picture becomes an array: ``reader(path) -> (C, H, W)``, uint8, or float32 in the user's units.

    Without a range the values are those of 8 bits: deeper files are brought from their black..white to 0..255. With
    one, files of ``bits`` keep their values, and those of another depth are brought from their black..white to it; what
    lies outside of it is cut.

    Args:
        height: H; 0: each picture keeps its own size.
        width: W; likewise.
        channels: 1 (grey) or 3 (RGB).
        crop: "center" (the largest centred part of the right proportions) or "stretch" (the whole image).
        interpolation: a name of ``INTERPOLATIONS``.
        range: (low, high) of the data set, in the units of its files; empty: uint8.
        bits: of a value in those of its files that keep their values.
        max_pixels: most pixels that a picture may have.
    """

    height: int
    width: int
    channels: int
    crop: str = "center"
    interpolation: str = "bicubic"
    range: tuple[float, ...] = ()
    bits: int = 8
    max_pixels: int = MAX_PIXELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def dtype(self) -> torch.dtype:
        """Of the arrays."""
        return torch.float32 if self.range else torch.uint8

    def __call__(self, path: str | Path) -> np.ndarray:
        """Read one file; raises whatever Pillow raises on a broken one."""
        averaged = self.interpolation != "nearest"  # which takes values that are there, and not their means
        return self.array(open_picture(path, 2 * max(self.height, self.width) * averaged, self.max_pixels))

    def array(self, picture: Picture) -> np.ndarray:
        """(C, H, W) of a decoded picture.

        Raises:
            ValueError: the picture does not say which value is white, and needs to.
        """
        if not self.range:
            image = self._resized(picture.in_8_bits().convert("L" if self.channels == 1 else "RGB"))
            levels = np.asarray(image, np.uint8).reshape(image.height, image.width, self.channels)
            return levels.transpose(2, 0, 1).copy()
        keeps = picture.depth.bits == self.bits
        values = picture.values(self.channels) if keeps else picture.mapped(self.channels, *self.range)
        bands = (Image.fromarray(np.ascontiguousarray(band, np.float32)) for band in np.moveaxis(values, 2, 0))
        low, high = self.range
        return np.stack([np.asarray(self._resized(band)) for band in bands]).clip(low, high)

    def _resized(self, image: Image.Image) -> Image.Image:
        size, method = (self.width, self.height), INTERPOLATIONS[self.interpolation]
        if size == (0, 0):
            return image
        if self.crop == "center":
            return ImageOps.fit(image, size, method)
        return image if image.size == size else image.resize(size, method)


def reader_of(spec: DataSpec, size: tuple[int, int] | None = None, **options: Any) -> Reader:
    """The reader of pictures that a model on these data takes.

    Args:
        spec: of the data.
        size: (H, W), by default that of the spec; (0, 0): each picture keeps its own.
        options: of ``Reader``.
    """
    height, width = spec.shape[-2:] if size is None else size
    return Reader(
        height, width, spec.shape[0], range=spec.range, bits=spec.bits or (32 if spec.range else 8), **options
    )


def check_interpolation(name: str, option: str = "interpolation") -> str:
    """The name of an interpolation.

    Raises:
        UserError: there is no such.
    """
    if name not in INTERPOLATIONS:
        raise unknown(option, name, INTERPOLATIONS)
    return name


def check_channels(channels: int, option: str = "channels") -> int:
    """A number of channels.

    Raises:
        UserError: pictures are not read with so many.
    """
    if channels not in (1, 3):
        raise UserError(f"{option} {channels}: possible are 1 (grey) and 3 (colour)")
    return channels


def check_range(given: Any) -> tuple[float, ...]:
    """(low, high) as a user gives them, empty where none was given.

    Raises:
        UserError: no two numbers, or not in order.
    """
    if given is None:
        return ()
    low, high = (float(bound) for bound in given) if len(given) == 2 else (1.0, 0.0)
    if not (np.isfinite([low, high]).all() and low < high):
        raise UserError(f"range {list(given)}: give the lowest and the highest value, such as --data.range 0 4095")
    return low, high
