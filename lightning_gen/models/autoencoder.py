"""Deterministic autoencoders, without a likelihood.

Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders", ICML
Makhzani et al. 2016, "Adversarial Autoencoders", https://arxiv.org/abs/1511.05644
Tolstikhin et al. 2018, "Wasserstein Auto-Encoders", https://arxiv.org/abs/1711.01558
Ghosh et al. 2020, "From Variational to Deterministic Autoencoders", https://arxiv.org/abs/1903.12436

    z = encoder(x~)      x~ = x, or a corruption of it in training      out = decoder(z)
    loss = sum_i |x_i - out_i|^2 + sum over terms of weight * term

All values are per example: summed over dimensions, averaged over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder_base import AutoencoderBase, ReconstructionMixin
from lightning_gen.names import check_at_least_one, resolve
from lightning_gen.networks.condition import call, condition_of
from lightning_gen.objectives.adversarial import ADVERSARIAL
from lightning_gen.objectives.latent import Step, active_units
from lightning_gen.objectives.terms import CODE_TERMS
from lightning_gen.schedule import Schedule, schedule
from lightning_gen.training.accepted import of_examples
from lightning_gen.training.validation import Batch, Logs

PRIORS = ("normal", "fitted")
RIDGE = 1e-6  # of the codes' mean variance, added to each: a constant code has none


def squared(x: Tensor, out: Tensor) -> Tensor:
    """sum_i (x_i - out_i)^2, both (B, *shape) -> (B,)."""
    return (x - out).square().flatten(1).sum(1)


def absolute(x: Tensor, out: Tensor) -> Tensor:
    """sum_i |x_i - out_i|, both (B, *shape) -> (B,)."""
    return (x - out).abs().flatten(1).sum(1)


def gaussian(x: Tensor, noise: Tensor, amount: float, empty: float) -> Tensor:
    """x + sd * noise (Vincent et al. 2010, section 3.3)."""
    return torch.add(x, noise, alpha=amount)


def mask(x: Tensor, noise: Tensor, amount: float, empty: float) -> Tensor:
    """Each element becomes ``empty`` with a probability (Vincent et al. 2008, section 2.3, who fix their number)."""
    return torch.where(torch.special.ndtr(noise) <= amount, empty, x)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"squared": squared, "absolute": absolute}
CORRUPTIONS: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {"gaussian": gaussian, "mask": mask}


class Autoencoder(ReconstructionMixin, AutoencoderBase):
    """x -> code -> x; the variants of this family are its terms, priors and corruptions (presets/vae.py).

    Args:
        spec: the data's spec.
        latent_dim: number Z of latent dimensions.
        network: "mlp", "dcgan", "auto" (by the spec), or an import path of your own.
        network_args: options of the network, for example {"hidden": [400, 400], "dropout": 0.1}.
        loss: of the reconstruction: "squared" or "absolute", summed over x, or an import path.
        terms: term -> weight, ramp, or {weight, **arguments}: mmd, dip, code, decoder.
        corruption: of what the encoder sees in training: {"gaussian": sd} or {"mask": probability of black}, or ramps.
        prior: "normal", N(0, I), for models whose codes are regularised to match it; "fitted", a Gaussian with the mean
            and covariance of the codes of the last validation, N(0, I) before the first.
        conditional: whether encoder and decoder are class-conditional.
        **options: of GenerativeModule: optimizers, lr, ema, clip, accumulate, log_every, seed.

    Raises:
        UserError: an unknown name, an impossible amount, data that are no numbers, or mmd with a fitted prior.
    """

    takes_tokens: ClassVar[bool] = False
    players: ClassVar[dict[str, tuple[str, ...]]] = {"autoencoder": ("encoder", "decoder")}
    known_terms = CODE_TERMS
    code_mean: Tensor
    code_factor: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int = 20,
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        loss: str = "squared",
        terms: dict[str, Any] | None = None,
        corruption: dict[str, Any] | None = None,
        prior: str = "normal",
        conditional: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(spec, terms=terms or {}, conditional=conditional, **options)
        check_at_least_one(latent_dim=latent_dim)
        if prior not in PRIORS:
            raise unknown("prior", prior, PRIORS)
        if prior == "fitted" and "mmd" in self.terms:
            raise UserError("term 'mmd' matches the codes to N(0, I), which prior 'fitted' is not: take prior normal")
        self.latent_dim = self.draw_dim = latent_dim
        self.fitted = prior == "fitted"
        self.reconstruction_loss = resolve(loss, LOSSES, "loss")
        self.corruption = {name: _amount(name, a) for name, a in (corruption or {}).items() if a is not None}
        self.schedules |= {f"corruption.{name}": amount for name, amount in self.corruption.items()}
        network_args = (network_args or {}) | self.condition_kwargs
        self.encoder = networks.encoder(network, self.spec, latent_dim, **network_args)
        self.decoder = networks.decoder(network, self.spec, latent_dim, self.spec.shape, **network_args)
        self.register_buffer("code_mean", torch.zeros(latent_dim))
        self.register_buffer("code_factor", torch.eye(latent_dim))  # Cholesky factor of the codes' covariance

    # Training

    def loss_autoencoder(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        s = self.step(batch)
        shared["code"] = s.z.detach()
        return self.weighted_loss(self.per_example_losses(s))

    def step(self, batch: Batch) -> Step:
        """The outputs of one training step; validation applies no corruption."""
        x, y = batch["x"], condition_of(batch)
        z = self.encode(self.corrupted(x) if self.training else x, y)
        s = Step(x, y, self.output(z, y), z, mean=z, size=self.spec.size, decoder=self.network("decoder"))
        s.prior = lambda: self.noise(tuple(z.shape), "prior")
        return s

    def corrupted(self, x: Tensor) -> Tensor:
        """x (B, *shape) as the encoder sees it in training."""
        empty = 0.0 if self.spec.values == "real" else -1.0
        for name, amount in self.corruption.items():
            x = CORRUPTIONS[name](x, self.noise(tuple(x.shape), name), self.weight(amount), empty)
        return x

    def per_example_losses(self, s: Step) -> Logs:
        """The reconstruction error against the clean x, and each term, (B,)."""
        return {"reconstruction": self.reconstruction_loss(s.x, s.out.to(s.x.dtype)), **self.term_values(s)}

    # Inference

    @of_examples
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> z (B, Z)."""
        return call(self.network("encoder"), x, self.condition(y)).float()

    def output(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z) -> the decoder's output (B, *shape), unbounded."""
        return call(self.network("decoder"), z, self.condition(y))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z) -> (B, *shape) in the range of the data."""
        out = self.output(z, y)
        return out if self.spec.values == "real" else out.clamp(-1, 1)

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, Z) -> z (n, Z) from the prior."""
        return self.code_mean + noise @ self.code_factor.T

    # Validation

    def validation_values(self, batch: Batch) -> Logs:
        s = self.step(batch)
        values = self.per_example_losses(s)
        z = s.z.detach().cpu().double()
        share = (z.T @ z / len(z)).expand(len(z), -1, -1)  # (B, Z, Z) of which the mean over examples is E[z z^T]
        return {"loss": self.validation_loss(values), **values, "z": z, "zz": share}

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        mean, product = means.pop("z"), means.pop("zz")
        if self.fitted and not self.trainer.testing:
            self.code_mean.copy_(mean)
            self.code_factor.copy_(_factor(product - torch.outer(mean, mean)))
        return super().validation_summary(means) | {"active_units": float(active_units(mean, product.diagonal()).sum())}


