"""An autoregressive transformer over rows of tokens, and the stream by which they are drawn and coded.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, with the norms before the branches as Radford et al. 2019 (GPT-2)

    p(t | c) = prod_l p(t_l | t_<l, c)        c the class, or none
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.layers import check_positive


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
        deep: number of layers, by the root of which the branches start smaller (GPT-2, section 2.3).
    """

    def __init__(self, width: int, heads: int, dropout: float, deep: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)  # a bias of the keys would have no effect
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        for layer in (self.join, self.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * deep))  # type: ignore[arg-type]

    def forward(self, h: Tensor, memory: KVCache | None = None) -> Tensor:
        """``memory``: of the places before, where h (B, 1, W) is the next one alone."""
        qkv = self.qkv(self.before_attention(h)).unflatten(2, (3, self.heads, -1))  # (B, T, W) -> (B, T, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, d) each
        if memory is not None:
            k, v = memory.append(k, v)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=memory is None)
        h = h + self.dropout(self.join(seen.transpose(1, 2).flatten(2)))  # (B, heads, T, d) -> (B, T, W)
        return h + self.dropout(self.mlp(self.before_mlp(h)))


class CodePrior(nn.Module):
    """Tokens (B, L), classes (B,) -> logits (B, L, K), those at place l from the tokens before l alone.

    Args:
        length: L.
        vocab: K.
        groups: equal parts of the row, one behind the other, in which the same token means something else.
        classes: that may be told; one more embedding stands for none.
        width: W, of the layers.
        depth: number of layers.
        heads: of the attention, a divisor of the width.
        dropout: 0 <= dropout < 1.

    Raises:
        UserError: impossible sizes.
    """

    def __init__(
        self,
        length: int,
        vocab: int,
        *,
        groups: int = 1,
        classes: int = 0,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in {"width": width, "depth": depth, "heads": heads}.items():
            check_positive(f"prior_args.{name}", value)
        if width % heads or not 0 <= dropout < 1:
            raise UserError(
                f"prior_args width {width}, heads {heads}, dropout {dropout}: the width must be a multiple of the "
                "heads, and 0 <= dropout < 1"
            )
        self.length, self.vocab, self.classes, self.heads = length, vocab, classes, heads
        self.token = nn.Embedding(groups * vocab, width)
        self.place = nn.Embedding(length, width)
        self.condition = nn.Embedding(classes + 1, width)
        self.register_buffer("shift", torch.arange(length) // (length // groups) * vocab, persistent=False)
        self.layers = nn.ModuleList(TransformerBlock(width, heads, dropout, depth) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.token, self.place, self.condition):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor, c: Tensor | None = None) -> Tensor:
        before = self.token(tokens[:, :-1] + self._shift()[:-1])  # (B, L - 1, W)
        h = F.pad(before, (0, 0, 1, 0)) + self.place.weight + self.told(len(tokens), c)
        h = self.dropout(h)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h)).float()

    def _shift(self) -> Tensor:
        assert isinstance(self.shift, Tensor)
        return self.shift

    def told(self, n: int, c: Tensor | None) -> Tensor:
        """Classes (n,), where ``classes`` stands for none -> what is added at each place, (n, 1, W)."""
        c = torch.full((n,), self.classes, device=self.place.weight.device) if c is None else c
        return self.condition(c).unsqueeze(1)

    def stream(self, n: int, c: Tensor | None = None) -> CachedTokenStream:
        """The same distribution, one token at a time, of n rows in classes c (n,); in eval mode."""
        return CachedTokenStream(self, n, c)


class CachedTokenStream:
    """Logits of the next token given those before, for n rows at once; the keys and values so far are remembered."""

    def __init__(self, prior: CodePrior, n: int, c: Tensor | None) -> None:
        assert not prior.training, "a stream needs eval mode: with dropout it would not repeat"
        self.prior, self.n, self.place = prior, n, 0
        with torch.no_grad():
            self.told = prior.told(n, c)  # (n, 1, W)
        shape = (n, prior.heads, prior.length, self.told.shape[2] // prior.heads)
        self.memories = [KVCache(self.told.new_empty(shape)) for _ in prior.layers]

    @torch.no_grad()
    def next_logits(self, previous: Tensor | None) -> Tensor:
        """Tokens (n,) chosen last, None at the start -> logits (n, K) of the next, float32.

        Raises:
            ValueError: tokens at the start, none later, or the row is complete.
        """
        if self.place == self.prior.length or (previous is None) != (self.place == 0):
            given = "no tokens" if previous is None else "tokens"
            raise ValueError(f"next() was given {given} at place {self.place} of {self.prior.length}")
        h = self.told + self.prior.place.weight[self.place]
        if previous is not None:
            h = h + self.prior.token(previous + self.prior._shift()[self.place - 1]).unsqueeze(1)
        for layer, memory in zip(self.prior.layers, self.memories, strict=True):
            h = layer(h, memory)
        self.place += 1
        return self.prior.head(self.prior.norm(h))[:, 0].float()


@torch.no_grad()
def sample_tokens(stream: CachedTokenStream, chance: Tensor) -> Tensor:
    """Numbers (n, L), uniform in [0, 1) -> tokens (n, L) by the inverse of the distribution function at each place."""
    tokens: list[Tensor] = []
    for u in chance.double().unbind(1):
        shares = stream.next_logits(tokens[-1] if tokens else None).double().softmax(1)  # (n, K)
        below = (shares.cumsum(1) <= u[:, None]).sum(1)  # K where rounding leaves the sum below u
        tokens.append(below.clamp(max=shares.shape[1] - 1))
    return torch.stack(tokens, 1)
