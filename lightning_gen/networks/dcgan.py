"""Strided convolutions in the manner of DCGAN (Radford et al. 2016), for images of 8 to 256 pixels, square or not."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.condition import Condition, ConditionSpec
from lightning_gen.networks.layers import (
    LayerName,
    Size,
    check_upsample,
    initialise,
    norm_act_block,
    stage_channels,
    upsampling,
)

SMALLEST, LARGEST = 8, 256


class DCGAN(nn.Module, ABC):
    """Base class of encoder and decoder: their options, the condition, the sizes of the maps and the initial weights.

    Args:
        spec: what one example looks like.
        ends: the sizes of the side: ``out`` of the encoder, ``latent_dim, params`` of the decoder.
        width: channels at half of the image's sides; at each further halving twice as many, up to 8 * width.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
        norm: none, batch or layer; the layer next to the image has none.
        dropout: probability of dropping an element of a map, 0 <= dropout < 1.
        extra: 3x3 convolutions at the smallest map, which give a small image some depth.
        upsample: of the decoder, transposed or resize, see ``layers.upsampling``; an encoder has no use for it.
        condition: of the network, see condition.py; None for nothing. It joins the encoder's image, as maps,
            and the decoder's z.
    """

    def __init__(
        self,
        spec: DataSpec,
        *ends: Any,
        width: int = 32,
        activation: LayerName = "leaky_relu",
        norm: LayerName = "batch",
        dropout: float = 0.0,
        extra: int = 0,
        upsample: str = "transposed",
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        check_upsample(upsample)
        self.norm, self.extra, self.upsample = norm, extra, upsample
        self.condition = Condition(condition)
        self._after = partial(norm_act_block, activation=activation, dropout=dropout, dims=2)
        sizes = downsampled_sizes(spec)
        self._build(sizes, [spec.shape[0], *stage_channels(width, len(sizes) - 1, max_multiplier=8)], *ends)
        initialise(self, norm)

    @abstractmethod
    def _build(self, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        """Make the layers, of these sizes and numbers of channels of the maps, the image's first."""

    def _same(self, channels: int) -> nn.Module:
        """(B, C, h, w) -> (B, C, h, w)."""
        return nn.Conv2d(channels, channels, 3, padding=1, bias=self.norm != "batch")


class DCGANEncoder(DCGAN):
    """x (B, C, H, W) -> (B, out): 4x4 convolutions of stride 2 until the shorter side is 4 to 7, then one linear layer.

    The options are those of ``DCGAN``.
    """

    def _build(self, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        (out,) = ends
        layers, last = [], channels[-1]
        for i, (a, b) in enumerate(pairwise([channels[0] + self.condition.dim, *channels[1:]])):
            here = self.norm if i > 0 else "none"
            layers.append(self._after(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=here != "batch"), b, norm=here))
        layers += [self._after(self._same(last), last, norm=self.norm) for _ in range(self.extra)]
        self.body = nn.Sequential(*layers)
        self.num_features = last * math.prod(sizes[-1])
        self.head = nn.Linear(self.num_features, out)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, num_features), the input of the last layer."""
        return self.body(self.condition.concat(x, c)).flatten(1)  # (B, C', h, w) -> (B, C' h w)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, c))


class DCGANDecoder(DCGAN):
    """z (B, Z) -> (B, *params): the encoder's mirror, one linear layer and a doubling for each halving, to H x W.

    The options are those of ``DCGAN``; params are (C', H, W), as given by the likelihood.
    """

    def _build(self, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        latent_dim, params = ends
        sizes, channels = sizes[::-1], channels[:0:-1]
        start = (channels[0], *sizes[0])
        project = nn.Linear(latent_dim + self.condition.dim, math.prod(start))
        layers: list[nn.Module] = [nn.Sequential(project, nn.Unflatten(1, start))]  # (B, Z) -> (B, C', h, w)
        layers += [self._same(channels[0]) for _ in range(self.extra)]
        for (a, b), size in zip(pairwise(channels), sizes[1:-1], strict=True):
            layers.append(upsampling(self.upsample, a, b, size=size, bias=self.norm != "batch"))
        layers = [
            self._after(layer, c, norm=self.norm)
            for layer, c in zip(layers, [*[channels[0]] * self.extra, *channels], strict=True)
        ]
        self.body = nn.Sequential(*layers, upsampling(self.upsample, channels[-1], params[0], size=sizes[-1]))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.body(self.condition.concat(z, c))


def downsampled_sizes(spec: DataSpec, network: str = "dcgan") -> list[tuple[int, int]]:
    """Sizes from the image's down to the one whose shorter side is 4 to 7: 28x28 gives 28, 14, 7.

    Args:
        spec: what one example looks like.
        network: its name, for the error's text.

    Raises:
        UserError: for what is no image of 8 to 256 pixels.
    """
    if not fits(spec):
        given = "x".join(map(str, spec.shape[1:] if len(spec.shape) == 3 else spec.shape))
        raise UserError(
            f"network {network!r} takes images with sides of {SMALLEST} to {LARGEST} pixels, not {given}: "
            f"resize them with --data.size, or try --model.network mlp"
        )
    _, height, width = spec.shape
    sizes = [(height, width)]
    while min(sizes[-1]) >= SMALLEST:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def fits(spec: DataSpec) -> bool:
    """Whether these are images of a possible size."""
    return len(spec.shape) == 3 and all(SMALLEST <= side <= LARGEST for side in spec.shape[1:])