class AAE(Autoencoder):
    """A discriminator classifies codes versus draws of the prior, and the encoder is trained to fool it.

    Makhzani et al. 2016, section 2; both losses of the encoder are minimised in one step.

        discriminator: -log D(z ~ p(z)) - log(1 - D(encoder(x)))
        autoencoder:   reconstruction + terms + adversarial * -log D(encoder(x))

    Args:
        spec: the data's spec.
        adversarial: weight of the encoder's loss against the discriminator, or a ramp.
        critic_args: options of the discriminator, a fully connected network, for example {"hidden": [256, 256]}.
        **options: of Autoencoder and GenerativeModule.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {**Autoencoder.players, "discriminator": ("discriminator",)}
    player_tags: ClassVar[dict[str, str]] = {"autoencoder": ""}
    nonstationary_terms = frozenset({"adversarial"})
    adversarial_losses = ADVERSARIAL["non_saturating"]

    def __init__(
        self,
        spec: DataSpec,
        *,
        adversarial: float | str = 1.0,
        critic_args: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        if self.fitted:
            raise UserError("an adversarial autoencoder matches the codes to N(0, I): take prior normal, not fitted")
        self.weights["adversarial"] = self.schedules["adversarial"] = schedule(adversarial)
        code = DataSpec(shape=(self.latent_dim,), kind="vector", values="real")
        self.discriminator = networks.encoder("mlp", code, 1, **(critic_args or {}))

    def per_example_losses(self, s: Step) -> Logs:
        """The terms of ``Autoencoder``, and the encoder's adversarial loss, (B,)."""
        return super().per_example_losses(s) | {"adversarial": self.adversarial_losses.generator(*self.logits(s.z))}

    def loss_discriminator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        real, fake = self.logits(shared["code"])
        correct = torch.cat([real > 0, fake <= 0]).float().mean()
        return self.adversarial_losses.discriminator(real, fake).mean(), {"accuracy": correct}

    def logits(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's logits for as many draws of the prior and for codes z (B, Z), each (B,)."""
        network = self.network("discriminator")
        real, fake = (network(code).float().squeeze(1) for code in (self.noise(tuple(z.shape), "prior"), z))
        return real, fake


def _amount(name: str, given: float | str) -> Schedule:
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    amount = schedule(given)
    if min(amount.first, amount.end) < 0 or (name == "mask" and max(amount.first, amount.end) > 1):
        possible = "probabilities, 0 to 1" if name == "mask" else "standard deviations, at least 0"
        raise UserError(f"corruption.{name} {given}: possible are {possible}")
    return amount


def _factor(covariance: Tensor) -> Tensor:
    """Lower triangular L (Z, Z) with L L^T = covariance + ridge, also of a singular covariance (Z, Z) in float64."""
    ridge = RIDGE * (float(covariance.diagonal().mean()) + RIDGE)
    return torch.linalg.cholesky_ex(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))[0]
