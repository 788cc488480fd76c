"""A U-Net that denoises sounds, images or clips: residual blocks told the time, attention at the lowest resolution.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B; blocks after Dhariwal and Nichol 2021,
https://arxiv.org/abs/2105.05233, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.condition import ConditionSpec
from lightning_gen.networks.layers import check_positive, patch_grid, stage_channels
from lightning_gen.networks.time_embedding import ToldEmbedding

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SMALLEST = 8  # pixels, of the lowest resolution where ``halvings`` is chosen by size
HEADS = 4


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


class ResidualBlock(nn.Module):
    """h (B, C, ...) -> (B, out, ...), with gain and bias from what the network is told (B, E)."""

    def __init__(self, dims: int, channels: int, out: int, told: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.before, self.after = _norm(channels), _norm(out)
        self.first, self.second = conv(channels, out, 3, padding=1), conv(out, out, 3, padding=1)
        self.told = nn.Linear(told, 2 * out)
        self.skip = conv(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.second.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        inner = self.first(F.silu(self.before(h)))
        gain, bias = self.told(told).view(len(h), -1, *[1] * (h.dim() - 2)).chunk(2, 1)
        return self.skip(h) + self.second(F.silu(self.after(inner) * (1 + gain) + bias))


class SelfAttention(nn.Module):
    """h (B, C, ...) -> the same, all places attending to all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, channels)
        self.norm, self.qkv, self.out = (
            _norm(channels),
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor) -> Tensor:
        places = self.norm(h).flatten(2).transpose(1, 2)  # (B, P, C)
        q, k, v = (
            self.qkv(places).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, P, C / heads)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + self.out(seen).transpose(1, 2).unflatten(2, h.shape[2:])


class UNetDenoiser(nn.Module):
    """x (B, C, ...), t (B,) -> (B, C, ...), for (C, T) sounds, (C, H, W) images and (C, T, H, W) clips of any size.

    Args:
        spec: what one example looks like.
        width: channels at the highest resolution; 1, 2, 2, ... times as many below.
        halvings: of the resolution; None: until 8 pixels are left, after ``patch``.
        blocks: residual blocks at each resolution, on either side.
        patch: pixels along a side that are seen as one place: 2 takes a quarter of the time.
        dropout: of the features before the last layer.
        condition: what the network is conditioned on; None for nothing.

    Raises:
        UserError: data of another number of axes, or an impossible option.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        width: int = 32,
        halvings: int | None = None,
        blocks: int = 1,
        patch: int = 1,
        dropout: float = 0.0,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        check_positive("blocks", blocks)
        check_positive("patch", patch)
        grid, channels = patch_grid("unet", spec.shape, patch), spec.shape[0]
        dims = len(grid)
        chosen = max(1, round(math.log2(max(1.0, min(grid) / SMALLEST)))) if halvings is None else halvings
        widths = stage_channels(width, chosen + 1, 2)
        conv, told = CONVOLUTIONS[dims], 4 * width
        self.told = ToldEmbedding(condition, told)
        kernel: dict[str, Any] = (
            {"kernel_size": 3, "padding": 1} if patch == 1 else {"kernel_size": patch, "stride": patch}
        )
        self.first = conv(channels, width, **kernel)

        def stage(given: int, out: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(dims, given if k == 0 else out, out, told) for k in range(blocks))

        self.down = nn.ModuleList(stage(a, a) for a in widths[:-1])
        self.halving = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.middle = stage(widths[-1], widths[-1])
        self.attention = SelfAttention(widths[-1])
        self.last = stage(widths[-1], widths[-1])
        self.doubling = nn.ModuleList(conv(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(stage(2 * a, a) for a in widths[:-1])
        self.norm, self.dropout = _norm(width), nn.Dropout(dropout)
        self.head = (TRANSPOSED[dims] if patch > 1 else conv)(width, channels, **kernel)
        nn.init.zeros_(self.head.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        told = self.told(t, c)
        h, skips = self.first(x), []
        for blocks, halve in zip(self.down, self.halving, strict=True):
            h = _through(blocks, h, told)  # type: ignore[arg-type]
            skips.append(h)
            h = halve(h)
        h = _through(self.last, self.attention(_through(self.middle, h, told)), told)
        for blocks, match, skip in zip(reversed(self.up), reversed(self.doubling), reversed(skips), strict=True):
            h = F.interpolate(match(h), size=skip.shape[2:])
            h = _through(blocks, torch.cat([h, skip], 1), told)  # type: ignore[arg-type]
        return self.head(self.dropout(F.silu(self.norm(h))))


def _through(blocks: nn.ModuleList, h: Tensor, told: Tensor) -> Tensor:
    for block in blocks:
        h = block(h, told)
    return h
