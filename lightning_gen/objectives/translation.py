"""Auxiliary losses of translators, beside the adversarial loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.objectives.terms import Term, WeightedTerm

Map = Callable[[Tensor], Tensor]


@dataclass
class TranslationStep:
    """The outputs of a translators' step, passed to every loss term. What no term uses is not computed.

    Args:
        a: (B, *shape) images of side a.
        b: (B, *shape_b) images of side b; of one example with ``a`` where the data are paired.
        fake_b: (B, *shape_b) translation of a, with its graph.
        to_b: the translator a -> b.
        fake_a: (B, *shape) translation of b, with its graph; None where there is no reverse translator.
        to_a: the translator b -> a, or None.
        own_a: (B, *shape) identity mapping F(a), where it was computed with ``fake_a`` in one pass.
        own_b: (B, *shape_b) identity mapping G(b), likewise.
    """

    a: Tensor
    b: Tensor
    fake_b: Tensor
    to_b: Map
    fake_a: Tensor | None = None
    to_a: Map | None = None
    own_a: Tensor | None = None
    own_b: Tensor | None = None

    @cached_property
    def cycled_a(self) -> Tensor:
        """Cycle reconstruction F(G(a))."""
        assert self.to_a is not None
        return self.to_a(self.fake_b)

    @cached_property
    def cycled_b(self) -> Tensor:
        """Cycle reconstruction G(F(b))."""
        assert self.fake_a is not None
        return self.to_b(self.fake_a)

    @cached_property
    def identity_a(self) -> Tensor:
        """Identity mapping F(a)."""
        assert self.to_a is not None
        return self.to_a(self.a) if self.own_a is None else self.own_a

    @cached_property
    def identity_b(self) -> Tensor:
        """Identity mapping G(b)."""
        return self.to_b(self.b) if self.own_b is None else self.own_b


def l1_distance(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| (B, C, H, W) -> (B,), mean over the elements: in the unit of [-1, 1], as the papers weigh it."""
    return (x.float() - y.float()).abs().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """10 log10(2^2 / mean (x - y)^2), images (B, C, H, W) in [-1, 1] -> (B,) decibels."""
    return 10 * torch.log10(4 / (x.float() - y.float()).square().flatten(1).mean(1))


def cycle(s: TranslationStep) -> Tensor:
    """|F(G(a)) - a| + |G(F(b)) - b|: Zhu et al. 2017, equation 2."""
    return l1_distance(s.cycled_a, s.a) + l1_distance(s.cycled_b, s.b)


def identity(s: TranslationStep) -> Tensor:
    """|F(a) - a| + |G(b) - b|, a translator leaves its own target as it is: Zhu et al. 2017, section 5.2."""
    return l1_distance(s.identity_a, s.a) + l1_distance(s.identity_b, s.b)


def l1(s: TranslationStep) -> Tensor:
    """|G(a) - b| of paired data: Isola et al. 2017, equation 3."""
    return l1_distance(s.fake_b, s.b)


TRANSLATION_TERMS: dict[str, Term] = {"cycle": cycle, "identity": identity, "l1": l1}


def check_translation_terms(terms: Mapping[str, WeightedTerm], spec: DataSpec, has_reverse_translator: bool) -> None:
    """Refuse terms that a model or its data cannot have.

    Args:
        terms: of a translator.
        spec: of its data.
        has_reverse_translator: whether there is a translator b -> a.

    Raises:
        UserError: that says what the term needs.
    """
    used = {term.term: name for name, term in terms.items()}
    for term in (cycle, identity):
        if term in used and not has_reverse_translator:
            raise UserError(f"term {used[term]!r} needs a way back: take cyclegan, or of paired data the term l1")
    if identity in used and spec.shape != spec.shape_b:
        raise UserError(
            "term 'identity' takes a picture for its own translation, and these sides have "
            f"{spec.shape[0]} and {spec.shape_b[0]} channels: give --model.terms.{used[identity]} null"
        )
    if l1 in used and spec.pairs != "all":
        raise UserError("term 'l1' compares a translation with its truth, and these training data are no pairs")
