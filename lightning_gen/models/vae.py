"""Variational autoencoders.

Kingma and Welling 2013, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114
Higgins et al. 2017, "beta-VAE", https://openreview.net/forum?id=Sy2fzU9gl

    q(z|x) = N(z; mu(x), diag sigma^2(x))       p(z) = N(0, I)       p(x|z) = likelihood(x; decoder(z))
    ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z))                                        (Kingma 2013, eq. 3)
    loss    = -E_q[log p(x|z)] + sum over terms of weight * term,     terms = {"kl": 1} gives the ELBO

All values are nats per example: summed over dimensions, averaged over the batch.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from lightning_gen import networks
from lightning_gen.module import GenerativeModule
from lightning_gen.names import at_least_one
from lightning_gen.noise import numbered
from lightning_gen.objectives import likelihood as likelihoods
from lightning_gen.objectives.latent import (
    TERMS,
    Step,
    active_units,
    gaussian_log_density,
    importance_bound,
    kl_normal,
    reparameterise,
)
from lightning_gen.objectives.terms import parse_terms
from lightning_gen.schedule import schedule
from lightning_gen.validation import Batch, Logs

DRAWN_AT_ONCE = 2**24  # numbers of noise: 64 MiB
DECODED_AT_ONCE = 4096  # examples in one pass of the decoder, which bounds the memory of the importance bound


class VAE(GenerativeModule):
    """A variational autoencoder; the variants of this family are its terms (see presets.py).

    Args:
        spec: the data's spec.
        latent_dim: number Z of latent dimensions.
        network: "mlp", "dcgan", "auto" (by the spec), or an import path of your own.
        network_args: options of the network, for example {"hidden": [400, 400], "dropout": 0.1}.
        likelihood: "bernoulli", "gaussian", "laplace", "discretized_logistic", "auto" (by the spec), or an import path.
        scale: of a likelihood that has one: "learned" (one per channel), "pixel" (by the decoder), or a number.
        terms: term -> weight, ramp, or {weight, **arguments}: {"kl": 1} is the ELBO, {"kl": 4} a beta-VAE.
        val_k: importance samples of the likelihood bound in validation.
        **options: of GenerativeModule: optimizers, lr, ema, clip, accumulate, log_every, seed.
    """

    kl_per_dimension: Tensor
    players: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("encoder", "decoder", "likelihood")}

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
        val_k: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        at_least_one(latent_dim=latent_dim, val_k=val_k)
        self.latent_dim, self.val_k = latent_dim, val_k
        network_args = network_args or {}
        self.likelihood = likelihoods.build(likelihood, self.spec, scale)
        self.encoder = networks.encoder(network, self.spec, 2 * latent_dim, **network_args)
        self.decoder = networks.decoder(network, self.spec, latent_dim, self.likelihood.params(), **network_args)
        self.register_buffer("kl_per_dimension", torch.zeros(latent_dim))  # of the last validation
        self.terms = parse_terms({"kl": 1.0} if terms is None else terms, TERMS)
        self.weights = {name: schedule(term.weight) for name, term in self.terms.items()}
        self.schedules |= {f"terms.{name}": weight for name, weight in self.weights.items()}

    def loss_vae(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        values = self.values(self.step(batch))
        means = {name: value.mean() for name, value in values.items()}
        loss = means["reconstruction"]
        for name, weight in self.weights.items():
            loss = torch.add(loss, means[name], alpha=self.weight(weight))
        return loss, means

    def step(self, batch: Batch) -> Step:
        """x -> q(z|x) -> z -> p(x|z), with one sample of z."""
        x = batch["x"]
        mean, log_var = self.posterior(x)
        z = reparameterise(mean, log_var, self.noise(tuple(mean.shape)))
        return Step(x=x, y=batch.get("y"), out=self.network("decoder")(z), z=z, mean=mean, log_var=log_var)

    def values(self, s: Step) -> Logs:
        """The reconstruction error -log p(x|z) and each term, (B,) in nats."""
        likelihood = self.network("likelihood")
        terms = {name: term.term(s, **term.arguments) for name, term in self.terms.items()}
        return {"reconstruction": -likelihood.log_prob(s.x, s.out), **terms}

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, *shape) -> mean (B, Z) and log-variance (B, Z) of q(z|x)."""
        mean, log_var = self.network("encoder")(x).float().chunk(2, dim=1)  # nats in float32 under autocast too
        return mean, log_var

    # What it can do

    def encode(self, x: Tensor) -> Tensor:
        """x (B, *shape) -> posterior mean (B, Z)."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """z (B, Z) -> mean of p(x|z) (B, *shape)."""
        return self.network("likelihood").mean(self.network("decoder")(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """x (B, *shape) -> (B, *shape) through the posterior mean."""
        return self.decode(self.encode(x))

    forward = reconstruct

    def sample(self, n: int, y: Tensor | None = None, seed: int = 0, start: int = 0) -> Tensor:
        """n means of p(x|z) (n, *shape) for z from the prior; number k of a seed is the same for any n and start."""
        z = numbered(range(start, start + n), (self.latent_dim,), seed, "sample")
        return self.decode(z.to(self.device))

    def elbo(self, x: Tensor, numbers: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """log p(x|z) for one draw of z, and KL(q(z|x) || p(z)), each (B,) in nats: their difference is the ELBO's draw.

        ``numbers`` are the examples' numbers, on which their noise depends; 0 to B - 1 by default.
        """
        mean, log_var = self.posterior(x)
        noise = numbered(range(len(x)) if numbers is None else numbers, (self.latent_dim,), self.seed, "elbo")
        z = reparameterise(mean, log_var, noise.to(x.device))
        out = self.network("decoder")(z)
        return self.network("likelihood").log_prob(x, out), kl_normal(mean, log_var).sum(1)

    def log_likelihood(self, x: Tensor, k: int, numbers: list[int] | None = None) -> Tensor:
        """Importance-sampled bound of log p(x) (Burda et al. 2016, eq. 8) from exactly k samples, (B,) in nats.

        ``numbers`` are the examples' numbers, on which their noise depends; 0 to B - 1 by default.
        """
        numbers = list(range(len(x))) if numbers is None else numbers
        most = max(1, DRAWN_AT_ONCE // (k * self.latent_dim))
        if len(x) > most:
            parts = zip(x.split(most), range(0, len(x), most), strict=True)
            return torch.cat([self.log_likelihood(part, k, numbers[start : start + most]) for part, start in parts])
        mean, log_var = self.posterior(x)
        noise = numbered(numbers, (k, self.latent_dim), self.seed, "importance")
        draws = noise.to(x.device).split(max(1, DECODED_AT_ONCE // len(x)), dim=1)
        return importance_bound(torch.cat([self._log_weights(x, mean, log_var, part) for part in draws]))

    def _log_weights(self, x: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x) for noise (B, K, Z) -> (K, B)."""
        noise = noise.transpose(0, 1)  # (K, B, Z)
        z = reparameterise(mean, log_var, noise)
        out = self.network("decoder")(z.flatten(0, 1)).unflatten(0, z.shape[:2])  # (K, B, *params)
        zeros = torch.zeros_like(z)
        prior, posterior = gaussian_log_density(z, zeros, zeros), gaussian_log_density(z, mean, log_var)
        return self.network("likelihood").log_prob(x, out) + prior - posterior

    # Validation

    def validation_values(self, batch: Batch) -> Logs:
        s = self.step(batch)
        values = self.values(s)
        kl = kl_normal(s.mean, s.log_var)  # (B, Z)
        return {
            "loss": values["reconstruction"] + sum(w.end * values[name] for name, w in self.weights.items()),
            **values,
            "elbo": -values["reconstruction"] - kl.sum(1),
            f"nll_is{self.val_k}": -self.log_likelihood(s.x, self.val_k, self.numbers),
            "kl_per_dimension": kl,
            "mean": s.mean,
            "mean_squared": s.mean**2,
        }

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        active = active_units(means.pop("mean"), means.pop("mean_squared"))  # (Z,)
        self.kl_per_dimension.copy_(means.pop("kl_per_dimension"))
        return {**super().validation_summary(means), "active_units": float(active.sum())}
