"""Mixin for models with a discriminator: adversarial losses, penalties, augmentation, LeCam's anchors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gen.adversarial.augment import Augment
from lightning_gen.adversarial.penalty_schedule import Penalties
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import resolve
from lightning_gen.objectives.adversarial import ADVERSARIAL, HAS_LABELS, NEEDS_CONSTRAINT, AdversarialLosses, smoothed
from lightning_gen.objectives.penalties import (
    NEEDS_GRADIENT,
    DiscriminatorStep,
    check_penalisable,
    lecam,
    outputs_and_input_gradient,
)
from lightning_gen.objectives.terms import WeightedTerm
from lightning_gen.schedule import Schedule, schedule
from lightning_gen.training.skipping import gradient_norm
from lightning_gen.training.validation import Logs

LECAM_DECAY = 0.99  # share of LeCam's anchors that stays in an iteration
DiscriminatorFn = Callable[[Tensor], tuple[Tensor, Any]]  # x -> logits (B,), and anything else


def _check_smoothing(smoothing: Schedule, given: float | str, pair: AdversarialLosses, name: str) -> None:
    if not all(0 <= value < 1 for value in (smoothing.first, smoothing.end)):
        raise UserError(f"label_smoothing {given}: a share in [0, 1), such as 0.1, or a ramp such as 0.2..0@50%")
    if (smoothing.first or smoothing.end) and pair not in HAS_LABELS:
        raise UserError(
            f"label_smoothing {given}: the losses {name!r} have no labels to smooth: take adversarial "
            "non_saturating or minimax, or drop it"
        )


class AdversarialMixin:
    """Mixed into a GenerativeModule: the training of its discriminators."""

    schedules: dict[str, Schedule]
    terms: dict[str, WeightedTerm]

    def setup_adversarial(
        self,
        adversarial: str,
        penalties: Mapping[str, Any] | None,
        augment: Mapping[str, Any] | None,
        spec: DataSpec,
        label_smoothing: float | str,
    ) -> None:
        """Set up from the options; ``spec`` is that of a discriminator's input.

        Raises:
            UserError: an unknown name or option.
        """
        self.pair: AdversarialLosses = resolve(adversarial, ADVERSARIAL, "adversarial pair")
        if not isinstance(self.pair, AdversarialLosses):
            raise UserError(f"adversarial {adversarial!r} is no AdversarialLosses of objectives/adversarial.py")
        self.label_smoothing = self.schedules["label_smoothing"] = schedule(label_smoothing)
        _check_smoothing(self.label_smoothing, label_smoothing, self.pair, adversarial)
        self.penalties = Penalties(penalties or {}, spec.shape)
        self.augment = Augment(augment or {})
        if self.augment.numbers:
            self.augment.check(spec)
        self.schedules |= self.penalties.schedules
        self.schedules |= {f"augment.{name}": chance for name, chance in self.augment.schedules.items()}

    def check_discriminator_constraint(self, discriminator: nn.Module, constrained: bool) -> None:
        """Refuse a penalty that this discriminator cannot have; warn of a Wasserstein critic without a constraint."""
        if self.penalties.contains_any(*NEEDS_GRADIENT):
            check_penalisable(discriminator)
        elif self.pair in NEEDS_CONSTRAINT and not constrained:
            warnings.warn(
                "adversarial wasserstein without a constraint on the discriminator diverges: add "
                "--model.penalties.gp 10, --model.spectral_norm discriminator or --model.weight_clip 0.01",
                stacklevel=2,
            )

    def loss_of_logits(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's loss of the pair, with smoothed labels where these are asked for, ()."""
        loss = self.pair.discriminator(real_logits, fake_logits).mean()
        return smoothed(loss, real_logits, self.weight(self.label_smoothing))  # type: ignore[attr-defined]

    def startup_messages(self, batch: int) -> list[str]:
        """Messages for the start of a run with this global batch."""
        return self.penalties.startup_messages(batch)

    def augmented(self, x: Tensor, source: str) -> Tensor:
        """x (B, C, H, W) as a discriminator sees it; ``source`` names the noise."""
        if not self.augment.numbers:
            return x
        chances = {name: self.weight(chance) for name, chance in self.augment.schedules.items()}  # type: ignore[attr-defined]
        noise = self.noise((len(x), self.augment.numbers), f"augment_{source}")  # type: ignore[attr-defined]
        return self.augment(x, noise, chances)

    def add_weighted_terms(self, loss: Tensor, logs: Logs, s: Any) -> tuple[Tensor, Logs]:
        """The generator's loss plus its weighted terms, from its step's outputs."""
        for name, term in self.terms.items():
            logs[name] = term(s, self.weight).mean()  # type: ignore[attr-defined]
            loss = loss + self.weight(self.schedules[f"terms.{name}"]) * logs[name]  # type: ignore[attr-defined]
        return loss, logs

    def gradient_norm_of(self, player: str) -> dict[str, float]:
        """The norm of a player's gradient, where this iteration is logged."""
        at_log = (self.iteration + 1) % self.log_every == 0  # type: ignore[attr-defined]
        return {"gradient_norm": gradient_norm(self._trainable[player])} if at_log else {}  # type: ignore[attr-defined]

    def discriminator_outputs_and_penalties(
        self,
        discriminator: DiscriminatorFn,
        real: Tensor,
        fake: Tensor,
        batch: int,
        anchors: Tensor,
        stream: str = "penalty",
    ) -> tuple[tuple[Tensor, Any], tuple[Tensor, Any], Tensor | float, Logs]:
        """A discriminator's outputs for real and fake (B, *shape), the weighted penalties and the mean of each.

        Args:
            discriminator: the network, with all conditions bound in it.
            real: as the discriminator sees them.
            fake: likewise, without a graph.
            batch: number of examples on this device, from which the global batch follows.
            anchors: (2,) LeCam's, which are updated.
            stream: of the noise.
        """
        iteration: int = self.iteration  # type: ignore[attr-defined]
        # in mixed precision a gradient is computed for itself, in float32
        alone = torch.is_autocast_enabled(real.device.type)
        slopes = set() if alone else self.penalties.input_gradient_penalties(iteration)
        of_real, at_real = (
            outputs_and_input_gradient(discriminator, real) if "r1" in slopes else (discriminator(real), None)
        )
        of_fake, at_fake = (
            outputs_and_input_gradient(discriminator, fake) if "r2" in slopes else (discriminator(fake), None)
        )

        def game() -> DiscriminatorStep:
            numbers = self.penalties.needs_noise * (1 + real[0].numel())
            noise = self.noise((len(real), numbers), stream)  # type: ignore[attr-defined]
            outputs = (of_real[0], of_fake[0], anchors.clone(), at_real, at_fake)
            return DiscriminatorStep(lambda seen: discriminator(seen)[0], real, fake, noise, *outputs)

        world = batch * self._noise.num_shards  # type: ignore[attr-defined]
        penalty, values = self.penalties.loss(game, iteration, world, self.weight)  # type: ignore[attr-defined]
        self._follow(anchors, of_real[0], of_fake[0])
        return of_real, of_fake, penalty, values

    @torch.no_grad()
    def _follow(self, anchors: Tensor, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Move LeCam's anchors to the mean logits of all ranks (Tseng et al. 2021, eq. 3)."""
        if self.penalties.contains_any(lecam):
            here = torch.stack([real_logits.mean(), fake_logits.mean()])
            means = self.trainer.strategy.reduce(here, reduce_op="mean")  # type: ignore[attr-defined]
            kept = LECAM_DECAY ** (1 / self.accumulate) if self.iteration else 0.0  # type: ignore[attr-defined]
            anchors.lerp_(torch.as_tensor(means), 1 - kept)
