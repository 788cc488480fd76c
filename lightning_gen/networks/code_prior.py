"""An autoregressive transformer over rows of tokens, and its incremental evaluation for sampling and coding.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, with the norms before the branches as Radford et al. 2019 (GPT-2)

    p(t | c) = prod_l p(t_l | t_<l, c)        c the condition, or none
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.condition import Condition, ConditionSpec, modules_of
from lightning_gen.networks.layers import check_positive
from lightning_gen.networks.transformer import KVCache, TransformerBlock


class CodePrior(nn.Module):
    """Tokens (B, L), conditions (B, ...) -> logits (B, L, K), those at place l from the tokens before l alone.

    Args:
        length: L.
        vocab: K.
        groups: equal parts of the row, one behind the other, in which the same token means something else.
        condition: the ``ConditionSpec``, or None; of classes one more embedding is for none.
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
        condition: ConditionSpec | None = None,
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
        self.length, self.vocab, self.heads = length, vocab, heads
        self.spec = condition or ConditionSpec("class", 0)
        self.token = nn.Embedding(groups * vocab, width)
        self.place = nn.Embedding(length, width)
        self.condition = _embedding(self.spec, width)
        self.register_buffer("shift", torch.arange(length) // (length // groups) * vocab, persistent=False)
        self.layers = nn.ModuleList(TransformerBlock(width, heads, dropout, depth) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.token, self.place, *modules_of(self.condition), self.head):
            if isinstance(layer, nn.Embedding | nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, tokens: Tensor, c: Tensor | None = None) -> Tensor:
        before = self.token(tokens[:, :-1] + self._shift()[:-1])  # (B, L - 1, W)
        h = F.pad(before, (0, 0, 1, 0)) + self.place.weight + self.condition_embedding(len(tokens), c)
        h = self.dropout(h)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h)).float()

    def _shift(self) -> Tensor:
        assert isinstance(self.shift, Tensor)
        return self.shift

    def condition_embedding(self, n: int, c: Tensor | None) -> Tensor:
        """Conditions (n, ...) or ``none`` -> what is added at each place, (n, 1, W)."""
        c = self.spec.none(n, self.place.weight.device) if c is None else c
        return self.condition(c).unsqueeze(1)

    def stream(self, n: int, c: Tensor | None = None) -> CachedTokenStream:
        """The same distribution, one token at a time, of n rows under conditions c (n, ...); in eval mode."""
        return CachedTokenStream(self, n, c)


def _embedding(condition: ConditionSpec, width: int) -> nn.Module:
    """Conditions (n, ...) -> (n, width): a table of classes, the last of which is for none, or a text's vector."""
    if condition.kind == "class":
        return nn.Embedding(condition.size + 1, width)
    return nn.Sequential(Condition(condition), nn.Linear(condition.dim, width))


class CachedTokenStream:
    """Logits of the next token given those before, for n rows at once; keys and values so far are cached."""

    def __init__(self, prior: CodePrior, n: int, c: Tensor | None) -> None:
        assert not prior.training, "a stream needs eval mode: with dropout it would not repeat"
        self.prior, self.n, self.place = prior, n, 0
        with torch.no_grad():
            self.condition_embedding = prior.condition_embedding(n, c)  # (n, 1, W)
        shape = (n, prior.heads, prior.length, self.condition_embedding.shape[2] // prior.heads)
        self.memories = [KVCache(self.condition_embedding.new_empty(shape)) for _ in prior.layers]

    @torch.no_grad()
    def next_logits(self, previous: Tensor | None) -> Tensor:
        """Tokens (n,) chosen last, None at the start -> logits (n, K) of the next, float32.

        Raises:
            ValueError: tokens at the start, none later, or the row is complete.
        """
        if self.place == self.prior.length or (previous is None) != (self.place == 0):
            given = "no tokens" if previous is None else "tokens"
            raise ValueError(f"next() was given {given} at place {self.place} of {self.prior.length}")
        h = self.condition_embedding + self.prior.place.weight[self.place]
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
