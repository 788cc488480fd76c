"""Two residual networks between an image and latents at several resolutions: one upwards, one down through the latents.

Sønderby et al. 2016, "Ladder Variational Autoencoders", https://arxiv.org/abs/1602.02282
Child 2021, "Very Deep VAEs", https://arxiv.org/abs/2011.10650
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen.networks.layers import LayerName, Size, activation_of, initialise, upsampling

Gaussian = tuple[Tensor, Tensor]  # mean and log-variance

BOUND = 6.0  # of a log-variance: standard deviations from exp(-3) to exp(3)
START = 0.05  # share of the usual weights with which p and q begin, near N(0, 1) and near each other


class Group(NamedTuple):
    """One group of latents: z (N, c, h, w), and q and p that it was drawn under."""

    z: Tensor
    q: Gaussian
    p: Gaussian


class Residual(nn.Module):
    """h (N, width, h, w) -> h + branch(h)."""

    def __init__(self, width: int, activation: LayerName) -> None:
        super().__init__()
        self.branch = branch(width, max(1, width // 2), width, activation)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class Block(nn.Module):
    """A group of latents: h -> p(z | h) and, given the features of x, q(z | h, x); h + projection of z; Residual.

    q is given by its distance from p, mean_q = mean_p + a and log-variance_q = log-variance_p + b (Vahdat and Kautz
    2020, https://arxiv.org/abs/2007.03898, section 3.2): it follows p, and begins at it.

    Args:
        width: channels of h.
        channels: c, of z.
        activation: see layers.py.
    """

    def __init__(self, width: int, channels: int, activation: LayerName) -> None:
        super().__init__()
        self.prior = branch(width, max(1, width // 2), 2 * channels, activation)
        self.posterior = branch(2 * width, max(1, width // 2), 2 * channels, activation)
        self.project = nn.Conv2d(channels, width, 1)
        self.residual = Residual(width, activation)

    def forward(self, h: Tensor, noise: Tensor, features: Tensor | None) -> tuple[Tensor, Group]:
        """h and the features (N, width, h, w), noise (N, c, h, w) -> the next h, z; without features z is from p."""
        p = q = _gaussian(self.prior(h))
        if features is not None:
            mean, log_var = _gaussian(self.posterior(torch.cat([h, features], 1)))
            q = (p[0] + mean, p[1] + log_var)
        z = q[0] + torch.exp(0.5 * q[1]) * noise
        return self.residual(h + self.project(z)), Group(z, q, p)


class BottomUp(nn.Module):
    """x (B, C, H, W) -> features (B, width, h, w) for each resolution that has latents, the smallest first.

    Args:
        channels: C.
        sizes: all resolutions, the smallest first, the image's last.
        blocks: number of residual blocks at each resolution, the smallest first; none at those beyond the list.
        width: channels of all maps.
        activation: see layers.py.
    """

    def __init__(
        self, channels: int, sizes: Sequence[Size], blocks: Sequence[int], width: int, activation: LayerName
    ) -> None:
        super().__init__()
        maps, counts = _maps(sizes, blocks)
        self.first = nn.Conv2d(channels, width, 3, padding=1) if len(maps) == len(sizes) else _halve(channels, width)
        self.downs = nn.ModuleList(nn.Sequential(activation_of(activation), _halve(width, width)) for _ in maps[1:])
        self.stages = nn.ModuleList(nn.Sequential(*[Residual(width, activation) for _ in range(n)]) for n in counts)
        self.with_latents = len(blocks)
        initialise(self, norm="none")
        _temper(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        *finer, smallest = self.stages[::-1]
        h = self.first(x)
        features = []
        for stage, down in zip(finer, self.downs, strict=True):
            features.append(stage(h))
            h = down(features[-1])
        return [*features, smallest(h)][::-1][: self.with_latents]


class TopDown(nn.Module):
    """From a learned constant at the smallest resolution through all groups of latents to the likelihood's parameters.

    Args:
        sizes: all resolutions, the smallest first, the image's last.
        blocks: number of groups of latents at each resolution, the smallest first; none at those beyond the list.
        width: channels of all maps.
        latent_channels: of each group.
        out: channels of the output.
        activation: see layers.py.
        upsample: how sides are doubled, see ``layers.upsampling``.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        blocks: Sequence[int],
        width: int,
        latent_channels: int,
        out: int,
        activation: LayerName,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        maps, counts = _maps(sizes, blocks)
        self.shapes = [(latent_channels, *size) for size, n in zip(maps, counts, strict=True) for _ in range(n)]
        self.dims = [math.prod(shape) for shape in self.shapes]  # numbers of latents in each group
        self.start = nn.Parameter(torch.randn(width, *sizes[0]))
        self.ups = nn.ModuleList(
            nn.Sequential(activation_of(activation), upsampling(upsample, width, width, size=larger))
            for larger in maps[1:]
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, latent_channels, activation) for _ in range(n)) for n in counts
        )
        same = len(maps) == len(sizes)
        last = nn.Conv2d(width, out, 3, padding=1) if same else upsampling(upsample, width, out, size=sizes[-1])
        self.last = nn.Sequential(activation_of(activation), last)
        initialise(self, norm="none")
        nn.init.normal_(last.weight, std=0.1 / math.sqrt(width))  # PyTorch's would grow with the width in a doubling
        _temper(self)

    def forward(self, noise: Tensor, features: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Group]]:
        """Noise (N, sum of dims), features of x from BottomUp -> (N, out, H, W) and all groups, the smallest first.

        Without features the latents are drawn from p.
        """
        parts = (part.unflatten(1, shape) for part, shape in zip(noise.split(self.dims, 1), self.shapes, strict=True))
        h = self.start.expand(len(noise), *self.start.shape)
        groups = []
        for i, stage in enumerate(self.stages):
            h = self.ups[i - 1](h) if i else h
            for block in stage:  # type: ignore[attr-defined]
                h, group = block(h, next(parts), features[i] if features else None)
                groups.append(group)
        return self.last(h), groups


