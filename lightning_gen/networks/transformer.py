"""A layer of a transformer.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, with the norms before the branches as Radford et al. 2019 (GPT-2)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KVCache:
    """Keys and values of the tokens so far, of one attention: each (n, heads, L, d), of which ``length`` are filled."""

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.values, self.length = keys, torch.empty_like(keys), 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """One more key and value (n, heads, 1, d) -> all so far (n, heads, length, d)."""
        self.keys[:, :, self.length], self.values[:, :, self.length] = key[:, :, 0], value[:, :, 0]
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class TransformerBlock(nn.Module):
    """h (B, T, W) -> h + attention(norm(h)), then + MLP(norm(h)); a place sees itself and those before it.

    Args:
        width: W.
        heads: of the attention.
        dropout: of both branches.
        num_layers: number of layers, by the root of which the branches start smaller (GPT-2, section 2.3).
    """

    def __init__(self, width: int, heads: int, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)  # a bias of the keys would have no effect
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        for layer in (self.join, self.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * num_layers))  # type: ignore[arg-type]

    def forward(self, h: Tensor, memory: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """The layer's output, of the shape of h.

        Args:
            h: (B, T, W).
            memory: of the places before, where h (B, 1, W) is the next one alone.
            mask: (B, T) bool, the places that all others see, in the place of those before.
        """
        qkv = self.qkv(self.before_attention(h)).unflatten(2, (3, self.heads, -1))  # (B, T, W) -> (B, T, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, d) each
        if memory is not None:
            k, v = memory.append(k, v)
        visible = None if mask is None else mask[:, None, None]  # (B, 1, 1, T)
        causal = memory is None and mask is None
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal)
        h = h + self.dropout(self.join(seen.transpose(1, 2).flatten(2)))  # (B, heads, T, d) -> (B, T, W)
        return h + self.dropout(self.mlp(self.before_mlp(h)))
