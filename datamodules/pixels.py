"""Pure functions of image tensors: scale, flip, binarise."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(x: Tensor, values: str) -> Tensor:
    """Values as the network sees them.

    Args:
        x: (B, *shape), uint8 0..255 or float.
        values: of the spec; "unit" floats in [0, 1] are mapped to [-1, 1], "real" ones stay as they are.

    Returns:
        float32, in [-1, 1] but for "real".
    """
    if x.dtype == torch.uint8:
        return x.to(torch.float32).div_(127.5).sub_(1)
    return x.float() * 2 - 1 if values == "unit" else x.float()


def binarize(x: Tensor, noise: Tensor) -> Tensor:
    """Coin flips: 1 with probability (x + 1) / 2, else -1.

    Args:
        x: (B, *shape) in [-1, 1].
        noise: (B, *shape) uniform in [-1, 1); overwritten by the result.
    """
    return torch.lt(noise, x, out=noise).mul_(2).sub_(1)


def threshold(x: Tensor) -> Tensor:
    """1 where the pixel is 128 or brighter, else -1; x (B, *shape) in [-1, 1]."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def flip(x: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images left to right; x (B, C, H, W), chosen (B,) bool."""
    rows = chosen.nonzero().squeeze(1)
    return x.index_copy(0, rows, x.index_select(0, rows).flip(-1))
