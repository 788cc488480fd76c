"""Variational autoencoders with one layer of latents.

Kingma and Welling 2013, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114
Higgins et al. 2017, "beta-VAE", https://openreview.net/forum?id=Sy2fzU9gl

    q(z|x) = N(z; mu(x), diag sigma^2(x))       p(z) = N(0, I) or another prior       p(x|z) = likelihood(x; decoder(z))
    ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z))                                        (Kingma 2013, eq. 3)
    loss    = -E_q[log p(x|z)] + sum over terms of weight * term,     terms = {"kl": 1} gives the ELBO

All values are nats per example: summed over dimensions, averaged over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder_base import GaussianPosteriorMixin
from lightning_gen.models.vae_base import ImportanceSamples, VAEBase
from lightning_gen.names import check_at_least_one
from lightning_gen.networks.condition import call, is_autoregressive, repeat
from lightning_gen.objectives import priors
from lightning_gen.objectives.latent import (
    Step,
    active_units,
    gaussian_log_density,
    information_of_moments,
    reparameterise,
)
from lightning_gen.objectives.terms import TERMS
from lightning_gen.training.validation import Logs


class VAE(GaussianPosteriorMixin, VAEBase):
    """A variational autoencoder; the variants of this family are its terms, priors and estimators (presets/vae.py).

    Args:
        spec: the data's spec.
        latent_dim: number Z of latent dimensions.
        network: "mlp", "dcgan", "auto" (by the spec), or an import path of your own.
        network_args: options of the network, for example {"hidden": [400, 400], "dropout": 0.1}.
        likelihood: a name of ``LIKELIHOODS``, "auto" (by the spec), or an import path.
        scale: of a likelihood that has one: "learned" (one per channel), "pixel" (by the decoder), or a number.
        terms: term -> weight, ramp, or {weight, **arguments}: {"kl": 1} is the ELBO, {"kl": 4} a beta-VAE.
        prior: "normal", "mixture", "vamp", or an import path.
        prior_args: options of the prior, for example {"components": 200}.
        estimator: "elbo", "iwae", "stl" or "dreg", see objectives/estimators.py.
        k: draws of z for each example, of an estimator other than elbo.
        conditional: whether encoder and decoder are conditioned on the class or the text, q(z|x, y) and p(x|z, y)
            (Sohn et al. 2015).
        val_k: importance samples of the likelihood bound in validation.
        **options: of GenerativeModule: optimizers, lr, ema, clip, accumulate, log_every, seed.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("encoder", "decoder", "likelihood", "prior")}
    known_terms = TERMS

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int = 20,
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        likelihood: str = "auto",
        scale: float | str | None = None,
        terms: dict[str, Any] | None = None,
        prior: str = "normal",
        prior_args: dict[str, Any] | None = None,
        estimator: str = "elbo",
        k: int = 1,
        conditional: bool = False,
        val_k: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(
            spec,
            likelihood=likelihood,
            scale=scale,
            terms={"kl": 1.0} if terms is None else terms,
            estimator=estimator,
            k=k,
            conditional=conditional,
            val_k=val_k,
            **options,
        )
        check_at_least_one(latent_dim=latent_dim)
        self.latent_dim = self.noise_dim = latent_dim
        network_args = (network_args or {}) | self.condition_kwargs
        self.encoder = networks.encoder(network, self.spec, 2 * latent_dim, **network_args)
        self.decoder = networks.decoder(network, self.spec, latent_dim, self.likelihood.params(), **network_args)
        self.prior = priors.build(prior, self.spec, latent_dim, prior_args or {})
        self.draw_dim = self.prior.draw_dim
        _check_prior(self.prior, self.terms, self.encoder, conditional, self.spec.values == "tokens")
        self.register_buffer("kl_per_dimension", torch.zeros(latent_dim))  # of the last validation

    def infer(self, x: Tensor, y: Tensor | None, noise: Tensor) -> Step:
        """x (B, *shape), conditions (B, ...) and noise (B, Z) -> q(z|x) -> z -> p(x|z)."""
        mean, log_var = self.posterior(x, y)
        z = reparameterise(mean, log_var, noise)
        kl = self.network("prior").kl(z, mean, log_var, self.posterior)
        out = self.output(z, y, x)
        return Step(x, y, out, z, mean, log_var, kl, size=self.spec.size, prior=self._prior_draws(len(x)))

    def _prior_draws(self, count: int) -> Callable[[], Tensor]:
        return lambda: self.draw(self.noise((count, self.draw_dim), "prior"))

    def importance_samples(self, x: Tensor, y: Tensor | None, noise: Tensor) -> ImportanceSamples:
        """The same for K draws of z, noise (K, B, Z)."""
        mean, log_var = self.posterior(x, y)
        z = reparameterise(mean, log_var, noise)  # (K, B, Z)
        seen = repeat(x, len(z)) if is_autoregressive(self.decoder) else None
        out = self.output(z.flatten(0, 1), repeat(y, len(z)), seen).unflatten(0, z.shape[:2])
        if self.training and self.estimator and self.estimator.detach_posterior_params:
            mean, log_var = mean.detach(), log_var.detach()
        log_ratio = self.network("prior").log_prob(z, self.posterior) - gaussian_log_density(z, mean, log_var)
        return ImportanceSamples(z, self.log_px(x, out), log_ratio)

    # Inference

    def output(self, z: Tensor, y: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """z (B, Z) -> the decoder's output (B, *params), as the likelihood reads it.

        An autoregressive decoder predicts each element of x (B, *shape) from those before, and without x from its own
        most probable elements.
        """
        decoder = self.network("decoder")
        return call(decoder, z, self.condition(y), x if is_autoregressive(decoder) else None)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z) -> mean of p(x|z) (B, *shape)."""
        return self.network("likelihood").mean(self.output(z, y))

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z (n, Z) from the prior."""
        return self.network("prior").draw(noise, self.posterior)

    # Validation

    def latent_statistics(self, s: Step) -> Logs:
        """The KL by dimension where there is one, and moments of q(z|x) over the data."""
        assert s.log_var is not None and s.kl is not None
        mean = s.mean.detach().cpu().double()  # in float32 the variance of means far from 0 would be rounding
        moments = {"mean": mean, "mean_squared": mean**2, "variance": s.log_var.exp(), "log_variance": s.log_var}
        return moments | ({"kl_per_dimension": s.kl} if isinstance(self.prior, priors.Normal) else {})

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        first, second, variance, log_variance = (
            means.pop(name) for name in ("mean", "mean_squared", "variance", "log_variance")
        )
        means.setdefault("kl_per_dimension", information_of_moments(first, second, variance, log_variance))
        return {**super().validation_summary(means), "active_units": float(active_units(first, second).sum())}


def _check_prior(
    prior: priors.Prior, terms: Collection[str], encoder: nn.Module, conditional: bool, tokens: bool
) -> None:
    """Refuse what does not go with a learned prior, or with the pseudo-inputs of a VampPrior.

    Raises:
        UserError: that says what to change.
    """
    if isinstance(prior, priors.Normal):
        return
    if "dkl" in terms:
        raise UserError("term 'dkl' measures against N(0, I), which a learned prior is not: take prior normal, or 'kl'")
    if not {"kl", "capacity", "mmd"} & set(terms):
        raise UserError(f"no term trains the prior, only {', '.join(terms) or 'none'}: add 'kl', or take prior normal")
    if isinstance(prior, priors.Vamp) and conditional:
        raise UserError("prior 'vamp' has pseudo-inputs without classes: take prior normal or mixture")
    if isinstance(prior, priors.Vamp) and tokens:
        raise UserError("prior 'vamp' learns pseudo-inputs, which tokens do not allow: take prior normal or mixture")
    if isinstance(prior, priors.Vamp) and any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules()
    ):
        raise UserError(
            "prior 'vamp' passes its pseudo-inputs through the encoder, whose batch norm would take them for data: "
            "add --model.network_args.norm layer"
        )
