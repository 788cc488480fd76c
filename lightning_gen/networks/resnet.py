"""Residual networks of SNGAN, with optional self-attention, for images of 8 to 256 pixels, square or not.

Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", https://arxiv.org/abs/1802.05957,
appendix B.4
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.condition import Condition, ConditionSpec
from lightning_gen.networks.dcgan import downsampled_sizes
from lightning_gen.networks.layers import Attention, ClassNorm, LayerName, Size, stage_channels


class ResNet(nn.Module, ABC):
    """Base class of encoder and decoder: their options, the condition, and the sizes of the maps.

    Args:
        spec: what one example looks like.
        ends: the sizes of the side: ``out`` of the encoder, ``latent_dim, params`` of the decoder.
        width: channels of the block next to the image; the next has twice, all further ones four times as many.
        norm: auto, none, batch or layer; auto is none in an encoder, and batch in a decoder.
        attention: the map in which positions attend to each other, in a block of its own before the residual block: 1
            for the one of half the image's sides, 2 for a quarter, and so on; 0 for none.
        condition: of the network, see condition.py; None for nothing. It joins the encoder's image, as maps,
            and gives the gains and biases of all norms of the decoder.
    """

    usual_norm: ClassVar[str]

    def __init__(
        self,
        spec: DataSpec,
        *ends: Any,
        width: int = 32,
        norm: LayerName = "auto",
        attention: int = 0,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        sizes, self.attended = _sizes(spec, attention)
        self.condition = Condition(condition)
        norm = self.usual_norm if norm == "auto" else norm
        self._build(norm, sizes, [spec.shape[0], *stage_channels(width, len(sizes), max_multiplier=4)], *ends)

    @abstractmethod
    def _build(self, norm: LayerName, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        """Make the layers and their initial weights, of these sizes and channels of the maps, the image's first."""


class ResNetEncoder(ResNet):
    """x (B, C, H, W) -> (B, out): a block for each halving, one more, the sum over positions, and one linear layer.

    The options are those of ``ResNet``.
    """

    usual_norm = "none"

    def _build(self, norm: LayerName, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        (out,) = ends
        channels = [channels[0] + self.condition.dim, *channels[1:-1]]
        blocks = [
            Block(a, b, norm=norm, down=True, first=size == sizes[0], attention=size == self.attended)
            for (a, b), size in zip(pairwise(channels), sizes[:-1], strict=True)
        ]
        last = Block(channels[-1], channels[-1], norm=norm, attention=sizes[-1] == self.attended)
        self.body = nn.Sequential(*blocks, last, ClassNorm(norm, channels[-1]), nn.ReLU())
        self.num_features = channels[-1]
        self.head = nn.Linear(self.num_features, out)
        _initialise(self, norm)
        with torch.no_grad():  # a sum over n positions is n times as large as what PyTorch draws the weights for
            self.head.weight.mul_(1 / math.prod(sizes[-1]))

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, num_features), the input of the last layer."""
        return self.body(self.condition.concat(x, c)).sum((2, 3))  # (B, C', h, w) -> (B, C')

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, c))


class ResNetDecoder(ResNet):
    """z (B, Z) -> (B, *params): a linear layer, a block for each doubling, then norm, ReLU and a 3x3 convolution.

    The options are those of ``ResNet``; params are (C', H, W), as given by the likelihood.
    """

    usual_norm = "batch"

    def _build(self, norm: LayerName, sizes: list[Size], channels: list[int], *ends: Any) -> None:
        latent_dim, params = ends
        sizes, channels, condition = sizes[::-1], channels[:0:-1], self.condition.spec
        start = (channels[0], *sizes[0])
        self.start = nn.Sequential(nn.Linear(latent_dim, math.prod(start)), nn.Unflatten(1, start))
        self.blocks = nn.ModuleList(
            Block(a, b, norm=norm, up=larger, attention=size == self.attended, condition=condition)
            for (a, b), (size, larger) in zip(pairwise(channels), pairwise(sizes), strict=True)
        )
        self.norm = ClassNorm(norm, channels[-1], condition)
        self.last = nn.Conv2d(channels[-1], params[0], 3, padding=1)
        _initialise(self, norm)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        h, key = self.start(z), self.condition.key(c)  # (B, Z) -> (B, C', h, w)
        for block in self.blocks:
            h = block(h, key)
        return self.last(F.relu(self.norm(h, key)))


class Block(nn.Module):
    """h (B, a, h, w) -> (B, b, h', w'): a shortcut, and beside it twice norm, ReLU and a 3x3 convolution.

    The 1x1 convolution of the shortcut is taken at the smaller size, where it gives the same for less.

    Args:
        a: channels that come in.
        b: channels that go out.
        norm: as the network's.
        up: (h', w') to upsample to, before the first convolution.
        down: halve the sides, after the second convolution; an odd one is rounded down.
        first: what comes in is an image, no activations: neither norm nor ReLU before the first convolution.
        attention: put self-attention before.
        condition: of the norms.
    """

    def __init__(
        self,
        a: int,
        b: int,
        *,
        norm: LayerName,
        up: Size | None = None,
        down: bool = False,
        first: bool = False,
        attention: bool = False,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        inner = b if first else min(a, b)
        bias = norm != "batch"  # which takes the mean away, here or at the end of the network
        self.up, self.down = up, down
        self.attention = Attention(a) if attention else nn.Identity()
        self.before = None if first else ClassNorm(norm, a, condition)
        self.one = nn.Conv2d(a, inner, 3, padding=1, bias=bias)
        self.between = ClassNorm(norm, inner, condition)
        self.two = nn.Conv2d(inner, b, 3, padding=1, bias=bias)
        self.shortcut = nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False)

    def forward(self, h: Tensor, key: Tensor | None = None) -> Tensor:
        """``key``: of the condition, as the norms take it."""
        h = self.attention(h)
        branch = h if self.before is None else F.relu(self.before(h, key))
        branch = self.one(self._upsampled(branch))
        branch = self.two(F.relu(self.between(branch, key)))
        return self._upsampled(self.shortcut(self._pooled(h))) + self._pooled(branch)

    def _upsampled(self, h: Tensor) -> Tensor:
        return F.interpolate(h, self.up, mode="nearest") if self.up else h

    def _pooled(self, h: Tensor) -> Tensor:
        return F.avg_pool2d(h, 2) if self.down else h


def _sizes(spec: DataSpec, attention: int) -> tuple[list[Size], Size | None]:
    """The maps' sizes, the image's first, and which of them has attention: any but the image."""
    sizes = downsampled_sizes(spec, "resnet")
    if not 0 <= attention < len(sizes):
        maps = ", ".join(f"{i} ({'x'.join(map(str, size))})" for i, size in enumerate(sizes) if i)
        raise UserError(f"attention {attention}: possible are 0 (none) and the maps {maps}")
    return sizes, sizes[attention] if attention else None


def _initialise(network: nn.Module, norm: LayerName) -> None:
    """Without a norm: each branch begins with the size of its shortcut, divided by the root of the number of blocks.

    Weights of the branches from N(0, 2 / fan_in) (He et al. 2015), of the shortcuts from N(0, 1 / fan_in), as no ReLU
    halves what comes; under a norm PyTorch's stay, see ``layers.initialise``.
    """
    blocks = [m for m in network.modules() if isinstance(m, Block)]
    for block in blocks if norm == "none" else []:
        for layer, gain in ((block.one, 2), (block.two, 2 / len(blocks)), (block.shortcut, 1)):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.weight[0].numel()))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
