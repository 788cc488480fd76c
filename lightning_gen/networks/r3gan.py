"""Residual networks without normalisation, for images of 8 to 256 pixels, square or not.

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN", https://arxiv.org/abs/2501.05441,
section 4, configuration E

Blocks begin as in Fixup (Zhang et al. 2019, https://arxiv.org/abs/1901.09321, section 3): of the m = 3 convolutions in
a branch the last is 0, so that each block begins as the identity, and the others are He's times L^(-1 / (2m - 2)), L
being the number of blocks, so that a step changes the output by as much at any depth.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.condition import Condition, ConditionSpec, modules_of
from lightning_gen.networks.dcgan import SMALLEST, downsampled_sizes
from lightning_gen.networks.layers import Size, check_positive, stage_channels

SLOPE = 0.2  # of the leaky ReLU below 0
LAYERS = 3  # m, convolutions in a branch


class R3GAN(nn.Module, ABC):
    """Base class of encoder and decoder: their options, the condition, the sizes of the maps and the initial weights.

    Args:
        spec: what one example looks like.
        ends: the sizes of the side: ``out`` of the encoder, ``latent_dim, params`` of the decoder.
        width: channels at the image's size; at half of it twice, at all smaller ones four times as many.
        blocks: residual blocks at each size.
        expansion: channels inside a block for each one outside.
        group_size: channels in a group of the 3x3 convolutions; it must divide ``width * expansion``.
        patch: side of the squares of pixels that make up a position of the first map; 2 is about four times as fast;
            0 is 2 where the sides are even and at least 16, else 1.
        condition: of the network, see condition.py; None for nothing. It joins the encoder's image, as maps,
            and in the decoder the linear function embeds it beside z.
    """

    def __init__(
        self,
        spec: DataSpec,
        *ends: Any,
        width: int = 32,
        blocks: int = 1,
        expansion: int = 2,
        group_size: int = 16,
        patch: int = 1,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        sizes, self.patch = _sizes(spec, patch)
        channels = [spec.shape[0], *stage_channels(width, len(sizes), max_multiplier=4)]
        self.condition = Condition(condition)
        self._stage = partial(_stage, blocks=blocks, expansion=expansion, group_size=group_size)
        self._build(sizes, channels, *ends)
        _initialise(self)

    @abstractmethod
    def _build(self, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        """Make the layers, of these sizes of the maps, and of the channels of the image and of the maps."""


class R3GANEncoder(R3GAN):
    """x (B, C, H, W) -> (B, out): a 1x1 convolution, blocks at each size, one weight per position, a linear layer.

    The options are those of ``R3GAN``.
    """

    def _build(self, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        (out,) = ends
        seen, *channels = channels
        first = nn.Conv2d(seen + self.condition.dim, channels[0], self.patch, stride=self.patch, bias=False)
        layers: list[nn.Module] = [first]
        for (a, b), size in zip(pairwise(channels), sizes[1:], strict=True):
            layers += [*self._stage(a), Resample(a, b, size)]
        layers += self._stage(channels[-1])
        last = nn.Conv2d(channels[-1], channels[-1], sizes[-1], groups=channels[-1], bias=False)
        self.body = nn.Sequential(*layers, last, nn.Flatten())
        self.num_features = channels[-1]
        self.head = nn.Linear(self.num_features, out)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, num_features), the input of the last layer."""
        return self.body(self.condition.concat(x, c))  # (B, C', 1, 1) -> (B, C')

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, c))


class R3GANDecoder(R3GAN):
    """z (B, Z) -> (B, *params): a learned map scaled by a linear function of z, blocks at each size, a 1x1 convolution.

    The options are those of ``R3GAN``; params are (C', H, W), as given by the likelihood.
    """

    def _build(self, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        latent_dim, params = ends
        sizes, channels = sizes[::-1], channels[:0:-1]
        self.basis = nn.Parameter(torch.randn(channels[0], *sizes[0]))
        self.scale = nn.Linear(latent_dim + self.condition.dim, channels[0], bias=False)
        layers = self._stage(channels[0])
        for (a, b), size in zip(pairwise(channels), sizes[1:], strict=True):
            layers += [Resample(a, b, size), *self._stage(b)]
        last = nn.Conv2d(channels[-1], params[0] * self.patch**2, 1)
        self.body = nn.Sequential(*layers, last, nn.PixelShuffle(self.patch))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        scale = self.scale(self.condition.concat(z, c))  # (B, Z) -> (B, C')
        return self.body(self.basis * scale[:, :, None, None])  # (B, C', h, w) -> (B, *params)


class Block(nn.Module):
    """h (B, C, h, w) -> h + branch(h): 1x1 to ``inner`` channels, 3x3 in groups, 1x1 back, leaky ReLUs in between."""

    def __init__(self, channels: int, inner: int, groups: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(inner, inner, 3, padding=1, groups=groups),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(inner, channels, 1, bias=False),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class Resample(nn.Module):
    """h (B, a, h, w) -> (B, b, *size): bilinear interpolation, and a 1x1 convolution at the smaller size.

    Downwards this is the mean of 2x2 positions; from an odd side some of these overlap, so that none is left out.
    """

    def __init__(self, a: int, b: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.project = nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        if h.shape[3] > self.size[1]:
            return self.project(F.adaptive_avg_pool2d(h, self.size))
        return F.interpolate(self.project(h), self.size, mode="bilinear", align_corners=False)


def _sizes(spec: DataSpec, patch: int) -> tuple[list[Size], int]:
    """Sizes of the maps, the largest first, and the patch."""
    sizes = downsampled_sizes(spec, "r3gan")
    channels, *sides = spec.shape
    patch = patch or (2 if all(side % 2 == 0 and side >= 2 * SMALLEST for side in sides) else 1)
    if patch == 1:
        return sizes, 1
    check_positive("patch", patch)
    if any(side % patch or side // patch < SMALLEST for side in sides):
        raise UserError(
            f"patch {patch} for images of {'x'.join(map(str, sides))}: it must divide both sides into at least "
            f"{SMALLEST} parts; 1 is always possible"
        )
    return downsampled_sizes(spec._replace(shape=(channels, *(side // patch for side in sides))), "r3gan"), patch


def _stage(channels: int, blocks: int, expansion: int, group_size: int) -> list[nn.Module]:
    """The residual blocks at one size."""
    for name, value in (("blocks", blocks), ("expansion", expansion), ("group_size", group_size)):
        check_positive(name, value)
    inner = channels * expansion
    if inner % group_size:
        raise UserError(
            f"group_size {group_size} does not divide the {inner} channels inside a block (width {channels} x "
            f"expansion {expansion}): possible are divisors, such as {math.gcd(inner, group_size)}"
        )
    return [Block(channels, inner, inner // group_size) for _ in range(blocks)]


def _initialise(network: nn.Module) -> None:
    """All weights from N(0, 1 / fan_in), in branches by the formula above, with He's gain for a leaky ReLU."""
    blocks = [m for m in network.modules() if isinstance(m, Block)]
    for layer in modules_of(network):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    gain = math.sqrt(2 / (1 + SLOPE**2)) * len(blocks) ** (-1 / (2 * LAYERS - 2))
    for block in blocks:
        *others, last = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            for layer in others:
                layer.weight.mul_(gain)
