"""Many picture files: looked at, read in threads, or read as they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from .decode import ORIENTATION, depth_of, opened
from .errors import UserError
from .pages import quiet_pillow
from .sources import Batch

Skipped = list[tuple[str, str]]  # (name, reason)


class Reads(Protocol):
    """How a file becomes an array: ``reader(path) -> shape`` of ``dtype``; raises anything on a broken one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """uint8, or float32 where values are in units of the user's."""
        ...

    def __call__(self, path: str) -> np.ndarray:
        """Read one file."""
        ...


class ImageInfo(NamedTuple):
    """Image size and mode, read from the file header.

    Args:
        height: of the image as it is shown.
        width: likewise.
        kind: "" for RGB, which needs no conversion; else what it is.
    """

    height: int
    width: int
    kind: str


def read_image_info(path: str) -> ImageInfo | None:
    """Size and kind of an image, without decoding it; None where that fails."""
    try:
        with opened(path) as image:
            # Pillow would decode a PNG in search of a rotation at its end.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            width, height = image.size[::-1] if exif.get(ORIENTATION, 1) >= 5 else image.size
            return ImageInfo(height, width, kind_of(image))
    except Exception:  # reading it will give the reason
        return None


def kind_of(image: Image.Image) -> str:
    """What an image is, in a word, if it is not plain RGB."""
    if image.has_transparency_data:
        return "transparent"
    depth = depth_of(image)
    plain = {"RGB": "", "P": ""}.get(image.mode, image.mode)  # a palette's colours are RGB
    word = "grey" if image.mode.startswith(("1", "I", "F")) or image.mode == "L" else plain
    if depth.bits > 8 or depth.is_reduced:
        bits = f"{depth.bits if depth.bits > 8 else 16}-bit" if image.mode != "F" else "float"
        return f"{bits} {word or 'colour'}"
    return word


def read_image_infos(paths: list[str]) -> list[ImageInfo | None]:
    """Look at all files, in threads."""
    with quiet_pillow(), ThreadPoolExecutor() as pool:
        return list(track(pool.map(read_image_info, paths), "looking at images", len(paths), disable=len(paths) < 5000))


def to_size(size: int | list[int]) -> tuple[int, int]:
    """(H, W) from H alone or [H, W]."""
    height, width = (size, size) if isinstance(size, int) else tuple(size) if len(size) == 2 else (0, 0)
    if height < 1 or width < 1:
        raise UserError(f"size {size}: give the height, or [height, width], in pixels")
    return height, width


def try_read(reader: Reads, path: str) -> np.ndarray | str:
    """The image, or why it cannot be read."""
    try:
        return reader(path)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on broken files
        return f"{type(error).__name__}: {error}"


def read_all(reader: Reads, paths: list[str]) -> tuple[Tensor, Tensor, Skipped]:
    """Read all files in threads.

    Returns:
        The readable images (n, C, H, W) of the reader's type, their positions in ``paths`` (n,), and what was skipped.
    """
    images = torch.empty((len(paths), *reader.shape), dtype=reader.dtype)
    kept: list[int] = []
    skipped: Skipped = []
    with quiet_pillow(), ThreadPoolExecutor() as pool:
        results = pool.map(lambda path: try_read(reader, path), paths)
        for k, result in enumerate(track(results, "reading images", len(paths), disable=len(paths) < 5000)):
            if isinstance(result, str):
                skipped.append((paths[k], result))
            else:
                images[len(kept)] = torch.from_numpy(result.copy())
                kept.append(k)
    return images[: len(kept)], torch.tensor(kept, dtype=torch.int64), skipped


class Files:
    """Images that are read on access.

    Args:
        reader: how to read one.
        paths: the files.
        y: (N,) class ids, if any.
        replace: in place of a broken image give the next readable one, so that training batches stay full; otherwise
            leave it out.
    """

    def __init__(self, reader: Reads, paths: list[str], y: Tensor | None, replace: bool) -> None:
        self.reader, self.paths, self.y, self.replace = reader, paths, y, replace

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, index: Tensor) -> Batch:
        """The images at these positions; "index" says which were read in the end."""
        skipped: Skipped = []
        with quiet_pillow():
            found = [self._read(k, skipped) for k in index.tolist()]
        images = [image for image, _ in found if image is not None]
        x = torch.empty((len(images), *self.reader.shape), dtype=self.reader.dtype)
        for row, image in zip(x, images, strict=True):
            row.copy_(torch.from_numpy(image))
        batch: Batch = {"x": x}
        batch["index"] = torch.tensor([k for image, k in found if image is not None], dtype=torch.int64)
        if self.y is not None:
            batch["y"] = self.y[batch["index"]]
        if skipped:
            batch["skipped"] = skipped
        return batch

    def labels(self) -> Tensor | None:
        """(N,) class ids, of broken images too."""
        return self.y

    def _read(self, k: int, skipped: Skipped) -> tuple[np.ndarray | None, int]:
        """Image k, or the next readable one, and its position."""
        for step in range(len(self) if self.replace else 1):
            position = (k + step) % len(self)
            image = try_read(self.reader, self.paths[position])
            if not isinstance(image, str):
                return image, position
            skipped.append((self.paths[position], image))
        return None, k
