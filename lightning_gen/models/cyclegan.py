"""CycleGAN: translation between two domains without paired images.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
https://arxiv.org/abs/1703.10593, section 3

    for each iteration, with G: a -> b and F: b -> a:
        generators:      minimise  w g(D_b(G(a))) + w g(D_a(F(b))) + sum of weight * term
                                   cycle |F(G(a)) - a| + |G(F(b)) - b|,  identity |F(a) - a| + |G(b) - b|
        discriminators:  minimise  d(D_b(b), D_b(pool(G(a)))) + d(D_a(a), D_a(pool(F(b))))
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen.adversarial.image_pool import ImagePool
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.translation import TranslationBase
from lightning_gen.objectives.coupled import all_gather_with_grad
from lightning_gen.objectives.translation import TranslationStep
from lightning_gen.training.validation import Batch, Logs


class CycleGAN(TranslationBase):
    """Two players: both translators together, and both discriminators together.

    Args:
        spec: the data's spec, of two sides.
        pool: size of the image pool of each domain (earlier translations, for the discriminators), 0 for none.
        **options: of ``TranslationBase``.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "generators": ("generator_ab", "generator_ba"),
        "discriminators": ("discriminator_a", "discriminator_b"),
    }
    player_tags: ClassVar[dict[str, str]] = {"generators": "generator", "discriminators": "discriminator"}
    reset_state_prefixes = (*TranslationBase.reset_state_prefixes, "pool_a.", "pool_b.")
    directions = ("a2b", "b2a")
    translators: ClassVar[dict[str, str]] = {"a2b": "generator_ab", "b2a": "generator_ba"}
    critics: ClassVar[dict[str, str]] = {"a": "discriminator_a", "b": "discriminator_b"}

    def __init__(self, spec: DataSpec, *, pool: int = 50, **options: Any) -> None:
        super().__init__(spec, **options)
        if pool < 0:
            raise UserError(f"pool {pool}: a number of pictures, 0 for none")
        self.pool_a, self.pool_b = ImagePool(pool, self.spec.shape), ImagePool(pool, self.spec.shape_b)
        # equal on all ranks by themselves: torch would broadcast all images in every iteration
        self._ddp_params_and_buffers_to_ignore = ["pool_a.images", "pool_b.images"]

    def loss_generators(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        a, b = batch["a"], batch["b"]
        to_b, to_a = partial(self.apply_translator, direction="a2b"), partial(self.apply_translator, direction="b2a")
        own = "identity" in self.terms  # in one pass with the translations, which costs less than two
        (fake_b, *own_b), (fake_a, *own_a) = (
            to(torch.cat([x, y]) if own else x).split(len(x)) for to, x, y in ((to_b, a, b), (to_a, b, a))
        )
        s = TranslationStep(a, b, fake_b, to_b, fake_a, to_a, *own_a, *own_b)
        shared |= {"b": fake_b.detach(), "a": fake_a.detach()}
        return self.total_generator_loss(
            self.generator_adversarial_loss("b", b, fake_b) + self.generator_adversarial_loss("a", a, fake_a), s
        )

    def loss_discriminators(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        logs: Logs = {}
        losses = []
        for side in self.critics:
            loss, values = self.discriminator_loss(side, batch[side], self._pooled(side, shared[side]))
            losses.append(loss)
            logs |= {f"{name}_{side}": value for name, value in values.items()}
        return torch.stack(losses).sum(), logs

    def _pooled(self, side: str, made: Tensor) -> Tensor:
        """This device's share of the image pool's output for the translations of all devices."""
        noise, pool = self._noise, getattr(self, f"pool_{side}")
        chunk = noise.shard % self.accumulate
        everyone = all_gather_with_grad(made)  # (world * B, C, H, W), of this chunk
        out = pool.query(everyone, self.images + chunk * len(everyone), self.seed, self.iteration, chunk, side)
        start = self.global_rank * len(made)
        return out[start : start + len(made)]
