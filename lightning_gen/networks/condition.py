"""The one condition of a network: the class of each example, or a text of tokens that describes it.

A batch holds class ids (B,) or rows of tokens (B, L). Models only pass them on; each network owns a
``Condition``, which makes a vector (B, K) of them, for concatenation, norms and projection, and a sequence for those
that attend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.transformer import TransformerBlock
from lightning_gen.protocols import SamplesClasses, SamplesTexts

TEXT_WIDTH, TEXT_HEADS = 64, 4  # of the encoder of texts: 50,000 weights, and 64 for each token of the vocabulary
PADDING = 0  # the token that fills the rows of shorter texts


class ConditionSpec(NamedTuple):
    """What a builder of networks gets as ``condition``; made by ``condition_spec``.

    Args:
        kind: "class", ids (B,), or "text", rows of tokens (B, L).
        size: number of classes, or of tokens in the vocabulary, of which 0 is the padding.
        length: L, of texts.
    """

    kind: str
    size: int
    length: int = 0

    @property
    def dim(self) -> int:
        """K, the size of a condition's vector: of classes it is one-hot."""
        return self.size if self.kind == "class" else TEXT_WIDTH

    @property
    def possible(self) -> str:
        """What each example needs."""
        if self.kind == "class":
            return f"the class of each example, 0 to {self.size - 1}"
        return f"the text of each example, a row of {self.length} tokens from 0 to {self.size - 1}"

    def check(self, c: Tensor, n: int) -> None:
        """Refuse anything but conditions of n examples.

        Raises:
            UserError: another number or length of rows, or ids out of range.
        """
        text = self.kind == "text"
        wanted = (n, self.length) if text else (n,)
        if not isinstance(c, Tensor):
            raise UserError(f"a condition is a tensor, not {type(c).__name__}: give {self.possible}")
        if tuple(c.shape) != wanted:
            given = f"text of shape {tuple(c.shape)}" if text else f"{len(c)} class ids"
            given = given if text or c.dim() == 1 else f"class ids of shape {tuple(c.shape)}"
            possible = f"rows of {self.length} tokens" if text else f"ids from 0 to {self.size - 1}"
            raise UserError(f"{given} for {n} samples: possible are {n} {possible}")
        low, high = (int(c.min()), int(c.max())) if c.numel() else (0, 0)
        if c.is_floating_point() or low < 0 or high >= self.size:
            given = f"{'tokens' if text else 'class'} {low} to {high}" + (" as floats" if c.is_floating_point() else "")
            many = f"tokens from 0 to {self.size - 1}" if text else f"{n} ids from 0 to {self.size - 1}"
            raise UserError(f"{given}: possible are {many}")

    def none(self, n: int, device: torch.device) -> Tensor:
        """The condition of n examples that have none: the id after the last class, or empty texts."""
        if self.kind == "class":
            return torch.full((n,), self.size, device=device)
        return torch.full((n, self.length), PADDING, device=device)

    def hide(self, c: Tensor, where: Tensor) -> Tensor:
        """The conditions c, with ``none`` in the place of those that are to be hidden, (B,) bool."""
        return torch.where(where.view(-1, *[1] * (c.dim() - 1)), self.none(len(c), c.device), c)


def condition_spec(spec: DataSpec, conditional: bool) -> ConditionSpec | None:
    """The condition that comes with the examples: a text where the spec says so, else their classes.

    Args:
        spec: the data's spec.
        conditional: whether the model takes a condition; without it there is none.

    Raises:
        UserError: the model takes one, and the data have none; or they do not say what it looks like.
    """
    if not conditional:
        return None
    if spec.condition == "text":
        if not (spec.condition_vocab and len(spec.condition_shape) == 1):
            raise UserError(
                f"a text condition of shape {spec.condition_shape} and {len(spec.condition_vocab)} tokens: the spec "
                "needs condition_shape=(L,) and condition_vocab=(token, ...), of which the first is the padding"
            )
        return ConditionSpec("text", len(spec.condition_vocab), spec.condition_shape[0])
    if not spec.num_classes:
        raise UserError(
            "the model is conditional, but these data have no class labels: take data with labels, such as digits "
            "or mnist, or a model without classes"
        )
    return ConditionSpec("class", spec.num_classes)


def has_condition(spec: DataSpec) -> bool:
    """Whether something comes with the examples that a model can be conditioned on."""
    return spec.condition == "text" or spec.num_classes > 0


