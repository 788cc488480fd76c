"""VAE-GAN: a VAE whose decoder is a generator, with a reconstruction error in discriminator features.

Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity metric", https://arxiv.org/abs/1512.09300

    z ~ q(z|x), z' ~ N(0, I);  x~ = decoder(z), x' = decoder(z');  f, D = features and logit of the discriminator
    error(x, x~)   = 1/2 |f(x) - f(x~)|^2                          -log N(f(x); f(x~), I) up to a constant (eq. 7, 8)
    encoder:         error + sum of weight * term                  terms = {"kl": 1} is the paper's
    decoder:         gamma * error - 1/2 (log D(x~) + log D(x'))
    discriminator:   -log D(x) - 1/2 (log(1 - D(x~)) + log(1 - D(x')))
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of
from lightning_gen.models.autoencoder_base import AutoencoderBase, GaussianPosteriorMixin
from lightning_gen.names import check_at_least_one, resolve
from lightning_gen.networks.condition import call, condition_of
from lightning_gen.objectives.adversarial import ADVERSARIAL, AdversarialLosses, logit_statistics
from lightning_gen.objectives.latent import Step, active_units, kl_normal, reparameterise
from lightning_gen.objectives.terms import TERMS
from lightning_gen.schedule import schedule
from lightning_gen.training.validation import Batch, Logs


class VAEGAN(GaussianPosteriorMixin, AutoencoderBase):
    """Three players: encoder, decoder (a generator) and discriminator; conditional where ``conditional`` says so.

    Args:
        spec: the data's spec.
        latent_dim: number Z of latent dimensions.
        network: of encoder and decoder: "mlp", "dcgan", "auto" (by the spec), or an import path of your own.
        network_args: options of that network.
        critic: network of the discriminator, which needs ``.features``.
        critic_args: options of that network.
        terms: of the encoder: term -> weight, ramp, or {weight, **arguments}.
        gamma: weight of the reconstruction error for the decoder, a number or a ramp.
        adversarial: a name of ``ADVERSARIAL``, or an import path.
        conditional: whether all three networks are class-conditional.
        **options: of GenerativeModule: optimizers, lr, ema, clip, accumulate, log_every, seed.
    """

    takes_tokens: ClassVar[bool] = False
    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "encoder": ("encoder",),
        "decoder": ("decoder",),
        "discriminator": ("discriminator",),
    }
    player_tags: ClassVar[dict[str, str]] = {"encoder": "", "decoder": "generator"}
    known_terms = TERMS
    kl_per_dimension: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int = 16,
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        critic: str = "auto",
        critic_args: dict[str, Any] | None = None,
        terms: dict[str, Any] | None = None,
        gamma: float | str = 0.003,
        adversarial: str = "non_saturating",
        conditional: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(spec, terms={"kl": 1.0} if terms is None else terms, conditional=conditional, **options)
        check_at_least_one(latent_dim=latent_dim)
        self.latent_dim = self.draw_dim = latent_dim
        self.gamma = self.schedules["gamma"] = schedule(gamma)
        self.pair: AdversarialLosses = resolve(adversarial, ADVERSARIAL, "adversarial pair")
        args, critic_args = ((given or {}) | self.condition_kwargs for given in (network_args, critic_args))
        self.encoder = networks.encoder(network, self.spec, 2 * latent_dim, **args)
        self.decoder = networks.decoder(network, self.spec, latent_dim, self.spec.shape, **args)
        self.discriminator = networks.discriminator(critic, self.spec, 1, **critic_args)
        if not callable(getattr(self.discriminator, "features", None)):
            raise UserError(f"critic {critic!r} has no .features(x): reconstructions are compared in its features")
        if not isinstance(self.pair, AdversarialLosses):
            raise UserError(f"adversarial {adversarial!r} is no AdversarialLosses of objectives/adversarial.py")
        self.register_buffer("kl_per_dimension", torch.zeros(latent_dim))  # of the last validation

    # Training

    def loss_encoder(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        s = self.step(batch)
        shared["z"] = s.z.detach()
        return self.weighted_loss(self.per_example_losses(s))

    def loss_decoder(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        x, y, z = batch["x"], condition_of(batch), shared["z"]
        codes = torch.cat([z, self.noise(tuple(z.shape), "prior")])  # in one batch, as the batch norm of both
        fakes = self.decode(codes, None if y is None else torch.cat([y, y]))
        shared["fakes"] = fakes.detach()
        error = self.reconstruction_loss(x, fakes[: len(x)], y).mean()
        real, rebuilt, sampled = self.logits(x, fakes, y)
        deception = 0.5 * (self.pair.generator(real, rebuilt) + self.pair.generator(real, sampled)).mean()
        loss = self.weight(self.gamma) * error + deception
        return loss, {"reconstruction": error, "adversarial": deception}

    def loss_discriminator(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        real, rebuilt, sampled = self.logits(batch["x"], shared["fakes"], condition_of(batch))
        loss = 0.5 * (self.pair.discriminator(real, rebuilt) + self.pair.discriminator(real, sampled)).mean()
        return loss, {"adversarial": loss, **logit_statistics(real, sampled), "logit_rebuilt": rebuilt.mean()}

    def logits(self, x: Tensor, fakes: Tensor, y: Tensor | None) -> list[Tensor]:
        """The discriminator's logits for x (B, *shape), as many reconstructions and as many samples, each (B,)."""
        c = self.condition(y)
        c = None if c is None else torch.cat([c, c, c])
        return list(call(self.network("discriminator"), torch.cat([x, fakes]), c).float().squeeze(1).chunk(3))

    def step(self, batch: Batch) -> Step:
        """x -> q(z|x) -> z -> x~."""
        x, y = batch["x"], condition_of(batch)
        mean, log_var = self.posterior(x, y)
        z = reparameterise(mean, log_var, self.noise(tuple(mean.shape)))
        kl = kl_normal(mean, log_var)
        s = Step(x, y, self.decode(z, y), z, mean, log_var, kl, self.spec.size)
        s.prior = lambda: self.noise(tuple(z.shape), "prior")
        return s

    def per_example_losses(self, s: Step) -> Logs:
        """The error in the discriminator's features and each term, (B,)."""
        return {"reconstruction": self.reconstruction_loss(s.x, s.out, s.y), **self.term_values(s)}

    def reconstruction_loss(self, x: Tensor, rebuilt: Tensor, y: Tensor | None) -> Tensor:
        """1/2 |f(x) - f(x~)|^2 in the features of the discriminator's last hidden layer, (B,)."""
        features, c = self.network("discriminator").features, self.condition(y)
        return 0.5 * (call(features, x, c).float() - call(features, rebuilt, c).float()).square().sum(1)

    # Inference

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z) -> (B, *shape) in the range of the data."""
        out = call(self.network("decoder"), z, self.condition(y))
        return kind_of(self.spec).finish(self.spec, out)

    # Validation

    def validation_values(self, batch: Batch) -> Logs:
        """No loss: errors in features that change from one validation to the next do not compare."""
        s = self.step(batch)
        assert s.kl is not None
        pixels = (s.x - s.out).square().flatten(1).sum(1)
        mean = s.mean.detach().cpu().double()  # in float32 the variance of means far from 0 would be rounding
        code = {"mean": mean, "mean_squared": mean**2, "kl_per_dimension": s.kl}
        return {**self.per_example_losses(s), "squared_error": pixels, **code}

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        self.kl_per_dimension.copy_(means.pop("kl_per_dimension"))
        active = active_units(means.pop("mean"), means.pop("mean_squared"))
        return {**super().validation_summary(means), "active_units": float(active.sum())}
