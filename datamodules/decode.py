"""Decoding of picture files, to the full depth of their values: the one place where files become numbers."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from .files import check_regular
from .pages import open_page, split_page

# Of the most common formats; readable_suffixes() has the others too.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF")  # Pillow knows, but needs programs to read
BITS_PER_SAMPLE, PLANAR = 258, 284  # tags of TIFF
ORIENTATION = 0x0112  # EXIF: from 5 on the image is shown on its side
MAX_PIXELS = 178_956_970  # Pillow's own limit against files that grow without bound when they are decoded
DEEP = re.compile(r"(RGB|RGBA|RGBX);16[BLN]|LA;16B")  # Pillow keeps a byte of each value; _two_bytes gets both
FOREIGN = "B" if sys.byteorder == "little" else "L"
OTHER_BYTE = {"B": "L", "L": "B", "N": FOREIGN}  # the order of bytes in which Pillow keeps what it drops in this one
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow turns colours into grey
_limit = threading.RLock()  # Pillow's limit belongs to the process


class Depth(NamedTuple):
    """Which values the pixels of a file take.

    Args:
        bits: of a value, 8 to 16 whole numbers from ``black`` to ``white``; 32: floats, or numbers as wide.
        black: the lowest value.
        white: the highest one; None where the file does not say which value is white.
        is_reduced: the file holds 16 bits in a form of which 8 can be read.
    """

    bits: int = 8
    black: float = 0.0
    white: float | None = 255.0
    is_reduced: bool = False


class Picture(NamedTuple):
    """A decoded picture, upright, transparent parts on white.

    Args:
        pixels: a Pillow image where it has 8 bits, else float32 (H, W, 1 or 3) in the file's units.
        depth: of its values.
    """

    pixels: Image.Image | np.ndarray
    depth: Depth

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.size[::-1] if isinstance(self.pixels, Image.Image) else self.pixels.shape[:2]

    def columns(self, start: int, end: int) -> Picture:
        """A part of the full height."""
        if isinstance(self.pixels, Image.Image):
            with without_limit():
                return self._replace(pixels=self.pixels.crop((start, 0, end, self.pixels.height)))
        return self._replace(pixels=self.pixels[:, start:end])

    def values(self, channels: int) -> np.ndarray:
        """float32 (H, W, C) in the file's units, grey where C is 1 and colours where it is 3."""
        if isinstance(self.pixels, Image.Image):
            values = np.asarray(self.pixels.convert("L" if channels == 1 else "RGB"), np.float32)
            return values.reshape(*values.shape[:2], channels)
        if channels == self.pixels.shape[2]:
            return self.pixels
        return self.pixels @ LUMA[:, None] if channels == 1 else self.pixels.repeat(3, 2)

    def mapped(self, channels: int, low: float, high: float) -> np.ndarray:
        """``values`` on a scale on which the file's black is ``low`` and its white ``high``.

        Raises:
            ValueError: the file does not say which value is white.
        """
        if self.depth.white is None:
            raise ValueError(
                f"it holds {self.depth.bits}-bit numbers, and does not say which of them is white, as pictures of 8 to "
                "16 bits do"
            )
        return (self.values(channels) - self.depth.black) * (high - low) / (self.depth.white - self.depth.black) + low

    def in_8_bits(self) -> Image.Image:
        """The picture with 256 levels."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels
        levels = np.rint(self.mapped(self.pixels.shape[2], 0, 255)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


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


@contextmanager
def without_limit() -> Iterator[None]:
    """Without Pillow's own limit of pixels, and its warning below that; one thread at a time."""
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def opened(path: str | Path, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """A file as Pillow opens it: its header is read, its pixels are not yet.

    Args:
        path: the file, or a page of one, see ``pages``.
        max_pixels: most pixels that it may have; None: it will not be decoded.

    Raises:
        ValueError: it has more.
    """
    readable_suffixes()  # in a worker too: it makes all formats known
    with ExitStack() as stack:
        with without_limit():
            image = stack.enter_context(open_page(path))
        pixels = image.width * image.height
        if max_pixels is not None and pixels > max_pixels:
            raise ValueError(f"{pixels:,} pixels, more than the limit of {max_pixels:,}: option max_pixels raises it")
        if pixels > (Image.MAX_IMAGE_PIXELS or pixels):
            stack.enter_context(without_limit())
        yield image


def open_picture(path: str | Path, least: int = 0, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture of a file; raises whatever Pillow raises on a broken one.

    Args:
        path: the file.
        least: a large JPEG may be decoded at a fraction of its size, of at least this many pixels; 0 forbids it.
        max_pixels: most pixels that it may have.

    Raises:
        ValueError: it has more pixels, or values that are not finite.
    """
    with opened(path, max_pixels) as image:
        depth = depth_of(image)
        _check_planes(image)
        if depth.bits == 8:
            if least:
                image.draft(None, (least, least))
            return Picture(flatten_alpha(ImageOps.exif_transpose(image)), depth)
        values = _two_bytes(image, path) if _raw_mode(image)[1] else _numbers(image, path, depth)
        values = _on_white(values, image.info.get("transparency"), depth.white)
        values = _upright(values, image.getexif().get(ORIENTATION, 1))
    return Picture(_finite(values), depth)


def of_image(image: Image.Image) -> Picture:
    """The picture of a Pillow image in memory; of colours Pillow knows 8 bits alone.

    Raises:
        ValueError: it has values that are not finite.
    """
    image = ImageOps.exif_transpose(image)
    if not image.mode.startswith(("I", "F")):
        return Picture(flatten_alpha(image), Depth())
    bits = Depth(16, 0, 65535) if image.mode.startswith("I;16") else Depth(32, 0, None)
    return Picture(_finite(np.asarray(image).astype(np.float32)[:, :, None]), bits)


def flatten_alpha(image: Image.Image) -> Image.Image:
    """An image of 8 bits, transparent parts on white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def depth_of(image: Image.Image) -> Depth:
    """The depth of a file that was opened and not yet decoded."""
    raw, is_deep = _raw_mode(image)
    if image.mode == "F":
        return Depth(32, 0, None)
    if largest := _largest_of_ppm(image):
        return Depth(largest.bit_length(), 0, largest)
    if image.mode.startswith("I"):
        if ";12" in raw:
            return Depth(12, 0, 4095)
        if ";16" in raw and raw.endswith("S"):
            return Depth(16, -32768, 32767)
        return Depth(16, 0, 65535) if ";16" in raw + image.mode else Depth(32, 0, None)
    if is_deep:
        return Depth(16, 0, 65535)
    return Depth(is_reduced=";16" in raw)


def read_depth(path: str) -> Depth | None:
    """The depth of a file, of the common formats from its first bytes; None where that fails."""
    try:
        file, _ = split_page(path)
        check_regular(file)
        with open(file, "rb") as opened_file:
            head = opened_file.read(32)
        if head.startswith(b"\x89PNG") and head[24] <= 8:
            return Depth()
        if head.startswith((b"\xff\xd8\xff", b"GIF8", b"BM")) or head[:4] + head[8:12] == b"RIFFWEBP":
            return Depth()
        with opened(path) as image:
            return depth_of(image)
    except Exception:  # reading it will give the reason
        return None


def _raw_mode(image: Image.Image) -> tuple[str, bool]:
    """How the values lie in a file, in Pillow's terms, and whether these are colours of 16 bits that can be read."""
    tiles = _tiles(image)
    raws = {str(tile[3] if isinstance(tile[3], str) else tile[3][0]) for tile in tiles if tile[3]}
    raw = next((raw for raw in raws if ";16" in raw), next(iter(raws), ""))
    is_of_ppm = image.mode == "RGB" and _largest_of_ppm(image) > 0
    return raw, not is_of_ppm and len(raws) == 1 and tiles[0][0] in ("zip", "raw", "libtiff") and _fits_deep(image, raw)


def _fits_deep(image: Image.Image, raw: str) -> bool:
    """Whether both bytes of colours can be had."""
    return DEEP.fullmatch(raw) is not None and not _is_planar(image)


def _is_planar(image: Image.Image) -> bool:
    """Whether the colours of a TIFF file lie in planes of their own."""
    return getattr(image, "tag_v2", {}).get(PLANAR, 1) == 2


def _check_planes(image: Image.Image) -> None:
    """Refuse what Pillow takes for planes of 8 bits.

    Raises:
        ValueError: planes of more bits, not compressed.
    """
    if _is_planar(image) and max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8 and _tiles(image)[0][0] == "raw":  # type: ignore[attr-defined]
        raise ValueError("TIFF of more than 8 bits whose colours lie in planes of their own: these are read compressed")


def _tiles(image: Image.Image) -> Any:
    """(decoder, extents, offset, its arguments) of each part of a file that was not yet decoded."""
    return getattr(image, "tile", [])


def _largest_of_ppm(image: Image.Image) -> int:
    """The value of white of a PPM or PGM file of more than 8 bits, else 0."""
    tiles = _tiles(image)
    found = [tile[3][-1] for tile in tiles if tile[0].startswith("ppm") and isinstance(tile[3], tuple)]
    return found[0] if found and isinstance(found[0], int) and found[0] > 255 else 0


def _numbers(image: Image.Image, path: str | Path, depth: Depth) -> np.ndarray:
    """Values (H, W, C) of grey pictures, and of PPM files, which are plain enough to be read here."""
    shape = (image.height, image.width, len(image.getbands()))
    if not _largest_of_ppm(image):
        return np.asarray(image).astype(np.float32).reshape(shape)
    decoder, _, offset, _ = _tiles(image)[0]
    if decoder == "ppm_plain":
        text = re.sub(rb"#[^\r\n]*", b"", Path(path).read_bytes()[offset:])
        values = np.array(text.split()[: int(np.prod(shape))], np.float32)
    else:
        values = np.fromfile(path, ">u2", int(np.prod(shape)), offset=offset).astype(np.float32)
    return values.reshape(shape)


def _two_bytes(image: Image.Image, path: str | Path) -> np.ndarray:
    """Values (H, W, C) of colours of 16 bits: Pillow decodes one byte of each, so the file is decoded for each byte."""
    raw, tiles = _raw_mode(image)[0], list(_tiles(image))
    if raw == "LA;16B":  # its four bytes are those of a picture of four channels
        other, frame = "RGBA", image.tell()
    else:
        other, frame = raw[:-1] + OTHER_BYTE[raw[-1]], image.tell()
    image.load()
    high = np.asarray(image)
    with opened(path) as again:
        again.seek(frame)
        again.tile = [_with_raw(tile, other) for tile in tiles]  # type: ignore[attr-defined]
        again.load()
        low = np.asarray(again)
    if raw == "LA;16B":
        return low[:, :, ::2] * np.float32(256) + low[:, :, 1::2]
    return high * np.float32(256) + low


def _with_raw(tile: Any, raw: str) -> Any:
    """A tile with another raw mode among its decoder's arguments."""
    arguments = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _on_white(values: np.ndarray, transparent: Any, white: float | None) -> np.ndarray:
    """(H, W, 1 or 3), of alpha channels and of a colour that stands for transparency."""
    white = 1.0 if white is None else white
    if values.shape[2] in (2, 4):
        alpha = values[:, :, -1:] / white
        return values[:, :, :-1] * alpha + white * (1 - alpha)
    if isinstance(transparent, int | tuple):
        values[(values == np.array(transparent, np.float32)).all(2)] = white
    return values


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF says that a picture is shown."""
    values = values.swapaxes(0, 1) if orientation >= 5 else values
    values = values[::-1] if orientation in (3, 4, 7, 8) else values
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite (nan or inf)")
    return values
