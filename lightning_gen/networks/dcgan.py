"""Strided convolutions in the manner of DCGAN (Radford et al. 2016), for images of 8 to 256 pixels, square or not."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.layers import Condition, LayerName, initialise, norm_act_block, stage_channels

SMALLEST, LARGEST = 8, 256


class DCGANEncoder(nn.Module):
    """x (B, C, H, W) -> (B, out): 4x4 convolutions of stride 2 until the shorter side is 4 to 7, then one linear layer.

    Args:
        spec: what one example looks like.
        out: number of outputs.
        width: channels of the first layer; each further layer has twice as many, up to 8 * width.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
        norm: none, batch or layer; the first layer has none.
        dropout: probability of dropping an element of a map, 0 <= dropout < 1.
        extra: 3x3 convolutions at the smallest map, which give a small image some depth.
        num_classes: number of classes of the condition, 0 for none; it joins the image, one map for each class.
    """

    def __init__(
        self,
        spec: DataSpec,
        out: int,
        *,
        width: int = 32,
        activation: LayerName = "leaky_relu",
        norm: LayerName = "batch",
        dropout: float = 0.0,
        extra: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        sizes = downsampled_sizes(spec)
        channels = [spec.shape[0] + num_classes, *stage_channels(width, len(sizes) - 1, max_multiplier=8)]
        layers = []
        for i, (a, b) in enumerate(pairwise(channels)):
            here = norm if i > 0 else "none"
            down = nn.Conv2d(a, b, 4, stride=2, padding=1, bias=here != "batch")
            layers.append(norm_act_block(down, b, activation=activation, norm=here, dropout=dropout, dims=2))
        layers += [
            norm_act_block(
                _same(channels[-1], norm), channels[-1], activation=activation, norm=norm, dropout=dropout, dims=2
            )
            for _ in range(extra)
        ]
        self.condition = Condition(num_classes)
        self.body = nn.Sequential(*layers)
        self.num_features = channels[-1] * math.prod(sizes[-1])
        self.head = nn.Linear(self.num_features, out)
        initialise(self, norm)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, num_features), what the last layer sees."""
        return self.body(self.condition(x, c)).flatten(1)  # (B, C', h, w) -> (B, C' h w)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, c))


class DCGANDecoder(nn.Module):
    """z (B, Z) -> (B, *params): the encoder's mirror, one linear layer and transposed convolutions back to H x W.

    Args:
        spec: what one example looks like.
        latent_dim: Z.
        params: (C', H, W), shape of the output, as the likelihood wants it.
        width: channels of the last hidden layer; the ones before have twice as many each, up to 8 * width.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
        norm: none, batch or layer; the last layer has none.
        dropout: probability of dropping an element of a map, 0 <= dropout < 1.
        extra: 3x3 convolutions at the smallest map.
        num_classes: number of classes of the condition, 0 for none; it joins z.
    """

    def __init__(
        self,
        spec: DataSpec,
        latent_dim: int,
        params: tuple[int, ...],
        *,
        width: int = 32,
        activation: LayerName = "leaky_relu",
        norm: LayerName = "batch",
        dropout: float = 0.0,
        extra: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        sizes = downsampled_sizes(spec)[::-1]
        channels = stage_channels(width, len(sizes) - 1, max_multiplier=8)[::-1]
        start = (channels[0], *sizes[0])
        self.condition = Condition(num_classes)
        project = nn.Linear(latent_dim + num_classes, math.prod(start))
        layers: list[nn.Module] = [nn.Sequential(project, nn.Unflatten(1, start))]  # (B, Z) -> (B, C', h, w)
        layers += [_same(channels[0], norm) for _ in range(extra)]
        for (a, b), size in zip(pairwise(channels), sizes[1:-1], strict=True):
            layers.append(_up(a, b, size, bias=norm != "batch"))
        layers = [
            norm_act_block(layer, c, activation=activation, norm=norm, dropout=dropout, dims=2)
            for layer, c in zip(layers, [*[channels[0]] * extra, *channels], strict=True)
        ]
        self.body = nn.Sequential(*layers, _up(channels[-1], params[0], sizes[-1], bias=True))
        initialise(self, norm)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.body(self.condition(z, c))


def _same(channels: int, norm: LayerName) -> nn.Module:
    """(B, C, h, w) -> (B, C, h, w)."""
    return nn.Conv2d(channels, channels, 3, padding=1, bias=norm != "batch")


def downsampled_sizes(spec: DataSpec, network: str = "dcgan") -> list[tuple[int, int]]:
    """Sizes from the image's down to the one whose shorter side is 4 to 7: 28x28 gives 28, 14, 7.

    Args:
        spec: what one example looks like.
        network: who asks, for the error's text.

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


def _up(a: int, b: int, size: tuple[int, int], bias: bool) -> nn.Module:
    """(B, a, H // 2, W // 2) -> (B, b, H, W): an odd side needs one more row, which output_padding gives."""
    odd = (size[0] % 2, size[1] % 2)
    return nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, output_padding=odd, bias=bias)
