"""Files of pictures and arrays, which appear when they are whole: PNG with provenance metadata, .npy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lightning_gen.atomic import atomic_file
from lightning_gen.datamodules.paths import printable

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{source_type}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def save_png(picture: Tensor, path: Path, provenance: Mapping[str, object] | None = None) -> None:
    """Write uint8 (C, H, W), C = 1 or 3, as PNG, of which no reader sees a part.

    With a provenance, its entries are stored as text, and the IPTC digital source type says that a model made it.
    """
    info = PngInfo()
    if provenance is not None:
        info.add_itxt("XML:com.adobe.xmp", XMP.format(source_type=SOURCE_TYPE))
        for name, value in provenance.items():
            info.add_itxt(name, printable(str(value)))
    array = picture.permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
    with atomic_file(path, durable=False) as file:
        image.save(file, "PNG", pnginfo=info)


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a .npy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as file:
        np.save(file, array, allow_pickle=False)
