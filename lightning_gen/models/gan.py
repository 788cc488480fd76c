"""Generative adversarial networks: a generator makes examples, a discriminator classifies real versus generated.

Goodfellow et al. 2014, "Generative Adversarial Nets", https://arxiv.org/abs/1406.2661, algorithm 1

    for each iteration:
        discriminator:  minimise  d(D(x), D(G(z))) + sum over penalties of weight * penalty(D; x, G(z))
        generator:      minimise  g(D(x), D(G(z))) + sum over terms of weight * term       (each n_critic-th iteration)

with d and g of a row of ``ADVERSARIAL``. Everything else is a choice that goes with every other one: networks,
penalties (``PENALTIES``), how classes enter, InfoGAN's latent codes, spectral norm, averages, augmentation,
packing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen import networks
from lightning_gen.adversarial.base import AdversarialMixin
from lightning_gen.adversarial.batch_norm_statistics import StandingStatistics
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of
from lightning_gen.models.choices import SPECTRAL, check_choices
from lightning_gen.models.conditional import ConditionalMixin
from lightning_gen.names import check_arguments, check_at_least_one
from lightning_gen.networks.condition import call, condition_of
from lightning_gen.networks.projection import Projection
from lightning_gen.networks.spectral import spectral_norm_
from lightning_gen.objectives.adversarial import logit_statistics
from lightning_gen.objectives.codes import InfoGANCodes
from lightning_gen.objectives.generator import GENERATOR_TERMS, GeneratorStep
from lightning_gen.objectives.terms import parse_terms
from lightning_gen.schedule import schedule
from lightning_gen.training.accepted import of_examples
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.noise import indexed_noise
from lightning_gen.training.validation import Batch, Logs


class GAN(AdversarialMixin, StandingStatistics, ConditionalMixin, GenerativeModule):
    """Two players: a generator G(z) -> x and a discriminator D(x) -> logit.

    Args:
        spec: the data's spec.
        latent_dim: number of Gaussian latent dimensions.
        network: of the generator: "mlp", "dcgan", "resnet", "r3gan", "auto" (by the spec), or an import path.
        network_args: options of that network.
        critic: network of the discriminator; None for the generator's.
        critic_args: options of that network.
        adversarial: a name of ``ADVERSARIAL``, or an import path of an ``AdversarialLosses``.
        label_smoothing: s in [0, 1) or a ramp; the discriminator's label of real examples is 1 - s (one-sided, Salimans
            et al. 2016), of the pairs with labels, "non_saturating" and "minimax".
        penalties: of the discriminator: penalty -> weight, ramp, or {weight, every, **arguments}; ``every`` n
            computes it each n-th iteration with n times the weight; weight "auto" is ``auto_gamma`` / 2.
        terms: of the generator: term -> weight, ramp, or {weight, **arguments}.
        condition: how the discriminator is conditioned on the class or the text: "none" (no network is), "concat"
            (with its input), "projection" (Miyato and Koyama 2018), or "classifier" (it classifies; Odena et al. 2017).
        codes: of InfoGAN: {"categorical": sizes, "continuous": number, "weight": of the information}.
        n_critic: iterations of the discriminator for each of the generator.
        weight_clip: the discriminator's weights are clipped to [-weight_clip, weight_clip].
        spectral_norm: "none", "discriminator" or "both".
        pack: examples that the discriminator sees at once (PacGAN, Lin et al. 2018).
        augment: policies on the discriminator's input, see augment.py: {"color": 1, "translation": 1, "cutout": 1}.
        **options: of GenerativeModule: optimizers, lr, ema, clip, skip, accumulate, log_every, seed.

    Raises:
        UserError: a choice that is unknown, or that does not go with another one or with the data.
    """

    takes_tokens: ClassVar[bool] = False
    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "discriminator": ("discriminator",),
        "generator": ("generator",),
    }
    anchors: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int = 64,
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        critic: str | None = None,
        critic_args: dict[str, Any] | None = None,
        adversarial: str = "non_saturating",
        label_smoothing: float | str = 0.0,
        penalties: dict[str, Any] | None = None,
        terms: dict[str, Any] | None = None,
        condition: str = "none",
        codes: dict[str, Any] | None = None,
        n_critic: int = 1,
        weight_clip: float | None = None,
        spectral_norm: str = "none",
        pack: int = 1,
        augment: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        check_at_least_one(latent_dim=latent_dim, n_critic=n_critic, pack=pack)
        self.latent_dim, self.n_critic, self.pack, self.weight_clip = latent_dim, n_critic, pack, weight_clip
        self.batch_multiple *= pack
        self.condition_by = condition
        check_choices(self.spec, condition, spectral_norm, pack, weight_clip, codes)
        self.setup_condition(condition != "none")
        # the discriminator's input, which has another shape than the data where these are tokens
        self.discriminator_spec = self.spec._replace(shape=kind_of(self.spec).generated(self.spec))
        self.setup_adversarial(adversarial, penalties, augment, self.discriminator_spec, label_smoothing)
        self.terms = parse_terms(terms or {}, GENERATOR_TERMS)
        self._know_codes(codes)
        for name, term in self.terms.items():
            self.schedules |= term.schedules(name)
        self.generator = networks.decoder(
            network,
            self.spec,
            self._z_dim,
            self.discriminator_spec.shape,
            **(network_args or {}),
            **self.condition_kwargs,
        )
        self.check_statistics(self.generator)
        self.discriminator = self._discriminator(network if critic is None else critic, critic_args or {})
        for name in SPECTRAL[spectral_norm]:
            spectral_norm_(getattr(self, name), first_bias=name != "generator")
        self.check_discriminator_constraint(self.discriminator, bool(weight_clip) or spectral_norm != "none")
        self.register_buffer("anchors", torch.zeros(2))  # running means of the logits of real and of fake

    def _know_codes(self, codes: dict[str, Any] | None) -> None:
        given = dict(codes or {})
        self.codes_weight = self.schedules["codes.weight"] = schedule(given.pop("weight", 1.0))
        if "start" in given:
            raise UserError("codes.start follows from latent_dim: leave it out")
        check_arguments(InfoGANCodes, given, "codes")
        self.codes = InfoGANCodes(**given, start=self.latent_dim) if codes else None
        self.draw_dim = self.latent_dim + (self.codes.draw_dim if self.codes else 0)
        self._z_dim = self.latent_dim + (self.codes.dim if self.codes else 0)

    def _discriminator(self, network: str, args: dict[str, Any]) -> nn.Module:
        """Its outputs are the logit, then the class logits, then Q's of the codes."""
        named = self.classes if self.condition_by == "classifier" else 0
        self._outputs = [1, named, self.codes.num_outputs if self.codes else 0]
        arguments = self.condition_kwargs if self.condition_by == "concat" else {}
        channels, *others = self.discriminator_spec.shape
        packed = self.discriminator_spec._replace(shape=(channels * self.pack, *others))
        built = networks.discriminator(network, packed, sum(self._outputs), **args, **arguments)
        known = self.condition_spec
        return Projection(built, known) if known and self.condition_by == "projection" else built

    # Training

    def update_order(self, iteration: int) -> tuple[str, ...]:
        return ("discriminator", "generator") if (iteration + 1) % self.n_critic == 0 else ("discriminator",)

    def loss_discriminator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        x, y = kind_of(self.spec).relaxed(batch["x"], self.spec), condition_of(batch)
        with torch.no_grad():
            z, made = self.generate(len(x), y)
        real, fake = self.augment_and_pack(x, "real"), self.augment_and_pack(made, "fake")
        (real_logits, named), (fake_logits, guessed), penalty, values = self.discriminator_outputs_and_penalties(
            partial(self.discriminator_outputs, y=y), real, fake, len(x), self.anchors
        )
        loss = self.loss_of_logits(real_logits, fake_logits)
        logs = {"adversarial": loss, **logit_statistics(real_logits, fake_logits)}
        for extra, said in (self.auxiliary_loss("real", named, y), self.auxiliary_loss("fake", guessed, y, z)):
            loss, logs = loss + extra, logs | said
        return loss + penalty, logs | values

    def loss_generator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        x, y = kind_of(self.spec).relaxed(batch["x"], self.spec), condition_of(batch)
        z, made = self.generate(len(x), y)
        fake_logits, guessed = self.discriminator_outputs(self.augment_and_pack(made, "fake"), y)
        with torch.no_grad():
            real_logits = (
                self.discriminator_outputs(self.augment_and_pack(x, "real"), y)[0]
                if self.pair.needs_real_logits
                else fake_logits
            )
        loss = self.pair.generator(real_logits, fake_logits).mean()
        extra, values = self.auxiliary_loss("fake", guessed, y, z)
        loss, logs = loss + extra, {"adversarial": loss, **values}
        play = GeneratorStep(x, made, z, y, lambda seen: self._features(seen, y))
        return self.add_weighted_terms(loss, logs, play)

    def generate(self, n: int, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes (n, Z) of this optimizer step's noise, and the generator's samples from them for the classes y (n,)."""
        z = self.draw(self.noise((n, self.draw_dim)))
        return z, self.decode(z, y)

    def augment_and_pack(self, x: Tensor, source: str) -> Tensor:
        """x (B, *shape) as the discriminator sees it: augmented, then packed (B / pack, ...).

        Raises:
            UserError: the batch is no multiple of ``pack``.
        """
        if len(x) % self.pack:
            raise UserError(f"a batch of {len(x)} is no multiple of pack {self.pack}: change --data.batch_size")
        return self._packed(self.augmented(x, source))

    def _packed(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, self.pack)).flatten(1, 2) if self.pack > 1 else x  # (B / P, P * C, ...)

    def discriminator_outputs(self, seen: Tensor, y: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The discriminator's logit (B,) of its input, and its predictions of classes and of codes (B, ...)."""
        out = call(self.network("discriminator"), seen, self._discriminator_condition(y)).float()
        logit, *others = out.split(self._outputs, dim=1)
        return logit.squeeze(1), others

    def _features(self, x: Tensor, y: Tensor | None) -> Tensor:
        features: Any = self.discriminator.features
        return call(features, self._packed(x), self._discriminator_condition(y))

    def _discriminator_condition(self, y: Tensor | None) -> Tensor | None:
        return self.condition(y) if self.condition_by in ("concat", "projection") else None

    def auxiliary_loss(
        self, source: str, said: list[Tensor], y: Tensor | None, z: Tensor | None = None
    ) -> tuple[Tensor, Logs]:
        """-log P(y|x) of a classifying discriminator, -log Q(c|x) of the codes in z: weighted sum, means; in nats."""
        classes, codes = said
        values: Logs = {}
        if y is not None and classes.shape[1]:
            values[f"classes_{source}"] = F.cross_entropy(classes, y)
        if self.codes and z is not None:
            values["codes"] = self.codes.negative_log_likelihood(codes, z[:, self.latent_dim :]).mean()
        weights, zero = {"codes": self.weight(self.codes_weight)}, torch.zeros((), device=said[0].device)
        return sum((weights.get(name, 1.0) * value for name, value in values.items()), start=zero), values

    def after_step(self, player: str) -> dict[str, float]:
        if player == "discriminator" and self.weight_clip:
            for parameter in self._trainable[player]:
                parameter.data.clamp_(-self.weight_clip, self.weight_clip)
        return self.gradient_norm_of(player)

    # Inference

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z (n, Z): Gaussian latents, then InfoGAN's codes."""
        if self.codes is None:
            return noise
        return torch.cat([noise[:, : self.latent_dim], self.codes.draw(noise[:, self.latent_dim :])], 1)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z), classes (B,) of a conditional model -> (B, *shape) in the range of the data."""
        if not self.training:
            self.update_standing_statistics()
        out = call(self.network("generator"), z, self.condition(y))
        return kind_of(self.spec).finish(self.spec, out)

    forward = decode

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Samples with the indices of the batch's examples, and their classes where the model is conditional."""
        noise = indexed_noise(batch["index"].tolist(), (self.draw_dim,), self.seed, "sample").to(self.device)
        return self.decode(self.draw(noise), condition_of(batch))

    @of_examples
    def discriminate(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> the discriminator's logit (B,), without augmentation.

        Raises:
            UserError: the discriminator sees several examples at once.
        """
        if self.pack > 1:
            raise UserError(f"this discriminator scores {self.pack} examples together, and no single one")
        return self.discriminator_outputs(kind_of(self.spec).relaxed(x, self.spec), y)[0]
