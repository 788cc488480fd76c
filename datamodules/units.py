"""Values in the user's units, as they are stored, and as a network sees them: one map and its inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from . import pixels
from .spec import DataSpec


def to_model(x: Tensor, spec: DataSpec) -> Tensor:
    """Stored values as the network sees them.

    Args:
        x: (B, *shape), uint8 0..255, or numbers in the user's units; tokens in any type of whole numbers.
        spec: of the data.

    Returns:
        float32: "binary", "uint8" and "unit" in [-1, 1], where what lies outside of a range is cut; "real" standardized
        where the spec has a mean and a scale;
        tokens int64.
    """
    if spec.values == "unit" and spec.range:
        low, high = spec.range
        return x.float().sub(low).mul_(2 / (high - low)).sub_(1).clamp_(-1, 1)
    if spec.values == "real" and spec.scale:
        mean, scale = _columns(spec, x.device)
        return ((x.double() - mean) / scale).float()
    return pixels.to_float(x, spec.values)


def to_units(x: Tensor, spec: DataSpec) -> Tensor:
    """What a network made, in the user's units.

    Args:
        x: (B, *shape) as ``to_model`` gives them.
        spec: of the data.

    Returns:
        float32, not rounded: "binary" in [0, 1], "uint8" in [0, 255], "unit" in the spec's range, or [0, 1]; "real" in
        the units of the data, float64 on the CPU where they were standardized. Tokens are returned as they are.
    """
    if spec.values == "tokens":
        return x
    if spec.values == "real":
        if not spec.scale:
            return x.float()
        mean, scale = _columns(spec, torch.device("cpu"))
        return x.detach().cpu().double() * scale + mean
    low, high = spec.range or ((0.0, 255.0) if spec.values == "uint8" else (0.0, 1.0))
    return ((x.float() + 1) / 2).mul_(high - low).add_(low)


def _columns(spec: DataSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and scale (D,); in float64, since columns such as times have many more digits than their spread."""
    mean, scale = (torch.tensor(entry, dtype=torch.float64, device=device) for entry in (spec.mean, spec.scale))
    return mean, scale
