"""Pieces that the networks share: activations and norms by name, the condition, initial weights, checked sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_gen.names import expect_class, resolve

Name = str | Callable[..., nn.Module]  # of a table below, an import path, or the class itself

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}

# (channels) -> a norm of (B, C) features, and of (B, C, H, W) maps
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}
NORMS_2D: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
}


def after(layer: nn.Module, channels: int, *, activation: Name, norm: Name, dropout: float, dims: int = 0) -> nn.Module:
    """A layer, then norm, activation and dropout.

    Args:
        layer: gives (B, channels), or (B, channels, H, W) where dims is 2.
        channels: what the layer gives.
        activation: a name of ``ACTIVATIONS``, an import path, or a class.
        norm: "none", "batch", "layer", an import path, or a function of the channels.
        dropout: probability of dropping an element, 0 <= dropout < 1.
        dims: 0 for vectors, 2 for maps.

    Raises:
        UserError: for an unknown name or an impossible probability.
    """
    if not 0 <= dropout < 1:
        raise UserError(f"dropout {dropout}: possible are 0 <= dropout < 1")
    pieces = [layer]
    if norm != "none":
        pieces.append(_layer(norm, NORMS_2D if dims else NORMS, "norm")(channels))
    pieces.append(_layer(activation, ACTIVATIONS, "activation")())
    if dropout:
        pieces.append(nn.Dropout(dropout))
    return nn.Sequential(*pieces)


def _layer(name: Name, table: Mapping[str, Any], kind: str) -> Any:
    """A row of the table; what an import path stands for must be a class of modules."""
    layer = resolve(name, table, kind)
    if isinstance(name, str) and name not in table:
        expect_class(layer, nn.Module, f"{kind} {name!r}")
    return layer


class Condition(nn.Module):
    """Append the class to features: (B, F), ids (B,) -> (B, F + num_classes), one-hot; a Linear then embeds it.

    Args:
        num_classes: number of classes, 0 for no condition.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, features: Tensor, c: Tensor | None) -> Tensor:
        if (c is not None) != (self.num_classes > 0):
            given = "no class ids" if c is None else "class ids"
            raise ValueError(f"a network built with num_classes={self.num_classes} was called with {given}")
        if c is None:
            return features
        return torch.cat([features, F.one_hot(c, self.num_classes).to(features.dtype)], dim=1)


def initialise(network: nn.Module, norm: Name) -> None:
    """Where no norm keeps the size of activations, draw the hidden layers' weights from N(0, 2 / fan_in), biases 0.

    He et al. 2015: activations then keep their size through any number of layers, so that deep networks train at Adam's
    1e-3; with PyTorch's own weights, a sixth of that variance, a VAE of five hidden layers leaves its latents unused.
    Under a norm the size only sets the pace, smaller is faster, and PyTorch's stay; so do those of the last layer.

    Args:
        network: its layers in the order of the data.
        norm: the norm it was built with.
    """
    if norm != "none":
        return
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for layer in layers[:-1]:
        fan = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # an output sees only every stride-th row and column of the kernel
            fan = layer.in_channels * math.prod(layer.kernel_size) // math.prod(layer.stride)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def check_positive(option: str, *values: int) -> None:
    """Refuse what is no whole number above 0.

    Raises:
        UserError: that names the option.
    """
    if not all(isinstance(value, int) and value > 0 for value in values):
        raise UserError(f"{option} {', '.join(map(str, values))}: possible are whole numbers above 0")
