"""Reading image files of any size and mode into arrays of one shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from .errors import UserError
from .pages import open_page, quiet_pillow
from .sources import Batch

# Of the most common formats; readable_suffixes() has the others too.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF")  # Pillow knows, but needs programs to read
CROPS = ("center", "stretch")
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")  # modes with an alpha channel
ORIENTATION = 0x0112  # EXIF: from 5 on the image is shown on its side
Skipped = list[tuple[str, str]]  # (name, reason)


class Reads(Protocol):
    """How a file becomes an array: ``reader(path) -> shape`` uint8; raises anything on a broken one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    def __call__(self, path: str) -> np.ndarray:
        """Read one file."""
        ...


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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def __call__(self, path: str | Path) -> np.ndarray:
        """Read one file; raises whatever Pillow raises on a broken one."""
        return self.array(open_image(path, 2 * max(self.height, self.width)))

    def array(self, image: Image.Image) -> np.ndarray:
        """(C, H, W) uint8 of an image."""
        image = image.convert("L" if self.channels == 1 else "RGB")
        size = (self.width, self.height)
        if self.crop == "center":
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        elif image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes, in small letters, of all picture files that can be read here; with pillow-heif of HEIC files too."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    known = Image.registered_extensions().items()
    return frozenset(SUFFIXES) | {end for end, kind in known if kind in Image.OPEN and kind not in NO_PICTURES}


def open_image(path: str | Path, least: int = 0) -> Image.Image:
    """The image of a file, upright and with 8 bits per channel.

    Args:
        path: the file, or a page of one, see ``pages``.
        least: a large JPEG may be decoded at a fraction of its size, of at least this many pixels; 0 forbids it.
    """
    readable_suffixes()  # in a worker too: it makes all formats known
    with open_page(path) as image:
        if least:
            image.draft(None, (least, least))
        return flatten_alpha(ImageOps.exif_transpose(image))


def flatten_alpha(image: Image.Image) -> Image.Image:
    """The image as 8 bits per channel, transparent parts on white."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        top = values.max(initial=0)  # "I" and "F" do not say which value is white
        white = 65535 if image.mode.startswith("I;") or top > 255 else 255 if image.mode == "I" or top > 1 else 1
        return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


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
        with open_page(path) as image:
            # Pillow would decode a PNG in search of a rotation at its end.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            width, height = image.size[::-1] if exif.get(ORIENTATION, 1) >= 5 else image.size
            return ImageInfo(height, width, kind_of(image))
    except Exception:  # reading it will give the reason
        return None


def kind_of(image: Image.Image) -> str:
    """What an image is, in a word, if it is not plain RGB."""
    if image.mode in TRANSPARENT or "transparency" in image.info:
        return "transparent"
    if image.mode.startswith(("I", "F")):
        return "float" if image.mode.startswith("F") else "16-bit"
    return {"RGB": "", "P": "", "1": "grey", "L": "grey"}.get(image.mode, image.mode)  # a palette's colours are RGB


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
        The readable images (n, C, H, W) uint8, their positions in ``paths`` (n,), and what was skipped.
    """
    images = torch.empty((len(paths), *reader.shape), dtype=torch.uint8)
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
        empty = np.zeros((0, *self.reader.shape), np.uint8)
        batch: Batch = {"x": torch.from_numpy(np.stack(images) if images else empty)}
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
