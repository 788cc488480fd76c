"""Baselines: general-purpose compressors and image formats on the same examples."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIDE = 16_383  # pixels: the largest side of a WebP picture
PLAIN: dict[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda data: gzip.compress(data, 9, mtime=0),
    "bz2 -9": lambda data: bz2.compress(data, 9),
    "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP": {"format": "WebP", "lossless": True, "quality": 100, "method": 6},
}


class Baseline(NamedTuple):
    """A compressor, the bytes it takes for all examples, and how they were given to it."""

    name: str
    size: int
    how: str


def measure_baselines(levels: np.ndarray, binary: bool) -> list[Baseline]:
    """Each compressor on uint8 examples (n, *shape), 0 and 1 where binary: the smaller of bytes and packed bits."""
    rows = [_plain(name, pack, levels, binary) for name, pack in PLAIN.items()]
    if levels.ndim == 4 and levels.shape[1] in (1, 3):
        pictures = (levels * 255 if binary else levels).transpose(0, 2, 3, 1)  # (n, H, W, C)
        for name, options in FORMATS.items():
            sizes = [_saved(picture, binary, options) for picture in pictures]
            rows.append(Baseline(name, sum(sizes), "a file each"))
            sheet = mosaic(pictures)
            if sheet is not None and len(pictures) > 1:
                rows.append(Baseline(name, _saved(sheet, binary, options), "all in one picture"))
    return rows


def _plain(name: str, pack: Callable[[bytes], bytes], levels: np.ndarray, binary: bool) -> Baseline:
    ways = {"bytes": levels.tobytes()} | ({"packed bits": np.packbits(levels).tobytes()} if binary else {})
    sizes = {how: len(pack(data)) for how, data in ways.items()}
    how = min(sizes, key=lambda way: sizes[way])
    return Baseline(name, sizes[how], how)


def mosaic(pictures: np.ndarray) -> np.ndarray | None:
    """(n, H, W, C) -> one picture (rows * H, columns * W, C), about a square, the rest black; None if too large."""
    n, height, width, channels = pictures.shape
    columns = math.ceil(math.sqrt(n * height / width))
    rows = math.ceil(n / columns)
    if max(rows * height, columns * width) > SIDE:
        return None
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:n] = pictures
    grid = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)  # (rows, H, columns, W, C)
    return grid.reshape(rows * height, columns * width, channels)


def _saved(picture: np.ndarray, binary: bool, options: dict[str, Any]) -> int:
    """Bytes of a picture (H, W, C) in a format; PNG takes binary ones at one bit for each pixel."""
    image = Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
    if binary and picture.shape[2] == 1 and options["format"] == "PNG":
        image = image.convert("1")
    file = io.BytesIO()
    image.save(file, **options)
    return len(file.getvalue())
