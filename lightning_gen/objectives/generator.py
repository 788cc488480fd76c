"""Auxiliary generator losses, beside the adversarial loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lightning_gen.objectives.coupled import all_gather_with_grad
from lightning_gen.objectives.terms import Term


@dataclass
class GeneratorStep:
    """The outputs of a generator's step, passed to every loss term.

    Args:
        real: (B, *shape) examples.
        fake: (B, *shape) generated examples, with their graph.
        z: (B, Z) its codes.
        y: (B,) the requested labels, of a conditional model.
        features: of the discriminator's last hidden layer, (B, *shape) -> (B, F).
    """

    real: Tensor
    fake: Tensor
    z: Tensor
    y: Tensor | None
    features: Callable[[Tensor], Tensor]


def feature_matching(s: GeneratorStep) -> Tensor:
    """|mean f(x) - mean f(G(z))|^2 over the batch of all ranks, the same for each example (B,).

    Salimans et al. 2016, section 3.1.
    """
    real, fake = (all_gather_with_grad(s.features(x).float()).mean(0) for x in (s.real, s.fake))
    return (real.detach() - fake).square().sum().expand(len(s.fake))


GENERATOR_TERMS: dict[str, Term] = {"feature_matching": feature_matching}
