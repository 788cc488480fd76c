"""CUT and FastCUT: one-sided translation, with a contrastive loss between patches of source and result.

Park et al. 2020, "Contrastive Learning for Unpaired Image-to-Image Translation", https://arxiv.org/abs/2007.15651,
section 3

    f_l(x): features of layer l of the translator G, at P random places, through a projector H_l, of length 1
    nce(x, y) = mean over l of patch_nce(f_l(y), f_l(x))                       y a translation of x

    for each iteration:
        generator:      minimise  g(D(G(a))) + w_x nce(a, G(a)) + w_y nce(b, G(b))
        discriminator:  minimise  d(D(b), D(G(a)))
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.translation import TranslationBase
from lightning_gen.names import check_at_least_one
from lightning_gen.networks.projector import Projector
from lightning_gen.objectives.contrastive import patch_nce
from lightning_gen.objectives.translation import TranslationStep
from lightning_gen.schedule import schedule
from lightning_gen.training.validation import Batch, Logs


class CUT(TranslationBase):
    """Two players: a translator with the projectors of its features, and a discriminator.

    Args:
        spec: the data's spec, of two sides.
        nce: w_x, weight of the contrastive loss of translations, a number or a ramp.
        nce_identity: w_y, the same for images of the target domain, which should stay as they are.
        patches: number P of places in each layer, at most all.
        temperature: of the contrastive loss.
        features: F of the projectors.
        flip: mirror half of the sources, and compare with the features of the unmirrored (FastCUT's equivariance).
        **options: of ``TranslationBase``.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "generator": ("generator", "projector"),
        "discriminator": ("discriminator",),
    }

    generator: Any

    def __init__(
        self,
        spec: DataSpec,
        *,
        nce: float | str = 1.0,
        nce_identity: float | str = 1.0,
        patches: int = 256,
        temperature: float = 0.07,
        features: int = 256,
        flip: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        check_at_least_one(patches=patches, features=features)
        if not temperature > 0:
            raise UserError(f"temperature {temperature}: it must be above 0, such as 0.07")
        known = callable(getattr(self.generator, "features", None)) and hasattr(self.generator, "feature_channels")
        if not known:
            raise UserError(
                "CUT compares features of sources and translations: it needs a translator with .features(x) and their "
                "channels .feature_channels, such as resnet"
            )
        channels = self.spec.shape[0], self.spec.shape_b[0]
        if channels[0] != channels[1]:
            raise UserError(
                f"CUT sees sources and translations by one network, and these sides have {channels[0]} and "
                f"{channels[1]} channels: give both as many by --data.channels, or take pix2pix or cyclegan"
            )
        self.patches, self.temperature, self.flip = patches, temperature, flip
        self.nce = self.schedules["nce"] = schedule(nce)
        self.nce_identity = self.schedules["nce_identity"] = schedule(nce_identity)
        self.projector = nn.ModuleList(Projector(seen, features) for seen in self.generator.feature_channels)

    def loss_generator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        a, b = batch["a"], batch["b"]
        mirrored = self._mirrored(len(a))
        source = _flipped(a, mirrored)
        also = self.weight(self.nce_identity) != 0
        made = self.apply_translator(torch.cat([source, b]) if also else source)  # in one pass
        fake_b = made[: len(a)]
        shared["made"] = fake_b.detach()
        loss, logs = self.total_generator_loss(
            self.generator_adversarial_loss("b", b, fake_b), TranslationStep(source, b, fake_b, self.apply_translator)
        )
        logs["nce"] = self.contrast(a, fake_b, "a", mirrored).mean()
        loss = loss + self.weight(self.nce) * logs["nce"]
        if also:
            logs["nce_identity"] = self.contrast(b, made[len(a) :], "b").mean()
            loss = loss + self.weight(self.nce_identity) * logs["nce_identity"]
        return loss, logs

    def loss_discriminator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        return self.discriminator_loss("b", batch["b"], shared["made"])

    def contrast(self, source: Tensor, made: Tensor, stream: str, mirrored: Tensor | None = None) -> Tensor:
        """nce(source, made) for images (B, C, H, W) -> (B,) in nats, mean over the layers.

        Args:
            source: the translated images, before mirroring.
            made: its translation.
            stream: of the noise that chooses the places.
            mirrored: (B,) which translations are of mirrored sources.
        """
        with torch.no_grad():
            keys = self.generator.features(source)
        losses = []
        for k, (query, key, project) in enumerate(
            zip(self.generator.features(made), keys, self.projector, strict=True)
        ):
            query = _flipped(query, mirrored)
            order = self.noise((len(source), query[0, 0].numel()), f"places_{stream}{k}").argsort(1)
            places = order[:, : self.patches]  # (B, P)
            losses.append(patch_nce(project(query, places), project(key, places), self.temperature))
        return torch.stack(losses).mean(0)

    def _mirrored(self, n: int) -> Tensor | None:
        """Which sources (n,) are mirrored in this optimizer step."""
        return self.noise((n,), "mirror") < 0 if self.flip else None


def _flipped(x: Tensor, mirrored: Tensor | None) -> Tensor:
    """x (B, C, H, W), left to right where it is mirrored."""
    return x if mirrored is None else torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