def branch(a: int, inner: int, b: int, activation: LayerName) -> nn.Sequential:
    """(N, a, h, w) -> (N, b, h, w), activations first: a 3x3 convolution to ``inner`` channels, then a 1x1 one."""
    return nn.Sequential(
        activation_of(activation),
        nn.Conv2d(a, inner, 3, padding=1),
        activation_of(activation),
        nn.Conv2d(inner, b, 1),
    )


def _halve(a: int, b: int) -> nn.Conv2d:
    """(N, a, h, w) -> (N, b, h // 2, w // 2)."""
    return nn.Conv2d(a, b, 4, stride=2, padding=1)


def _gaussian(out: Tensor) -> Gaussian:
    """(N, 2c, h, w) -> mean and log-variance (N, c, h, w), in float32 under autocast too.

    The KL divides by p's variance and grows with the quotient of both: an unbounded log-variance lets one odd example
    make a gradient of any size.
    """
    mean, log_var = out.float().chunk(2, 1)
    return mean, BOUND * torch.tanh(log_var / BOUND)


def _temper(network: nn.Module) -> None:
    """Scale what is added to h by 1 / sqrt(number of additions), Child 2021, section 3: any depth begins alike."""
    residuals = [m.branch[-1] for m in network.modules() if isinstance(m, Residual)]
    blocks = [m for m in network.modules() if isinstance(m, Block)]
    with torch.no_grad():
        for layer in residuals + [block.project for block in blocks]:
            layer.weight.mul_(1 / math.sqrt(len(residuals)))  # type: ignore[operator, union-attr]
        for block in blocks:
            for layer in (block.prior[-1], block.posterior[-1]):
                layer.weight.mul_(START)  # type: ignore[operator, union-attr]


def _maps(sizes: Sequence[Size], blocks: Sequence[int]) -> tuple[Sequence[Size], list[int]]:
    """Resolutions that have maps, and how many blocks each has, the smallest first.

    The finest has none where it has no latents: the image itself is at twice the last map's size, which saves most of
    the time.
    """
    maps = sizes if len(blocks) == len(sizes) else sizes[:-1]
    return maps, [*blocks, *[0] * (len(maps) - len(blocks))]
