"""A hierarchical VAE: groups of convolutional latents at several resolutions, inferred from the top downwards.

Sønderby et al. 2016, "Ladder Variational Autoencoders", https://arxiv.org/abs/1602.02282
Child 2021, "Very Deep VAEs", https://arxiv.org/abs/2011.10650

    p(x, z) = p(z_1) p(z_2|z_1) ... p(z_L|z_<L) p(x|z)          z_1 at the smallest resolution, z_L at the finest
    q(z|x)  = q(z_1|x) q(z_2|z_1, x) ... q(z_L|z_<L, x)         (Child 2021, section 2)

Both walk down the same path; q also sees features of x at the resolution of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.layered import HierarchicalVAEBase, LatentLayer
from lightning_gen.names import check_at_least_one
from lightning_gen.networks.dcgan import LARGEST, SMALLEST, downsampled_sizes, fits
from lightning_gen.networks.topdown import BottomUp, Gaussian, TopDown
from lightning_gen.training.accepted import of_examples


class HierarchicalVAE(HierarchicalVAEBase):
    """A top-down VAE for images of 8 to 256 pixels.

    Its resolutions are the image's and its halvings down to a shorter side of 4 to 7: 28, 14, 7. What ``sample`` passes
    down the path is the noise of all groups, and ``kl`` has one column for each group, the smallest resolution first.

    Args:
        spec: the data's spec.
        blocks: number of groups of latents at each resolution, the smallest first; with fewer entries than resolutions
            the finest ones have no latents.
        width: channels of the maps.
        latent_channels: channels of each group.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
        upsample: how the way down doubles the sides, transposed or resize, see ``layers.upsampling``.
        terms: {"kl": weight or {"weight": weight, "free_bits": nats for each group}}, or capacity.
        **options: of VAEBase: likelihood, scale, estimator (elbo or iwae), k, val_k; of GenerativeModule.

    Raises:
        UserError: the data are not images of a supported size; impossible blocks.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("bottom_up", "top_down", "likelihood")}

    def __init__(
        self,
        spec: DataSpec,
        *,
        blocks: Sequence[int] = (2, 1),
        width: int = 32,
        latent_channels: int = 4,
        activation: str = "silu",
        upsample: str = "transposed",
        terms: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, terms={"kl": 1.0} if terms is None else terms, **options)
        check_at_least_one(width=width, latent_channels=latent_channels)
        sizes = resolutions(self.spec)
        check_blocks(blocks, sizes)
        self.bottom_up = BottomUp(self.spec.shape[0], sizes, blocks, width, activation)
        out = self.likelihood.params()[0]
        self.top_down = TopDown(sizes, blocks, width, latent_channels, out, activation, upsample)
        self.noise_dim = self.draw_dim = sum(self.top_down.dims)
        groups = len(self.top_down.dims)
        self.register_buffer("kl_per_dimension", torch.zeros(groups))  # by group, of the last validation

    def latent_layers(self, x: Tensor, noise: Tensor) -> tuple[Tensor, list[LatentLayer]]:
        """Once upwards for each x, then down for each of its K draws."""
        count = noise.shape[:2]
        features = [f.expand(count[0], *f.shape).flatten(0, 1) for f in self.network("bottom_up")(x)]  # (K B, C, h, w)
        out, groups = self.network("top_down")(noise.flatten(0, 1), features)

        def split(value: Tensor) -> Tensor:
            return value.flatten(1).unflatten(0, count)  # (K B, c, h, w) -> (K, B, Z_l)

        def both(gaussian: Gaussian) -> Gaussian:
            return split(gaussian[0]), split(gaussian[1])

        return out.unflatten(0, count), [LatentLayer(split(g.z), both(g.q), both(g.p)) for g in groups]

    # Inference: no encode, because noise passes through p in decode, and q's latents would not

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Standard normal noise of all groups (B, noise_dim) -> latents from p -> mean of p(x|z) (B, *shape)."""
        return self.network("likelihood").mean(self.network("top_down")(z)[0])

    @of_examples
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) -> (B, *shape) through the mean of q in each group, given the means above."""
        out, _ = self.latent_layers(x, x.new_zeros(1, len(x), self.noise_dim))
        return self.network("likelihood").mean(out[0])

    forward = reconstruct


def resolutions(spec: DataSpec) -> list[tuple[int, int]]:
    """Sizes of the maps, the smallest first: 28x28 gives 7, 14, 28.

    Raises:
        UserError: for what is no image of 8 to 256 pixels.
    """
    if not fits(spec):
        raise UserError(
            f"a hierarchical VAE takes images with sides of {SMALLEST} to {LARGEST} pixels, not data of shape "
            f"{'x'.join(map(str, spec.shape))}: resize images with --data.size, or try --model vae"
        )
    return downsampled_sizes(spec)[::-1]


def check_blocks(blocks: Sequence[int], sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse numbers of groups that these resolutions cannot have.

    Raises:
        UserError: that says which are possible.
    """
    numbers = list(blocks) if isinstance(blocks, Sequence) and not isinstance(blocks, str) else []
    if not 1 <= len(numbers) <= len(sizes) or not all(type(n) is int and n >= 1 for n in numbers):
        known = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise UserError(
            f"blocks {blocks!r}: give 1 to {len(sizes)} numbers of at least 1, of groups of latents at the resolutions "
            f"{known}, such as {[1] * len(sizes)}"
        )
