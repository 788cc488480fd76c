"""Encoders to a map of vectors and decoders from one, for models whose code is a token at each place of the map.

van den Oord et al. 2017, "Neural Discrete Representation Learning", https://arxiv.org/abs/1711.00937, section 4.1:
two 4x4 convolutions of stride 2, then two residual blocks (ReLU, 3x3 convolution, ReLU, 1x1 convolution); the decoder
mirrors it. A vector has no places: there a fully connected network gives L vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.layers import Size, check_positive, check_upsample, upsampling
from lightning_gen.networks.mlp import MLPDecoder, MLPEncoder

HALVINGS = 2  # of the paper: a token for 4x4 pixels
SMALLEST = 4  # places on the shorter side of a map, by default


class Residual(nn.Module):
    """h (B, C, h, w) -> h + 1x1(ReLU(3x3(ReLU(h)))), of the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, width, 1)
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class MapEncoder(nn.Module):
    """x (B, C, H, W) -> (B, D, h, w).

    Args:
        spec: what one example looks like.
        dim: D.
        width: channels of the hidden maps.
        blocks: residual blocks at the size of the map.
        halvings: times that the sides are halved; 0 for two, or one where two would leave less than 4 places.
        upsample: of the decoder; an encoder has no use for it.

    Raises:
        UserError: no images, or too small for so many halvings.
    """

    def __init__(
        self,
        spec: DataSpec,
        dim: int,
        *,
        width: int = 64,
        blocks: int = 2,
        halvings: int = 0,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        check_upsample(upsample)
        sizes = map_sizes(spec, halvings)
        check_positive("width", width)
        self.places: tuple[int, ...] = sizes[-1]
        channels = [spec.shape[0], *[width] * (len(sizes) - 1)]
        down = [[nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU()] for a, b in pairwise(channels)]
        self.body = nn.Sequential(
            *(layer for stage in down for layer in stage),
            nn.Conv2d(width, width, 3, padding=1),
            *(Residual(width) for _ in range(blocks)),
            nn.ReLU(),
            nn.Conv2d(width, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MapDecoder(nn.Module):
    """q (B, D, h, w) -> (B, *params).

    Args:
        spec: what one example looks like.
        dim: D.
        params: (C', H, W), shape of the output.
        width: channels of the hidden maps.
        blocks: residual blocks at the size of the map.
        halvings: as the encoder's.
        upsample: how sides are doubled, transposed or resize, see ``layers.upsampling``.
    """

    def __init__(
        self,
        spec: DataSpec,
        dim: int,
        params: tuple[int, ...],
        *,
        width: int = 64,
        blocks: int = 2,
        halvings: int = 0,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        sizes = map_sizes(spec, halvings)[::-1]
        channels = [*[width] * (len(sizes) - 1), params[0]]
        up: list[nn.Module] = []
        for (a, b), size in zip(pairwise(channels), sizes[1:], strict=True):
            up += [nn.ReLU(), upsampling(upsample, a, b, size=size)]
        self.body = nn.Sequential(nn.Conv2d(dim, width, 3, padding=1), *(Residual(width) for _ in range(blocks)), *up)

    def forward(self, q: Tensor) -> Tensor:
        return self.body(q)


class VQMLPEncoder(nn.Module):
    """x (B, *shape) -> (B, D, L): a fully connected network gives L vectors.

    Args:
        spec: what one example looks like.
        dim: D.
        places: L.
        hidden: widths of the hidden layers.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
    """

    def __init__(
        self, spec: DataSpec, dim: int, *, places: int = 4, hidden: Sequence[int] = (256, 256), activation: str = "relu"
    ) -> None:
        super().__init__()
        check_positive("places", places)
        self.places: tuple[int, ...] = (places,)
        self.body = MLPEncoder(spec, dim * places, hidden=hidden, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).unflatten(1, (-1, *self.places))  # (B, D L) -> (B, D, L)


class VQMLPDecoder(nn.Module):
    """q (B, D, L) -> (B, *params); options as the encoder's.

    Args:
        spec: what one example looks like.
        dim: D.
        params: shape of the output.
        places: L.
        hidden: widths of the encoder's hidden layers, taken in reverse.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
    """

    def __init__(
        self,
        spec: DataSpec,
        dim: int,
        params: tuple[int, ...],
        *,
        places: int = 4,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.body = MLPDecoder(spec, dim * places, params, hidden=hidden, activation=activation)

    def forward(self, q: Tensor) -> Tensor:
        return self.body(q.flatten(1))  # (B, D, L) -> (B, D L)


def map_sizes(spec: DataSpec, halvings: int = 0) -> list[Size]:
    """Sizes from the image's to the map's: 28x28 gives 28, 14, 7, and 8x8 gives 8, 4.

    Args:
        spec: what one example looks like.
        halvings: how many, 0 for two, or one where two would leave a side of less than 4.

    Raises:
        UserError: no images, or a side that cannot be halved so often.
    """
    if len(spec.shape) != 3:
        shape = "x".join(map(str, spec.shape))
        raise UserError(f"a map of codes needs images, not data of shape {shape}: try --model.network mlp")
    sides, shorter = spec.shape[1:], min(spec.shape[1:])
    most = int(math.log2(shorter)) if shorter else 0
    if halvings < 0 or max(halvings, 1) > most:
        raise UserError(
            f"halvings {halvings} of {sides[0]}x{sides[1]} pixels: possible are 1 to {most}, or 0 to choose"
        )
    count = halvings or next((n for n in range(HALVINGS, 1, -1) if shorter // 2**n >= SMALLEST), 1)
    return [(sides[0] // 2**i, sides[1] // 2**i) for i in range(count + 1)]
