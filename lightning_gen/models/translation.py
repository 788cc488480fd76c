"""Base class of translators between two domains ("sides") a and b: a discriminator for each target, terms, averages.

a -> G -> fake_b    D_b classifies b versus fake_b
b -> F -> fake_a    D_a classifies a versus fake_a, where there is a reverse translator
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen import networks
from lightning_gen.adversarial.base import AdversarialMixin
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of
from lightning_gen.networks.spectral import spectral_norm_
from lightning_gen.objectives.adversarial import logit_statistics
from lightning_gen.objectives.terms import parse_terms
from lightning_gen.objectives.translation import (
    TRANSLATION_TERMS,
    TranslationStep,
    check_translation_terms,
    l1_distance,
    psnr,
)
from lightning_gen.schedule import schedule
from lightning_gen.training.accepted import check_pictures
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.validation import Batch, Logs

SPECTRAL = ("none", "discriminator", "both")
DIRECTION_SIDES = {"a2b": ("a", "b"), "b2a": ("b", "a")}  # direction -> source, target


class TranslationBase(AdversarialMixin, GenerativeModule):
    """Translators and their discriminators; a subclass defines which there are and their training step.

    Args:
        spec: the data's spec, of two sides.
        network: of the translators: "resnet", "unet", or an import path.
        network_args: options of that network.
        critic: network of the discriminators: "patch", a network with an encoder, or an import path.
        critic_args: options of that network.
        adversarial: a name of ``ADVERSARIAL``, or an import path of an ``AdversarialLosses``.
        label_smoothing: of the discriminators, as of ``GAN``.
        adversarial_weight: of the adversarial loss of the translators, a number or a ramp.
        penalties: of the discriminators, as of ``GAN``; the logit of an image is the mean of its patches' logits.
        terms: of the translators: term of ``TRANSLATION_TERMS`` -> weight, ramp, or {weight, **arguments}.
        spectral_norm: "none", "discriminator" or "both".
        augment: policies on a discriminator's input, as of ``GAN``.
        **options: of GenerativeModule: optimizers, lr, ema, clip, skip, accumulate, log_every, seed.

    Raises:
        UserError: data that are no pairs, an unknown choice, sizes that a network does not take.
    """

    takes_tokens: ClassVar[bool] = False
    directions: tuple[str, ...] = ("a2b",)
    translators: ClassVar[dict[str, str]] = {"a2b": "generator"}  # direction -> submodule
    critics: ClassVar[dict[str, str]] = {"b": "discriminator"}  # side that a discriminator scores -> submodule
    conditional_discriminator: ClassVar[bool] = False  # whether a discriminator is conditioned on the source image
    anchors: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        network: str = "resnet",
        network_args: dict[str, Any] | None = None,
        critic: str = "patch",
        critic_args: dict[str, Any] | None = None,
        adversarial: str = "least_squares",
        label_smoothing: float | str = 0.0,
        adversarial_weight: float | str = 1.0,
        penalties: dict[str, Any] | None = None,
        terms: dict[str, Any] | None = None,
        spectral_norm: str = "none",
        augment: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        check_pairs(self.spec, type(self).__name__)
        if spectral_norm not in SPECTRAL:
            raise unknown("spectral_norm", spectral_norm, SPECTRAL)
        shapes = {"a": self.spec.shape, "b": self.spec.shape_b}
        for direction, name in self.translators.items():
            source, target = (shapes[side] for side in DIRECTION_SIDES[direction])
            setattr(self, name, networks.translator(network, source, target[0], **(network_args or {})))
        for side, name in self.critics.items():
            seen = (
                sum(shape[0] for shape in shapes.values()) if self.conditional_discriminator else shapes[side][0],
                *shapes[side][1:],
            )
            setattr(self, name, networks.critic(critic, DataSpec(seen), **(critic_args or {})))
        self.setup_adversarial(adversarial, penalties, augment, DataSpec(seen), label_smoothing)
        self.terms = parse_terms(terms or {}, TRANSLATION_TERMS)
        check_translation_terms(self.terms, self.spec, "b2a" in self.directions)
        self.adversarial_weight = self.schedules["adversarial_weight"] = schedule(adversarial_weight)
        for name, term in self.terms.items():
            self.schedules |= term.schedules(name)
        normalised = self.translators.values() if spectral_norm == "both" else ()
        for name in (*(self.critics.values() if spectral_norm != "none" else ()), *normalised):
            spectral_norm_(getattr(self, name))
        for name in self.critics.values():
            self.check_discriminator_constraint(getattr(self, name), spectral_norm != "none")
        self.register_buffer("anchors", torch.zeros(len(self.critics), 2))  # LeCam's, see adversarial/base.py

    def chosen_by_size(self, spec: DataSpec) -> dict[str, int]:
        """The options of networks that other data would have chosen by their size, such as network_args.width."""
        asked, found = dict(self.hparams), dict[str, int]()
        for option, table in (("network", networks.TRANSLATORS), ("critic", networks.CRITICS)):
            builder = table.get(asked[option]) if isinstance(asked[option], str) else None
            builder = getattr(builder, "encoder", builder)
            chosen = networks.chosen_by_size(builder, spec.shape, asked[f"{option}_args"] or {})
            found |= {f"{option}_args.{name}": value for name, value in chosen.items()}
        return found

    # Training

    def apply_translator(self, x: Tensor, direction: str = "a2b") -> Tensor:
        """x (B, *shape) -> (B, *shape_b) in [-1, 1]: the one place where a translator's output is squashed."""
        return kind_of(self.spec).finish(self.spec, self.network(self.translators[direction])(x))

    def logits(self, side: str, x: Tensor) -> Tensor:
        """Patch logits of a side's discriminator for x (B, *shape): (B, patches)."""
        return self.network(self.critics[side])(x).flatten(1).float()  # (B, 1, h, w) -> (B, h * w)

    def generator_adversarial_loss(self, side: str, real: Tensor, fake: Tensor) -> Tensor:
        """g of the pair for translations (B, *shape) onto this side, mean over patches and batch."""
        fake_logits = self.logits(side, self.augmented(fake, f"fake_{side}"))
        with torch.no_grad():
            shown = self.augmented(real, f"real_{side}") if self.pair.needs_real_logits else None
            real_logits = fake_logits if shown is None else self.logits(side, shown)
        return self.pair.generator(real_logits, fake_logits).mean()

    def discriminator_loss(self, side: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Logs]:
        """d of the pair with the penalties, for real images of this side and translations onto it (B, *shape)."""

        def discriminate(x: Tensor) -> tuple[Tensor, Tensor]:
            patches = self.logits(side, x)  # (B, patches)
            return patches.mean(1), patches

        anchors = self.anchors[list(self.critics).index(side)]
        shown = self.augmented(real, f"real_{side}"), self.augmented(fake, f"fake_{side}")
        of_real, of_fake, penalty, values = self.discriminator_outputs_and_penalties(
            discriminate, *shown, len(real), anchors, f"penalty_{side}"
        )
        loss = self.loss_of_logits(of_real[1], of_fake[1])
        return loss + penalty, {"adversarial": loss, **logit_statistics(of_real[1], of_fake[1]), **values}

    def total_generator_loss(self, deception: Tensor, s: TranslationStep) -> tuple[Tensor, Logs]:
        """The adversarial loss of the translators with their terms."""
        return self.add_weighted_terms(self.weight(self.adversarial_weight) * deception, {"adversarial": deception}, s)

    def after_step(self, player: str) -> dict[str, float]:
        return self.gradient_norm_of(player)

    # Inference

    @property
    def stride(self) -> int:
        """The factor of which height and width of an image must be multiples."""
        return math.lcm(*(getattr(self, name).stride for name in self.translators.values()))

    def translate(self, x: Tensor, direction: str = "a2b") -> Tensor:
        """x (B, C, H, W) in [-1, 1], of any size whose sides are multiples of ``stride`` -> the other side, in [-1, 1].

        Args:
            x: images of the source domain.
            direction: "a2b", or "b2a" where there is a reverse translator.

        Raises:
            UserError: the model does not translate in this direction, or such pictures.
        """
        if direction not in self.directions:
            raise unknown(f"direction of {type(self).__name__}", direction, self.directions)
        shape = self.spec.shape if DIRECTION_SIDES[direction][0] == "a" else self.spec.shape_b
        check_pictures(x, shape[0], self.stride, f"{type(self).__name__}.translate")
        return self.apply_translator(x, direction)

    def forward(self, a: Tensor, direction: str = "a2b") -> Tensor:
        return self.translate(a, direction)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """direction -> translations of this batch's images."""
        return {
            direction: self.translate(batch[DIRECTION_SIDES[direction][0]], direction) for direction in self.directions
        }

    # Validation

    def validation_values(self, batch: Batch) -> Logs:
        """Cycle and identity, mean |difference| in the unit of [-1, 1]; PSNR in decibels where the data are paired."""
        values: Logs = {}
        for direction in self.directions:
            source, target = DIRECTION_SIDES[direction]
            made = self.translate(batch[source], direction)
            if self.spec.pairs != "none":
                values[f"psnr_{source}{target}"] = psnr(made, batch[target])
                values[f"l1_{source}{target}"] = l1_distance(made, batch[target])
            if (back := f"{target}2{source}") in self.directions:
                values[f"cycle_{source}"] = l1_distance(self.translate(made, back), batch[source])
            if self.spec.shape == self.spec.shape_b:
                values[f"identity_{target}"] = l1_distance(self.translate(batch[target], direction), batch[target])
        return values


def check_pairs(spec: DataSpec, model: str) -> None:
    """Refuse data that do not have two sides.

    Raises:
        UserError: that says what is.
    """
    if not spec.has_two_sides:
        raise UserError(
            f"{model} translates between two sides and these are data of one side: take outline-shapes or "
            "coloured-digits, or your own folders by --data unpaired --data.a FOLDER --data.b FOLDER, or --data paired"
        )
    if not kind_of(spec).translator:
        raise UserError(f"{model} translates pictures, and the sides of these data are {kind_of(spec).plural}")
    if spec.shape[1:] != spec.shape_b[1:]:
        raise UserError(f"{model} keeps the size of a picture, but the sides have {spec.shape} and {spec.shape_b}")
