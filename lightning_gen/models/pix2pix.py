"""pix2pix: translation learned from pairs.

Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks",
https://arxiv.org/abs/1611.07004, section 3

    for each iteration, with G: a -> b:
        discriminator:  minimise  d(D(a, b), D(a, G(a)))
        generator:      minimise  g(D(a, G(a))) + sum of weight * term,     the paper's term: 100 |G(a) - b|
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.translation import TranslationBase
from lightning_gen.objectives.translation import TranslationStep
from lightning_gen.training.validation import Batch, Logs


class Pix2Pix(TranslationBase):
    """Two players: a translator, and a discriminator that sees the source beside its translation.

    Args:
        spec: the data's spec, of two sides, with pairs everywhere.
        **options: of ``TranslationBase``.

    Raises:
        UserError: the training data are no pairs.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "generator": ("generator",),
        "discriminator": ("discriminator",),
    }
    conditional_discriminator = True

    def __init__(self, spec: DataSpec, **options: Any) -> None:
        super().__init__(spec, **options)
        if self.spec.pairs != "all":
            raise UserError(
                "Pix2Pix learns from pairs, and these data are unpaired: take --data paired, or "
                "of the embedded sets --data.paired true; for unpaired pictures take cyclegan or cut"
            )

    def loss_generator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        a, b = batch["a"], batch["b"]
        made = self.apply_translator(a)
        shared["made"] = made.detach()
        deception = self.generator_adversarial_loss("b", torch.cat([a, b], 1), torch.cat([a, made], 1))
        return self.total_generator_loss(deception, TranslationStep(a, b, made, self.apply_translator))

    def loss_discriminator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        a, b = batch["a"], batch["b"]
        return self.discriminator_loss("b", torch.cat([a, b], 1), torch.cat([a, shared["made"]], 1))
