"""Models with latents and a likelihood: bounds of log p(x), and their training, whatever the shape of the posterior.

    ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z))                                     (Kingma 2013, eq. 3)
    L_K(x)  = E log 1/K sum_k w_k,    w_k = p(x|z_k) p(z_k) / q(z_k|x)                 (Burda 2016, eq. 8)
    loss    = -E_q[log p(x|z)] + sum over terms of weight * term                       estimator "elbo"
            = -L_K, p(z) / q(z|x) to the power of the weight of "kl"                   estimators "iwae", "stl", "dreg"

All values are nats per example: summed over dimensions, averaged over the batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder_base import AutoencoderBase
from lightning_gen.names import check_at_least_one, resolve
from lightning_gen.networks.condition import condition_of
from lightning_gen.objectives import likelihoods
from lightning_gen.objectives.estimators import ESTIMATORS, Estimator, apply_dreg_weights
from lightning_gen.objectives.latent import Step, importance_bound
from lightning_gen.training.accepted import of_examples
from lightning_gen.training.noise import indexed_noise
from lightning_gen.training.validation import Batch, Logs, Ratio, perplexity

MAX_NOISE_NUMEL = 2**24  # elements of noise: 64 MiB
MAX_DECODED_NUMEL = (
    2**22
)  # numbers of the decoder's output in one pass, which bounds the memory of the importance bound
SMALLEST = 1024  # as so many numbers an example counts at least, because hidden layers take memory, too


class ImportanceSamples(NamedTuple):
    """K draws of z for each example: z (K, B, Z), log p(x|z) and log p(z) - log q(z|x), each (K, B)."""

    z: Tensor
    log_px: Tensor
    log_ratio: Tensor


class VAEBase(AutoencoderBase):
    """Base class of VAEs: q(z|x), p(z) and p(x|z), of any form.

    Args:
        spec: the data's spec.
        likelihood: a name of ``LIKELIHOODS``, "auto" (by the spec), or an import path.
        scale: of a likelihood that has one: "learned" (one per channel), "pixel" (by the decoder), or a number.
        estimator: "elbo", "iwae", "stl" or "dreg", see objectives/estimators.py.
        k: draws of z for each example, of an estimator other than elbo.
        val_k: importance samples of the likelihood bound in validation.
        **options: of AutoencoderBase (terms, conditional) and GenerativeModule (optimizers, lr, ema, clip, seed ...).
    """

    ratios: ClassVar[Mapping[str, Ratio]] = {"perplexity": Ratio("elbo", "tokens", lambda nats: perplexity(-nats))}
    noise_dim: int  # size of the noise vector of one draw from the posterior
    kl_per_dimension: Tensor  # of the last validation

    def __init__(
        self,
        spec: DataSpec,
        *,
        likelihood: str = "auto",
        scale: float | str | None = None,
        estimator: str = "elbo",
        k: int = 1,
        val_k: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        check_at_least_one(k=k, val_k=val_k)
        self.k, self.val_k = k, val_k
        self.likelihood = likelihoods.build(likelihood, self.spec, scale)
        self.log_scale = sum(math.log(scale) for scale in self.spec.scale)  # of all columns, where standardized
        self.estimator: Estimator | None = resolve(estimator, ESTIMATORS, "estimator")
        if self.estimator is None and k > 1:
            raise UserError(f"estimator 'elbo' draws one z for each example, not k = {k}: take iwae, stl or dreg")
        if self.estimator and (list(self.terms) != ["kl"] or self.terms["kl"].arguments):
            raise UserError(
                f"estimator {estimator!r} takes the weight of the term 'kl' and nothing else, not terms "
                f"{options['terms']}: other terms need the estimator elbo"
            )

    # Abstract methods

    @abstractmethod
    def infer(self, x: Tensor, y: Tensor | None, noise: Tensor) -> Step:
        """x (B, *shape), conditions (B, ...) and noise (B, noise_dim) -> q(z|x) -> z -> p(x|z)."""

    @abstractmethod
    def importance_samples(self, x: Tensor, y: Tensor | None, noise: Tensor) -> ImportanceSamples:
        """The same for K draws of z, noise (K, B, noise_dim)."""

    # Training

    def loss_vae(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        if self.estimator is None:
            return self.weighted_loss(self.per_example_losses(self.step(batch)))
        x = batch["x"]
        noise = self.noise((len(x), self.k, self.noise_dim)).transpose(0, 1)
        draws = self.importance_samples(x, condition_of(batch), noise)
        power = self.weight(self.weights["kl"])
        log_w = torch.add(draws.log_px, draws.log_ratio, alpha=power)
        if self.estimator.doubly_reparameterized:
            apply_dreg_weights(draws.z, log_w, power)
        return -importance_bound(log_w).mean(), {
            "reconstruction": -draws.log_px.mean(),
            "kl": -draws.log_ratio.mean(),
        }

    def step(self, batch: Batch) -> Step:
        """The outputs of one training step."""
        x = batch["x"]
        return self.infer(x, condition_of(batch), self.noise((len(x), self.noise_dim)))

    def per_example_losses(self, s: Step) -> Logs:
        """The reconstruction error -log p(x|z) and each term, (B,) in nats."""
        return {"reconstruction": -self.log_px(s.x, s.out), **self.term_values(s)}

    def log_px(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x|z) (...) in nats of the data's own units, of x (..., *shape) and the decoder's output.

        Of x = mean + scale * u, with u as the network sees it, the density is p(u|z) / prod scale. The difference is a
        constant, so that gradients are those of log p(u|z).
        """
        nats = self.network("likelihood").log_prob(x, out)
        return nats - self.log_scale if self.spec.scale else nats

    # Inference

    @of_examples
    def elbo(self, x: Tensor, y: Tensor | None = None, numbers: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """log p(x|z) for one draw of z, and KL(q(z|x) || p(z)), each (B,) in nats: their difference is the ELBO's draw.

        ``y`` are the conditions that a conditional model needs, ``numbers`` the examples' indices, on which their noise
        depends; 0 to B - 1 by default. Where the KL has no closed form it is that of the same draw.
        """
        noise = indexed_noise(range(len(x)) if numbers is None else numbers, (self.noise_dim,), self.seed, "elbo")
        s = self.infer(x, y, noise.to(x.device))
        assert s.kl is not None
        return self.log_px(x, s.out), s.kl.sum(1)

    @of_examples
    def log_likelihood(
        self, x: Tensor, k: int, y: Tensor | None = None, numbers: list[int] | None = None, power: float = 1.0
    ) -> Tensor:
        """Importance-sampled bound of log p(x) (Burda et al. 2016, eq. 8) from exactly k draws, (B,) in nats.

        Args:
            x: (B, *shape).
            k: number of draws.
            y: (B, ...) conditions, of a conditional model.
            numbers: the examples' indices, on which their noise depends; 0 to B - 1 by default.
            power: exponent of p(z) / q(z|x), 1 for a bound of log p(x).
        """
        numbers = list(range(len(x))) if numbers is None else numbers
        most = max(1, min(MAX_NOISE_NUMEL // (k * self.noise_dim), self._decoded_at_once()))
        parts = []
        for start in range(0, len(x), most):
            here = slice(start, start + most)
            parts.append(self._bound(x[here], k, None if y is None else y[here], numbers[here], power))
        return torch.cat(parts)

    def _bound(self, x: Tensor, k: int, y: Tensor | None, numbers: list[int], power: float) -> Tensor:
        noise = indexed_noise(numbers, (k, self.noise_dim), self.seed, "importance").transpose(0, 1).to(x.device)
        drawn = [self.importance_samples(x, y, part) for part in noise.split(max(1, self._decoded_at_once() // len(x)))]
        return importance_bound(torch.cat([draws.log_px + power * draws.log_ratio for draws in drawn]))

    def _decoded_at_once(self) -> int:
        """Examples in one pass of the decoder."""
        return max(1, MAX_DECODED_NUMEL // max(SMALLEST, math.prod(self.likelihood.params())))

    # Validation

    def validation_values(self, batch: Batch) -> Logs:
        s = self.step(batch)
        assert s.kl is not None
        values = self.per_example_losses(s)
        bound = -self.log_likelihood(s.x, self.val_k, s.y, self.example_indices)
        loss = self.validation_loss(values)
        if self.estimator is not None:
            loss = -self.log_likelihood(s.x, self.k, s.y, self.example_indices, self.weights["kl"].end)
        return {
            "loss": loss,
            **values,
            "elbo": -values["reconstruction"] - s.kl.sum(1),
            f"nll_is{self.val_k}": bound,
            **self.latent_statistics(s),
            **self._tokens(s),
        }

    def _tokens(self, s: Step) -> Logs:
        """The number of tokens of each example, (B,), where the data are tokens."""
        count = math.prod(self.spec.shape)
        return {"tokens": torch.full((len(s.x),), float(count))} if self.spec.values == "tokens" else {}

    def latent_statistics(self, s: Step) -> Logs:
        """Statistics of what the latents carry, (B, J); ``validation_summary`` takes it out of the means."""
        assert s.kl is not None
        return {"kl_per_dimension": s.kl}

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        self.kl_per_dimension.copy_(means.pop("kl_per_dimension"))
        if "capacity" in means:  # the absolute value of a mean is no mean over examples
            signed, means["capacity"] = means["capacity"], means["capacity"].abs()
            means["loss"] = means["loss"] + self.weights["capacity"].end * (means["capacity"] - signed)
        return super().validation_summary(means)
