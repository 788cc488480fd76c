"""Lossy coding: the tokens of an example under their prior, with constriction's range coder (first in, first out)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_gen.compression.coder import Coder, Settings, decoding_error
from lightning_gen.compression.stack import import_constriction
from lightning_gen.datamodules.errors import UserError
from lightning_gen.protocols import Tokenises

SLACK = 1.05, 1024  # factor and bits: probabilities are coded with 24 bits, so a rare token takes less than it says


class TokenCoder(Coder):
    """Codes the tokens of x, one place after the other for a block of examples at once.

    Encoder and decoder walk the same stream of the prior with the same block, so their probabilities are the same bits.

    Args:
        model: of protocol ``Tokenises``, in eval mode on the CPU.
    """

    name = "tokens"
    lossless = False
    default_block: ClassVar[int] = 256

    def __init__(self, model: Tokenises) -> None:
        if model.vocab < 2:
            raise UserError("the model has a single token, which says nothing of an example: nothing is there to code")
        self.model = model
        self.length = math.prod(model.tokens_shape)

    def to_symbols(self, x: Tensor, block: int) -> Tensor:
        """x (n, *shape) in the range of the data -> tokens (n, L) int64."""
        return torch.cat([self.model.tokens(part) for part in x.split(block)])

    def from_symbols(self, symbols: Tensor, block: int) -> Tensor:
        """Tokens -> x (n, *shape), decoded by the model."""
        return torch.cat([self.model.from_tokens(part) for part in symbols.split(block)])

    def encode(self, symbols: Tensor, block: int) -> tuple[np.ndarray, Settings]:
        encoder = import_constriction().stream.queue.RangeEncoder()
        family = _family()
        for part in symbols.split(block):
            for tokens, table in zip(part.unbind(1), self._tables(part), strict=True):
                encoder.encode(tokens.numpy().astype(np.int32), family, table)
        return encoder.get_compressed(), {"length": self.length}

    def decode(self, words: np.ndarray, count: int, block: int, settings: Settings) -> Tensor:
        if settings.get("length") != self.length:
            raise decoding_error(f"it holds rows of {settings.get('length')} tokens, the model makes {self.length}")
        decoder, family = import_constriction().stream.queue.RangeDecoder(words), _family()
        parts, left = [], SLACK[0] * 32 * len(words) + SLACK[1]
        for start in range(0, count, block):
            n = min(block, count - start)
            if n > max(self.default_block, 32 * len(words)):
                raise decoding_error(f"it tells of {n:,} examples in one pass, of {len(words):,} words")
            stream = self.model.token_stream(n)
            tokens: list[Tensor] = []
            for _ in range(self.length):
                table = probabilities(stream.next_logits(tokens[-1] if tokens else None))
                drawn = _drawn(decoder, family, table)
                left -= _bits(table, drawn)
                if left < 0:
                    raise decoding_error("its words end before its examples do")
                tokens.append(torch.from_numpy(drawn).long())
            parts.append(torch.stack(tokens, 1))  # (n, L)
        if not decoder.maybe_exhausted():
            raise decoding_error("there is more in it than the tokens of its examples")
        return torch.cat(parts)

    def ideal_bits(self, symbols: Tensor, block: int) -> float:
        """-log p(tokens) in bits, of all examples together."""
        bits = 0.0
        for part in symbols.split(block):
            for tokens, table in zip(part.unbind(1), self._tables(part), strict=True):
                bits += _bits(table, tokens.numpy())
        return bits

    def _tables(self, tokens: Tensor) -> Iterator[np.ndarray]:
        """Probabilities (n, vocab) of each token of the rows (n, L), given those before."""
        stream = self.model.token_stream(len(tokens))
        for k in range(tokens.shape[1]):
            yield probabilities(stream.next_logits(tokens[:, k - 1] if k else None))


def probabilities(logits: Tensor) -> np.ndarray:
    """Logits (n, vocab) -> float32 probabilities.

    Raises:
        UserError: they are not finite.
    """
    table = logits.float().softmax(1)
    if not table.isfinite().all():
        raise UserError("the prior gives values that are not finite: this model has diverged, or is damaged")
    return table.contiguous().numpy()


def _bits(table: np.ndarray, tokens: np.ndarray) -> float:
    """-log2 p of tokens (n,) under probabilities (n, vocab), together."""
    chosen = np.take_along_axis(table, tokens[:, None], 1).astype(np.float64)
    return -float(np.log2(np.maximum(chosen, 2.0**-24)).sum())


def _family() -> Any:
    return import_constriction().stream.model.Categorical(perfect=False)


def _drawn(decoder: Any, family: Any, table: np.ndarray) -> np.ndarray:
    try:
        return decoder.decode(family, table)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise decoding_error(str(error).splitlines()[0] if str(error) else "no token fits") from error