def condition_of(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The condition of a batch's examples: their texts (B, L), else their classes (B,), else None."""
    return batch["text"] if "text" in batch else batch.get("y")


def labels_of(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The classes (B,) of a batch's examples, None where they have none."""
    return batch.get("y")


def conditions_in_turn(
    model: Any, numbers: Tensor, texts: Tensor | Callable[[Tensor], Tensor | None] | None = None
) -> Tensor | None:
    """What samples with these numbers are conditioned on: all classes in turn, or the texts of examples in turn.

    Args:
        model: any that samples.
        numbers: (n,) of the samples, which alone decide.
        texts: of examples (B, L), or a function from the numbers to the texts (n, L) of as many.

    Returns:
        Class ids (n,) or texts (n, L); None of a model without a condition, and of one of texts where none are given.
    """
    if isinstance(model, SamplesTexts) and model.condition_length:
        if isinstance(texts, Tensor):
            return texts[numbers.to(texts.device) % len(texts)]
        return texts(numbers) if texts else None
    return numbers % model.classes if isinstance(model, SamplesClasses) and model.classes else None


def repeat(c: Tensor | None, times: int) -> Tensor | None:
    """Conditions (B, ...) -> (times * B, ...), all of them, and all of them again."""
    return None if c is None else c.repeat(times, *[1] * (c.dim() - 1))


def call(network: Callable[..., Tensor], given: Tensor, c: Tensor | None, x: Tensor | None = None) -> Tensor:
    """Call a network of x or z, with the condition where there is one.

    Args:
        network: an encoder, a decoder or a method of one.
        given: what it takes.
        c: (B,) ids or (B, L) tokens, or None.
        x: (B, *shape) for an autoregressive decoder, which then predicts each element from those before.
    """
    arguments = (given,) if c is None else (given, c)
    return network(*arguments) if x is None else network(*arguments, x=x)


def call_denoiser(network: Callable[..., Tensor], x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
    """Call a denoiser of x (B, *shape) at times t (B,), with the condition where there is one."""
    return network(x, t) if c is None else network(x, t, c)


def is_autoregressive(decoder: nn.Module) -> bool:
    """Whether a decoder is called with x, of which it predicts each element from those before."""
    return bool(getattr(decoder, "autoregressive", False))


class TextEncoder(nn.Module):
    """Tokens (B, L) -> (B, L + 1, W): the whole text at the first place, then each token as it stands in the text.

    One layer of a transformer, in which all places see each other but for the padding; the first place has no token and
    collects the text, as in Devlin et al. 2019 (https://arxiv.org/abs/1810.04805), section 3; of an empty text, too.

    Args:
        vocab: number of tokens.
        length: L.
        width: W.
    """

    def __init__(self, vocab: int, length: int, width: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocab, width), nn.Embedding(length + 1, width)
        self.layer, self.norm = TransformerBlock(width, TEXT_HEADS, dropout=0.0, num_layers=1), nn.LayerNorm(width)
        for embedding in (self.token, self.place):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        h = F.pad(self.token(tokens), (0, 0, 1, 0)) + self.place.weight  # (B, L + 1, W)
        return self.norm(self.layer(h, mask=visible(tokens)))


def visible(tokens: Tensor) -> Tensor:
    """Tokens (B, L) -> which places of ``TextEncoder``'s output are no padding, (B, L + 1) bool."""
    return F.pad(tokens != PADDING, (1, 0), value=True)


class Condition(nn.Module):
    """Ids (B,) or tokens (B, L) -> a vector (B, K): one-hot of classes, and for texts the output of an encoder.

    Args:
        spec: what the condition is; None for a network without one.
    """

    def __init__(self, spec: ConditionSpec | None) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim if spec else 0
        self.text = TextEncoder(spec.size, spec.length, spec.dim) if spec and spec.kind == "text" else None

    def forward(self, c: Tensor | None) -> Tensor | None:
        self._check(c)
        if c is None:
            return None
        return F.one_hot(c, self.dim).float() if self.text is None else self.text(c)[:, 0]

    def key(self, c: Tensor | None) -> Tensor | None:
        """What conditional norms and projections take: ids (B,), which index tables, or a text's vector (B, K)."""
        if self.text is not None:
            return self(c)
        self._check(c)
        return c

    def sequence(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """What attention takes: vectors (B, L + 1, K), of classes (B, 1, K), and which of them count (B, ...) bool."""
        if self.text is not None:
            return self.text(c), visible(c)
        return F.one_hot(c, self.dim).float().unsqueeze(1), torch.ones(len(c), 1, dtype=torch.bool, device=c.device)

    def concat(self, features: Tensor, c: Tensor | None) -> Tensor:
        """Append the vector: features (B, F, ...) -> (B, F + K, ...), on maps as K maps that are constant.

        The layer behind it embeds the class (Mirza and Osindero 2014, https://arxiv.org/abs/1411.1784); it must not be
        the last one, as a linear layer cannot relate the class to the rest.
        """
        vector = self(c)
        if vector is None:
            return features
        places = features.shape[2:]
        vector = vector.to(features.dtype).reshape(*vector.shape, *[1] * len(places))
        return torch.cat([features, vector.expand(*vector.shape[:2], *places)], dim=1)

    def _check(self, c: Tensor | None) -> None:
        if (c is None) != (self.spec is None):
            built = f"for {self.spec}" if self.spec else "without a condition"
            raise ValueError(f"a network built {built} was called {'without one' if c is None else 'with one'}")


def modules_of(network: nn.Module) -> Iterator[nn.Module]:
    """All modules of a network but for what lies within its conditions, which start as they are meant to."""
    yield network
    for child in network.children():
        if not isinstance(child, Condition):
            yield from modules_of(child)
