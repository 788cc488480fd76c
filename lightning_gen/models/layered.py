"""Several layers of Gaussian latents: their base class, and the layered VAE of Burda et al.

Burda et al. 2016, "Importance Weighted Autoencoders", https://arxiv.org/abs/1509.00519

    q(z|x) = q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1})         bottom-up, section 4
    p(x,z) = p(z_L) p(z_{L-1}|z_L) ... p(z_1|z_2) p(x|z_1)  top-down
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder_base import GaussianPosteriorMixin, split_gaussian_params
from lightning_gen.models.vae_base import ImportanceSamples, VAEBase
from lightning_gen.names import check_at_least_one
from lightning_gen.networks.condition import is_autoregressive
from lightning_gen.objectives.latent import Step, gaussian_log_density, kl_gaussians, reparameterise
from lightning_gen.objectives.terms import HIERARCHICAL_TERMS


class LatentLayer(NamedTuple):
    """One layer: draws z from q = N(mean, exp(log_var)), and p given the layers above, each (K, B, Z).

    Args:
        z: the draws.
        q: mean and log-variance.
        p: mean and log-variance.
        closed: whether the KL may be taken in closed form: what p is given must not have been drawn given z.
    """

    z: Tensor
    q: tuple[Tensor, Tensor]
    p: tuple[Tensor, Tensor]
    closed: bool = True

    def log_ratio(self) -> Tensor:
        """log p(z) - log q(z) at the draws, (K, B) nats."""
        return gaussian_log_density(self.z, *self.p) - gaussian_log_density(self.z, *self.q)

    def kl(self) -> Tensor:
        """KL(q || p), or where it is not closed its estimate from the draws, (K, B) nats."""
        return kl_gaussians(*self.q, *self.p).sum(-1) if self.closed else -self.log_ratio()


class HierarchicalVAEBase(VAEBase):
    """A model whose posterior and prior are Gaussian in each layer, given other layers."""

    players: ClassVar[dict[str, tuple[str, ...]]]
    known_terms = HIERARCHICAL_TERMS

    def __init__(self, spec: DataSpec, *, estimator: str = "elbo", conditional: bool = False, **options: Any) -> None:
        super().__init__(spec, estimator=estimator, conditional=conditional, **options)
        if conditional:
            raise UserError(f"{type(self).__name__} takes no classes: take a VAE, --model cvae")
        if self.estimator and self.estimator.detach_posterior_params:
            raise UserError(f"estimator {estimator!r} needs a single layer of latents: take elbo or iwae")

    @abstractmethod
    def latent_layers(self, x: Tensor, noise: Tensor) -> tuple[Tensor, list[LatentLayer]]:
        """x (B, *shape) and noise (K, B, noise_dim) -> the decoder's output (K, B, *params), and all layers."""

    def infer(self, x: Tensor, y: Tensor | None, noise: Tensor) -> Step:
        """One draw of all layers; ``kl`` has a column for each, given the draws of the others."""
        out, levels = self.latent_layers(x, noise.unsqueeze(0))
        kl = torch.stack([level.kl()[0] for level in levels], 1)  # (B, L)
        z, mean = (torch.cat(parts, -1)[0] for parts in ([v.z for v in levels], [v.q[0] for v in levels]))
        return Step(x, y, out[0], z, mean, kl=kl, size=self.spec.size)

    def importance_samples(self, x: Tensor, y: Tensor | None, noise: Tensor) -> ImportanceSamples:
        """K draws of all layers."""
        out, levels = self.latent_layers(x, noise)
        z = torch.cat([level.z for level in levels], -1)
        log_ratio = torch.stack([level.log_ratio() for level in levels]).sum(0)
        return ImportanceSamples(z, self.log_px(x, out), log_ratio)


class LayeredVAE(GaussianPosteriorMixin, HierarchicalVAEBase):
    """Burda's model with L layers of latents.

    Args:
        spec: the data's spec.
        latent_dims: sizes of the layers, the lowest first.
        network: between x and the lowest layer: "mlp", "dcgan", "auto", or an import path.
        network_args: options of that network.
        layer_args: options of the fully connected networks between the layers.
        terms: {"kl": weight}, or capacity.
        **options: of VAEBase: likelihood, scale, estimator, k, val_k; of GenerativeModule.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "vae": ("encoder", "upwards", "downwards", "decoder", "likelihood")
    }

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dims: Sequence[int] = (40, 20),
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        layer_args: dict[str, Any] | None = None,
        terms: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, terms={"kl": 1.0} if terms is None else terms, **options)
        check_at_least_one(
            latent_dims=len(latent_dims), **{f"latent_dims[{i}]": size for i, size in enumerate(latent_dims)}
        )
        self.sizes = list(latent_dims)
        self.noise_dim = sum(self.sizes)
        self.draw_dim = self.noise_dim
        args, between = network_args or {}, layer_args or {}
        self.encoder = networks.encoder(network, self.spec, 2 * self.sizes[0], **args)
        self.decoder = networks.decoder(network, self.spec, self.sizes[0], self.likelihood.params(), **args)
        if is_autoregressive(self.decoder):
            raise UserError(
                f"network {network!r}: LayeredVAE takes no autoregressive decoders: take a VAE, --model vae"
            )
        pairs = list(pairwise(self.sizes))
        self.upwards = nn.ModuleList(networks.encoder("mlp", _vector(a), 2 * b, **between) for a, b in pairs)
        self.downwards = nn.ModuleList(networks.decoder("mlp", _vector(b), b, (2 * a,), **between) for a, b in pairs)
        self.register_buffer("kl_per_dimension", torch.zeros(len(self.sizes)))  # by layer, of the last validation

    def latent_layers(self, x: Tensor, noise: Tensor) -> tuple[Tensor, list[LatentLayer]]:
        """Bottom-up through q, then p of each layer given the one above."""
        parts = noise.split(self.sizes, -1)
        q = [self.posterior(x)]  # (B, Z_1), which broadcasts over the K draws
        z = [reparameterise(*q[0], parts[0])]
        for network, part in zip(self.network("upwards"), parts[1:], strict=True):
            q.append(split_gaussian_params(_each(network, z[-1])))
            z.append(reparameterise(*q[-1], part))
        p = [
            split_gaussian_params(_each(network, above))
            for network, above in zip(self.network("downwards"), z[1:], strict=True)
        ]
        p.append((torch.zeros_like(z[-1]), torch.zeros_like(z[-1])))
        q[0] = (q[0][0].expand_as(z[0]), q[0][1].expand_as(z[0]))
        levels = [LatentLayer(*level, closed=False) for level in zip(z, q, p, strict=True)]  # z_2 was drawn given z_1
        levels[-1] = levels[-1]._replace(closed=True)
        return _each(self.network("decoder"), z[0]), levels

    # Inference: its code is the lowest layer

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z_1 (B, Z_1) -> mean of p(x|z_1) (B, *shape)."""
        return self.network("likelihood").mean(self.network("decoder")(z))

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z_1 (n, Z_1), from the top downwards."""
        parts = noise.split(self.sizes, -1)
        z = parts[-1]
        for network, part in zip(reversed(self.network("downwards")), reversed(parts[:-1]), strict=True):
            z = reparameterise(*split_gaussian_params(network(z)), part)
        return z


def _vector(size: int) -> DataSpec:
    return DataSpec(shape=(size,), kind="vector", values="real")


def _each(network: nn.Module, z: Tensor) -> Tensor:
    """A network of (N, Z) on (K, B, Z)."""
    return network(z.flatten(0, 1)).unflatten(0, z.shape[:2])
