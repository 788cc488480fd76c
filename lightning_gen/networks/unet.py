"""The U-Net of pix2pix: picture -> picture of the same size, with a bridge at every resolution.

Isola et al. 2017, https://arxiv.org/abs/1611.07004, appendix 6.1.1: C64-C128-C256-C512-... and CD512-CD512-...-C64
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.layers import (
    LayerName,
    check_stride,
    default_width,
    norm_2d,
    normal_,
    stage_channels,
    upsampling,
)

DEEPEST = 8  # halvings of the paper, for 256 pixels
WHOLE = 8  # places of the innermost map from which on a network no longer sees the picture as a whole
DROPPED = 5  # halvings up to which no layer has dropout


class UNetTranslator(nn.Module):
    """x (B, C, H, W) -> (B, C', H, W): convolutions halve the picture as often as it can be, others double it again.

    Each doubling also sees what the halving of its resolution saw, so places are kept exactly.

    Args:
        shape: (C, H, W) of a picture.
        channels: C'.
        width: channels of the first layer, doubled up to 8 times as many; 0 is 64, or half the shorter side where that
            is less.
        depth: number of halvings, 2 to 8; 0 is as many as the sides can be halved, at most 8. H and W must be
            multiples of 2^depth.
        norm: instance, batch, layer or none. Of one picture batch norm is instance norm, which the paper uses.
        dropout: in the innermost doublings, three of them at 8 halvings, one less with each halving less; the paper's
            only source of randomness. Translations outside of training are made without it.
        upsample: how sides are doubled, transposed or resize, see ``layers.upsampling``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int,
        *,
        width: int = 0,
        depth: int = 0,
        norm: LayerName = "instance",
        dropout: float = 0.5,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        chosen = self.chosen_by_size(shape)
        by_size = min(DEEPEST, _halvings(math.gcd(*shape[1:])))
        depth = depth or chosen["depth"]
        if not 2 <= depth <= DEEPEST:
            raise UserError(f"network 'unet' with depth {depth}: possible are 2 to {DEEPEST} halvings")
        self.stride = 2**depth
        check_stride("unet", shape, self.stride)
        if by_size == depth and min(shape[1:]) > WHOLE * self.stride:
            warnings.warn(
                f"pictures of {shape[1]}x{shape[2]} can be halved {depth} times only, so network 'unet' does not see "
                "them as a whole: sides that are multiples of a larger power of 2, such as 64, 96 or 256, let it",
                stacklevel=2,
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout {dropout}: possible are 0 <= dropout < 1")
        widths = stage_channels(width or chosen["width"], depth, max_multiplier=8)
        bias = norm == "none"
        self.down = nn.ModuleList()
        for k, (a, b) in enumerate(zip([shape[0], *widths], widths, strict=False)):
            edge = k in (0, depth - 1)  # no norm of the picture's own layer, nor of what may be a single place
            layer = nn.Conv2d(a, b, 4, stride=2, padding=1, bias=bias or edge)
            self.down.append(layer if edge else nn.Sequential(layer, norm_2d(norm, b)))
        self.up = nn.ModuleList()
        for k in range(depth - 1, 0, -1):
            seen = widths[k] if k == depth - 1 else 2 * widths[k]
            doubled = upsampling(upsample, seen, widths[k - 1], bias=bias)
            drop = [nn.Dropout(dropout)] if dropout and k >= DROPPED else []
            self.up.append(nn.Sequential(doubled, norm_2d(norm, widths[k - 1]), *drop))
        self.head = upsampling(upsample, 2 * widths[0], channels)
        normal_(self)

    @staticmethod
    def chosen_by_size(shape: tuple[int, ...]) -> dict[str, int]:
        """Options that are 0 unless they are given, for pictures (C, H, W)."""
        return {"width": default_width(shape), "depth": max(2, min(DEEPEST, _halvings(math.gcd(*shape[1:]))))}

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.down[0](x)]
        for layer in self.down[1:]:
            seen.append(layer(F.leaky_relu(seen[-1], 0.2)))
        h = seen.pop()
        for layer in self.up:
            h = torch.cat([layer(F.relu(h)), seen.pop()], 1)  # (B, 2 C_l, H_l, W_l)
        return self.head(F.relu(h))


def _halvings(side: int) -> int:
    """How often a number can be halved."""
    return (side & -side).bit_length() - 1
