"""Files of pictures and arrays, which appear when they are whole: PNG and TIFF with provenance metadata, .npy."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lightning_gen.atomic import atomic_file
from lightning_gen.datamodules.paths import printable

DESCRIPTION, SAMPLE_FORMAT, PACKET, SIGNED = 270, 339, 700, 2  # tags of TIFF: text, type of the values, XMP; a type
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{source_type}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def save_png(picture: Tensor, path: Path, provenance: Mapping[str, object] | None = None) -> None:
    """Write uint8 (C, H, W), C = 1 or 3, as PNG; int32 as one of 16 bits, with values 0 to 65535.

    With a provenance, its entries are stored as text, and the IPTC digital source type says that a model made it.
    """
    info = PngInfo()
    if provenance is not None:
        info.add_itxt("XML:com.adobe.xmp", XMP.format(source_type=SOURCE_TYPE))
        for name, value in provenance.items():
            info.add_itxt(name, printable(str(value)))
    array = picture.permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as file:
        if picture.dtype == torch.int32:
            _write_png_16(array, file, info)
        else:
            Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(file, "PNG", pnginfo=info)


def save_tiff(picture: Tensor, path: Path, provenance: Mapping[str, object] | None = None) -> None:
    """Write float32 (1, H, W), or int16, as TIFF, with the provenance as its description."""
    tags: dict[int, object] = {}
    if provenance is not None:
        text = "\n".join(f"{name}: {value}" for name, value in provenance.items())
        tags = {
            DESCRIPTION: text.encode("ascii", "replace").decode(),
            PACKET: XMP.format(source_type=SOURCE_TYPE).encode(),
        }
    array = picture.squeeze(0).numpy()
    if array.dtype == np.int16:
        array, tags = array.view(np.uint16), tags | {SAMPLE_FORMAT: (SIGNED,)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as file:
        Image.fromarray(np.ascontiguousarray(array)).save(file, "TIFF", tiffinfo=tags)


def _write_png_16(array: np.ndarray, file: BinaryIO, info: PngInfo) -> None:
    """Values 0 to 65535 (H, W, 1 or 3) as a PNG file of 16 bits, which Pillow does not write of colours."""
    height, width, channels = array.shape
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1)  # each row begins with its filter, none
    colour = 0 if channels == 1 else 2
    header = struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *((chunk[0], chunk[1]) for chunk in info.chunks)]
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, content in chunks:
        sums = struct.pack(">I", zlib.crc32(name + content))
        file.write(struct.pack(">I", len(content)) + name + content + sums)


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a .npy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as file:
        np.save(file, array, allow_pickle=False)
