"""Terms of translators: what a translation must keep beside looking real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from datamodules.errors import UserError
from lightning_gen.objectives.terms import Term

Map = Callable[[Tensor], Tensor]


@dataclass
class Exchange:
    """What a move of the translators produced: the argument of every term. What no term asks for is not computed.

    Args:
        a: (B, *shape) pictures of side a.
        b: (B, *shape_b) pictures of side b; of one example with ``a`` where the data are paired.
        ab: (B, *shape_b) translation of a, with its graph.
        to_b: the translator a -> b.
        ba: (B, *shape) translation of b, with its graph; None where there is no way back.
        to_a: the translator b -> a, or None.
        own_a: (B, *shape) what to_a makes of a, where it was computed with ``ba`` in one pass.
        own_b: (B, *shape_b) what to_b makes of b, likewise.
    """

    a: Tensor
    b: Tensor
    ab: Tensor
    to_b: Map
    ba: Tensor | None = None
    to_a: Map | None = None
    own_a: Tensor | None = None
    own_b: Tensor | None = None

    @cached_property
    def cycled_a(self) -> Tensor:
        """a -> b -> a."""
        return self._back()(self.ab)

    @cached_property
    def cycled_b(self) -> Tensor:
        """b -> a -> b."""
        self._back()
        assert self.ba is not None
        return self.to_b(self.ba)

    @cached_property
    def same_a(self) -> Tensor:
        """b -> a, of a."""
        return self._back()(self.a) if self.own_a is None else self.own_a

    @cached_property
    def same_b(self) -> Tensor:
        """a -> b, of b."""
        return self.to_b(self.b) if self.own_b is None else self.own_b

    def _back(self) -> Map:
        if self.to_a is None:
            raise UserError(
                "the terms cycle and identity need a way back: take cyclegan, or of paired data the term l1"
            )
        return self.to_a


def distance(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| (B, C, H, W) -> (B,), mean over the elements: in the unit of [-1, 1], as the papers weigh it."""
    return (x.float() - y.float()).abs().flatten(1).mean(1)


def cycle(s: Exchange) -> Tensor:
    """|F(G(a)) - a| + |G(F(b)) - b|: Zhu et al. 2017, equation 2."""
    return distance(s.cycled_a, s.a) + distance(s.cycled_b, s.b)


def identity(s: Exchange) -> Tensor:
    """|F(a) - a| + |G(b) - b|, a translator leaves its own target as it is: Zhu et al. 2017, section 5.2."""
    return distance(s.same_a, s.a) + distance(s.same_b, s.b)


def l1(s: Exchange) -> Tensor:
    """|G(a) - b| of paired data: Isola et al. 2017, equation 3."""
    return distance(s.ab, s.b)


EXCHANGE_TERMS: dict[str, Term] = {"cycle": cycle, "identity": identity, "l1": l1}
