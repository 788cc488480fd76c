"""Arrays as examples: order of the axes, kind, and range of the values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import columns
from .decode import Depth, of_image
from .errors import UserError, unknown
from .spec import DataSpec
from .value_range import LOOKED_AT, describe_use, format_range

FORMS = "images (N, H, W), (N, C, H, W) or (N, H, W, C) of whole numbers or floats, or vectors (N, D)"
LAYOUTS = ("NCHW", "NHWC")
MOST_CHANNELS = 4  # that are recognised by their number
OF_TYPE = {"uint8": Depth(), "uint16": Depth(16, 0, 65535), "int16": Depth(16, -32768, 32767)}


class Examples(NamedTuple):
    """The examples of an array.

    Args:
        x: (N, C, H, W) or (N, D), in the user's units.
        entries: of their ``DataSpec``.
        notices: what is to be said of them, a line each.
    """

    x: Tensor
    entries: dict[str, Any]
    notices: tuple[str, ...] = ()


def has_channels_last(shape: tuple[int, ...], layout: str | None, what: str) -> bool:
    """Whether the last axis of images is that of the channels.

    Args:
        shape: (C, H, W) or (H, W, C) of one.
        layout: "NCHW", "NHWC", or None to recognise channels by their number: at most 4, and less than the other sides.
        what: holds the images, for the error.

    Raises:
        UserError: it is not clear.
    """
    if layout is not None:
        return layout == "NHWC"
    first, last = (n <= MOST_CHANNELS and n < min(sides) for n, sides in ((shape[0], shape[1:]), (shape[2], shape[:2])))
    if first == last:
        (a, b, c) = shape
        raise UserError(
            f"{what} holds images of shape {shape}, {a} channels of {b} x {c} or {c} channels of {a} x {b}: "
            "--data.layout NCHW says the first, --data.layout NHWC the second"
        )
    return last


def check_layout(layout: str | None) -> str | None:
    """The name of an order of axes, or None.

    Raises:
        UserError: there is no such.
    """
    if layout is not None and layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    return layout


def to_examples(
    x: np.ndarray,
    path: Path,
    *,
    layout: str | None = None,
    given: tuple[float, ...] = (),
    training: Tensor | None = None,
) -> Examples:
    """The examples of an array (N, ...), their kind and their values.

    Args:
        x: the array.
        path: its file, for errors.
        layout: order of the axes, see ``has_channels_last``.
        given: range (low, high) of images by the user; empty: of the type, floats outside [0, 1] are measured.
        training: positions (n,) of the training examples, over which is measured; by default all.

    Raises:
        UserError: of no accepted form, or not finite.
    """
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * 255
    floats, is_image = np.issubdtype(x.dtype, np.floating), x.ndim in (3, 4)
    whole = x.dtype == np.uint8 or (is_image and np.issubdtype(x.dtype, np.integer))
    if x.ndim not in (2, 3, 4) or 0 in x.shape or not (floats or whole):
        raise UserError(f"{path} holds {x.dtype} of shape {x.shape}: expected {FORMS}")
    if not is_image:
        return _vectors(x, path)
    examples = _tensor(x)
    low, high = (float(bound) for bound in torch.aminmax(examples)) if floats else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise columns.not_finite(examples, str(path))
    notices: list[str] = []
    if x.ndim == 3:
        examples = examples.unsqueeze(1)
    elif has_channels_last(x.shape[1:], layout, str(path)):
        examples = examples.movedim(3, 1)  # a view: batches come out contiguous
        shape = " x ".join(map(str, x.shape[1:]))
        notices.append(f"images of {shape}: {x.shape[3]} channels in the last axis (--data.layout NHWC)")
    depth = OF_TYPE.get(str(x.dtype), Depth(32, 0, None))
    rows = examples if training is None else examples[training] if depth.white is None else examples[training[:1]]
    if depth == Depth() and not given:
        entries: dict[str, Any] = {"values": "uint8"}
    elif floats and not given and low >= 0 and high <= 1:
        entries = {"values": "unit"}
    else:
        found, source = _range(rows, depth, given, x.dtype)
        entries = {"values": "unit", "range": found, "bits": depth.bits}
        notices.append(f"values {format_range(found)}, {source}; of outputs too")
    if entries.get("bits", 8) < 32 or given:
        notices += _use(examples, training, entries.get("range", (0.0, 255.0) if not floats else (0.0, 1.0)))
    return Examples(examples, {"kind": "image", **entries}, tuple(notices))


def _vectors(x: np.ndarray, path: Path) -> Examples:
    """Of an array (N, D); columns such as times need all their digits until they are centred.

    Raises:
        UserError: a value is not finite.
    """
    wide = x.dtype.kind == "f" and x.dtype.itemsize >= 8
    rows = torch.from_numpy(x.astype(np.float64 if wide else np.float32, copy=False))
    if not all(map(math.isfinite, map(float, torch.aminmax(rows)))):
        raise columns.not_finite(rows, str(path))
    return Examples(rows, {"kind": "vector", "values": "real"})


def _tensor(x: np.ndarray) -> Tensor:
    """In a type that torch computes with and that holds the values: of whole numbers up to 16 bits exactly."""
    if x.dtype in (np.uint8, np.int16):
        return torch.from_numpy(x)
    return torch.from_numpy(x.astype(np.int32 if x.dtype == np.uint16 else np.float32, copy=False))


def _range(rows: Tensor, depth: Depth, given: tuple[float, ...], dtype: np.dtype) -> tuple[tuple[float, ...], str]:
    """The range of images, and where it comes from."""
    if given:
        return given, "by --data.range"
    if depth.white is not None:
        return (depth.black, depth.white), f"those of {dtype}"
    low, high = (float(bound) for bound in torch.aminmax(rows))
    if not low < high:
        raise UserError(f"all training images hold the value {low:g}: give the range, --data.range LOW HIGH")
    return (low, high), f"measured over {len(rows):,} training images: --data.range LOW HIGH fixes it"


def _use(examples: Tensor, training: Tensor | None, of: tuple[float, ...]) -> list[str]:
    """What is to be said of the part of the range that some examples use."""
    rows = torch.arange(len(examples)) if training is None else training
    some = examples[rows[:: max(1, math.ceil(len(rows) / LOOKED_AT))]].flatten(1)
    pairs = list(zip(some.amin(1).tolist(), some.amax(1).tolist(), strict=True))
    return describe_use(pairs, of, f"{len(some):,} of {len(rows):,} training images looked at")


def of_example(x: Any, layout: str | None = None) -> tuple[Tensor, Depth | None]:
    """One example of a Dataset: (C, H, W) or (D,), contiguous, and the depth of its values, None of floats and vectors.

    Args:
        x: a PIL image; an array (H, W), (H, W, C) or (C, H, W); a tensor (H, W) or (C, H, W); or (D,).
        layout: "NHWC": channels are last, "NCHW": first; by default those of arrays are recognised by their number,
            and tensors have them first.
    """
    if hasattr(x, "convert") and hasattr(x, "getbands"):  # a PIL image
        picture = of_image(x)
        grey = picture.depth.bits > 8 or x.mode in ("1", "L", "LA")
        if picture.depth.bits > 8:
            return torch.from_numpy(picture.values(1).transpose(2, 0, 1).copy()), picture.depth
        levels = np.array(picture.in_8_bits().convert("L" if grey else "RGB"))
        return torch.from_numpy(levels[None] if grey else levels.transpose(2, 0, 1).copy()), picture.depth
    depth = None
    if isinstance(x, np.ndarray):
        depth, array = OF_TYPE.get(str(x.dtype)), x
        x = _tensor(array) if array.dtype.kind in "uif" and array.ndim > 1 else torch.from_numpy(array)
        last = array.ndim == 3 and has_channels_last(array.shape, layout, "an example")
    else:
        x = x.detach().cpu() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))  # float64 of Python's numbers
        depth = OF_TYPE.get(str(x.dtype).removeprefix("torch."))
        last = x.ndim == 3 and layout == "NHWC"
    x = x.movedim(-1, 0) if last else x
    x = x.unsqueeze(0) if x.ndim == 2 else x
    if x.ndim == 1 and x.dtype == torch.float64:
        return x.contiguous(), None  # of vectors all digits are kept until they are centred
    if x.ndim != 3 or depth is None:
        return x.float().contiguous(), None
    return (x if depth == Depth() else x.float()).contiguous(), depth


def in_spec(x: Tensor, depth: Depth | None, spec: DataSpec) -> Tensor | None:
    """An example of ``of_example`` in the type and range of the data set; None where it is of another kind.

    Args:
        x: (*shape).
        depth: of its values.
        spec: of the data set.
    """
    if spec.values == "uint8" or not spec.range:
        return x if (x.dtype == torch.uint8) == (spec.values == "uint8") else None
    if (depth.bits if depth else 32) == spec.bits:
        return x.float()
    if depth is None or depth.white is None:
        return None
    low, high = spec.range
    return (x.float() - depth.black) * ((high - low) / (depth.white - depth.black)) + low


def values_of(some: Sequence[tuple[Tensor, Depth | None]], given: tuple[float, ...]) -> dict[str, Any]:
    """Entries of a ``DataSpec`` for the values of images of a Dataset, from some of them.

    Args:
        some: of ``of_example``.
        given: range (low, high) by the user, or empty.

    Raises:
        UserError: PIL images of 32 bits whose range is not known.
    """
    depths = [depth or Depth(32, 0, None) for _, depth in some]
    deepest = max(depths, key=lambda depth: depth.bits)
    if given:
        return {"values": "unit", "range": given, "bits": deepest.bits}
    if deepest.bits == 8:
        return {"values": "uint8"}
    if deepest.white is not None:
        alike = [depth for depth in depths if depth.bits == deepest.bits]
        found = min(depth.black for depth in alike), max(depth.white or 0.0 for depth in alike)
        return {"values": "unit", "range": found, "bits": deepest.bits}
    if all(float(x.min()) >= 0 and float(x.max()) <= 1 for x, _ in some):
        return {"values": "unit"}
    if any(depth is not None and depth.white is None for _, depth in some):
        raise UserError(
            "PIL images of mode I or F do not say which value is white: Custom(..., range=[low, high]) does"
        )
    return {"values": "real"}
