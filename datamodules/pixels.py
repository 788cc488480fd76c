"""Pure functions of image tensors: scale, crop, flip, binarise."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(x: Tensor, values: str) -> Tensor:
    """Values as the network sees them.

    Args:
        x: (B, *shape), uint8 0..255 or float; tokens in any type of whole numbers.
        values: of the spec; "unit" floats in [0, 1] are mapped to [-1, 1], "real" ones stay as they are.

    Returns:
        float32, in [-1, 1] but for "real"; tokens int64.
    """
    if values == "tokens":
        return x.long()
    if x.dtype == torch.uint8 and values != "real":
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


def crop(x: Tensor, height: int, width: int, noise: Tensor | None = None) -> Tensor:
    """A part of each image: the central one, or one at a random place.

    Args:
        x: (B, C, H', W').
        height: H <= H'.
        width: W <= W'.
        noise: (B, 2) uniform in [-1, 1), which gives the row and the column of the upper left corner.

    Returns:
        (B, C, H, W); the images themselves where nothing is to be cut.
    """
    spare = (x.shape[-2] - height, x.shape[-1] - width)
    if spare == (0, 0):
        return x
    if noise is None:
        return x[..., spare[0] // 2 : spare[0] // 2 + height, spare[1] // 2 : spare[1] // 2 + width]
    places = torch.tensor([n + 1 for n in spare], device=x.device)
    top, left = ((noise + 1) / 2 * places).long().minimum(places - 1).unbind(1)  # (B,): rounding may reach the end
    rows = (top.unsqueeze(1) + torch.arange(height, device=x.device)).view(-1, 1, height, 1)
    columns = (left.unsqueeze(1) + torch.arange(width, device=x.device)).view(-1, 1, 1, width)
    images = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
    return x[images, channels, rows, columns]
