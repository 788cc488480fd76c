"""A transformer over patches that denoises sounds, images or clips.

Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", https://arxiv.org/abs/2212.09748: adaLN-zero;
queries and keys normalised as of Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 5.3.2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.condition import ConditionSpec
from lightning_gen.networks.layers import check_positive, patch_grid
from lightning_gen.networks.time_embedding import ToldEmbedding


class DiTBlock(nn.Module):
    """h (B, P, W) -> the same; shift, scale and gate of both parts are linear in what the network is told (B, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = (nn.RMSNorm(width, elementwise_affine=False) for _ in range(2))
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.told = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.told(told).unsqueeze(1).chunk(6, 2)
        qkv = self.qkv(self.before(h) * (1 + scale) + shift).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, P, W / heads)
        seen = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v).transpose(1, 2).flatten(2)
        h = h + gate * self.out(seen)
        return h + gate_2 * self.outer(F.gelu(self.inner(self.between(h) * (1 + scale_2) + shift_2)))


class DiT(nn.Module):
    """x (B, C, ...), t (B,) -> (B, C, ...).

    Args:
        spec: what one example looks like.
        width: of a patch's vector.
        depth: number of blocks.
        heads: of the attention.
        patch: pixels of a patch along each side.
        condition: what the network is conditioned on; None for nothing.

    Raises:
        UserError: data without places, sides that are no multiples of the patch, or an impossible option.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        patch: int = 4,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"width": width, "depth": depth, "heads": heads, "patch": patch}.items():
            check_positive(name, value)
        self.shape, self.patch, self.grid = spec.shape, patch, patch_grid("dit", spec.shape, patch)
        if width % heads:
            raise UserError(f"width {width}: it must be a multiple of heads, {heads}")
        values = spec.shape[0] * patch ** len(self.grid)  # of a patch
        self.told = ToldEmbedding(condition, width)
        self.first, self.place = nn.Linear(values, width), nn.Parameter(0.02 * torch.randn(math.prod(self.grid), width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, values)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        told = self.told(t, c)
        h = self.first(self._patches(x)) + self.place
        for block in self.blocks:
            h = block(h, told)
        return self._from_patches(self.head(self.norm(h)))

    def _patches(self, x: Tensor) -> Tensor:
        """(B, C, h p, w p) -> (B, h w, C p p), for any number of axes."""
        for axis, count in enumerate(self.grid):
            x = x.unflatten(2 + 2 * axis, (count, self.patch))  # (B, C, h, p, w, p)
        n = len(self.grid)
        order = [0, *range(2, 2 + 2 * n, 2), 1, *range(3, 3 + 2 * n, 2)]  # (B, h, w, C, p, p)
        return x.permute(order).flatten(1 + n).flatten(1, n)

    def _from_patches(self, h: Tensor) -> Tensor:
        n, channels = len(self.grid), self.shape[0]
        parts = h.unflatten(2, (channels, *[self.patch] * n)).unflatten(1, self.grid)  # (B, h, w, C, p, p)
        order = [0, 1 + n, *(axis for k in range(n) for axis in (1 + k, 2 + n + k))]  # (B, C, h, p, w, p)
        return parts.permute(order).reshape(-1, *self.shape)
