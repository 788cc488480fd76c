"""Reading image files of any size and mode into arrays of one shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from datamodules.errors import UserError
from datamodules.sources import Batch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CROPS = ("center", "stretch")
Skipped = list[tuple[str, str]]  # (name, reason)


class Reader(NamedTuple):
    """How a file becomes an array: ``reader(path) -> (C, H, W)`` uint8.

    Args:
        height: H.
        width: W.
        channels: 1 (grey) or 3 (RGB).
        crop: "center" (the largest centred part of the right proportions) or "stretch" (the whole image).
    """

    height: int
    width: int
    channels: int
    crop: str

    def __call__(self, path: str | Path) -> np.ndarray:
        """Read one file; raises whatever Pillow raises on a broken one."""
        with open(path, "rb") as file, Image.open(file) as opened:
            # A large JPEG is decoded at a fraction of its size.
            opened.draft(None, (2 * max(self.height, self.width),) * 2)
            image = on_white(ImageOps.exif_transpose(opened)).convert("L" if self.channels == 1 else "RGB")
        size = (self.width, self.height)
        if self.crop == "center":
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        elif image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)


def on_white(image: Image.Image) -> Image.Image:
    """The image as 8 bits per channel, transparent parts on white."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        top = values.max(initial=0)  # "I" and "F" do not say which value is white
        white = 65535 if image.mode.startswith("I;") or top > 255 else 255 if image.mode == "I" or top > 1 else 1
        return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def to_size(size: int | list[int]) -> tuple[int, int]:
    """(H, W) from H alone or [H, W]."""
    height, width = (size, size) if isinstance(size, int) else tuple(size) if len(size) == 2 else (0, 0)
    if height < 1 or width < 1:
        raise UserError(f"size {size}: give the height, or [height, width], in pixels")
    return height, width


def attempt(reader: Reader, path: str) -> np.ndarray | str:
    """The image, or why it cannot be read."""
    try:
        return reader(path)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on broken files
        return f"{type(error).__name__}: {error}"


def read_all(reader: Reader, paths: list[str]) -> tuple[Tensor, Tensor, Skipped]:
    """Read all files in threads.

    Returns:
        The readable images (n, C, H, W) uint8, their positions in ``paths`` (n,), and what was skipped.
    """
    images = torch.empty((len(paths), reader.channels, reader.height, reader.width), dtype=torch.uint8)
    kept: list[int] = []
    skipped: Skipped = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda path: attempt(reader, path), paths)
        for k, result in enumerate(track(results, "reading images", len(paths), disable=len(paths) < 5000)):
            if isinstance(result, str):
                skipped.append((paths[k], result))
            else:
                images[len(kept)] = torch.from_numpy(result.copy())
                kept.append(k)
    return images[: len(kept)], torch.tensor(kept, dtype=torch.int64), skipped


class Files:
    """Images that are read when they are asked for.

    Args:
        reader: how to read one.
        paths: the files.
        y: (N,) class ids, if any.
        replace: in place of a broken image give the next readable one, so that training batches stay full; otherwise
            leave it out.
    """

    def __init__(self, reader: Reader, paths: list[str], y: Tensor | None, replace: bool) -> None:
        self.reader, self.paths, self.y, self.replace = reader, paths, y, replace

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, index: Tensor) -> Batch:
        """The images at these positions; "index" tells which were read in the end."""
        skipped: Skipped = []
        found = [self._read(k, skipped) for k in index.tolist()]
        images = [image for image, _ in found if image is not None]
        empty = np.zeros((0, self.reader.channels, self.reader.height, self.reader.width), np.uint8)
        batch: Batch = {"x": torch.from_numpy(np.stack(images) if images else empty)}
        batch["index"] = torch.tensor([k for image, k in found if image is not None], dtype=torch.int64)
        if self.y is not None:
            batch["y"] = self.y[batch["index"]]
        if skipped:
            batch["skipped"] = skipped
        return batch

    def _read(self, k: int, skipped: Skipped) -> tuple[np.ndarray | None, int]:
        """Image k, or the next readable one, and its position."""
        for step in range(len(self) if self.replace else 1):
            position = (k + step) % len(self)
            image = attempt(self.reader, self.paths[position])
            if not isinstance(image, str):
                return image, position
            skipped.append((self.paths[position], image))
        return None, k
