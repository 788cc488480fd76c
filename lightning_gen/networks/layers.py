"""Building blocks of networks: activations, norms and upsampling by name, attention, weights, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.names import expect_class, resolve
from lightning_gen.networks.condition import ConditionSpec, modules_of

Size = tuple[int, int]
LayerName = str | Callable[..., nn.Module]  # of a table below, an import path, or the class itself

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
    "instance": nn.InstanceNorm2d,
}


def norm_act_block(
    layer: nn.Module, channels: int, *, activation: LayerName, norm: LayerName, dropout: float, dims: int = 0
) -> nn.Module:
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
    pieces.append(activation_of(activation))
    if dropout:
        pieces.append(nn.Dropout(dropout))
    return nn.Sequential(*pieces)


def activation_of(name: LayerName) -> nn.Module:
    """An activation: of a name of ``ACTIVATIONS``, an import path, or a class."""
    return _layer(name, ACTIVATIONS, "activation")()


def norm_2d(norm: LayerName, channels: int) -> nn.Module:
    """A norm of maps (B, channels, H, W).

    Args:
        norm: "none", "batch", "layer", "instance", an import path, or a function of the channels.
        channels: of the maps.
    """
    return _layer(norm, NORMS_2D, "norm")(channels)


def _layer(name: LayerName, table: Mapping[str, Any], kind: str) -> Any:
    """A row of the table; what an import path stands for must be a class of modules."""
    layer = resolve(name, table, kind)
    if isinstance(name, str) and name not in table:
        expect_class(layer, nn.Module, f"{kind} {name!r}")
    return layer


class ClassNorm(nn.Module):
    """A norm whose gain and bias belong to the class: h (B, C, H, W), ids (B,) -> gain[c] * norm(h) + bias[c].

    Of a text they are linear in its vector v (B, K), (1 + v gain) * norm(h) + v bias.

    Dumoulin et al. 2017, https://arxiv.org/abs/1610.07629, section 2.2; in the generator of Miyato and Koyama 2018,
    https://arxiv.org/abs/1802.05637. Gains start from N(1, 0.02^2), as those of Radford et al. 2016, biases at 0.

    Args:
        norm: "none", "batch", "layer", an import path, or a function of the channels.
        channels: C.
        condition: the network's; None keeps the norm as it is, with its own gain and bias.
    """

    def __init__(self, norm: LayerName, channels: int, condition: ConditionSpec | None = None) -> None:
        super().__init__()
        self.norm = norm_2d(norm, channels)
        self.of_class = condition is not None and condition.kind == "class"
        if condition:
            for own in ("weight", "bias"):
                if getattr(self.norm, own, None) is not None:
                    self.norm.register_parameter(own, None)
            # no Embedding: a spectral norm would divide the gains by their size
            start, size = (1.0, 0.02) if self.of_class else (0.0, 0.02 / math.sqrt(condition.dim))
            self.gain = nn.Parameter(start + size * torch.randn(condition.dim, channels))
            self.bias = nn.Parameter(torch.zeros(condition.dim, channels))

    def forward(self, h: Tensor, key: Tensor | None = None) -> Tensor:
        """``key``: of the network's ``Condition``, ids (B,) of classes or vectors (B, K) of texts."""
        h = self.norm(h)
        if key is None:
            return h
        gain, bias = (self.gain[key], self.bias[key]) if self.of_class else (1 + key @ self.gain, key @ self.bias)
        return h * gain[:, :, None, None] + bias[:, :, None, None]


class ResizeConv2d(nn.Conv2d):
    """h (B, a, h, w) -> (B, b, H, W): nearest-neighbour resize, then a 3x3 convolution.

    Odena et al. 2016, "Deconvolution and Checkerboard Artifacts", https://doi.org/10.23915/distill.00003. A transposed
    convolution of stride 2 is four convolutions that take turns, by the parity of row and column: where these differ,
    a pattern of period 2 is laid over the result. Here one convolution makes every place.

    Args:
        a: channels that come in.
        b: channels that go out.
        size: (H, W); None is twice the sides that come in.
        bias: whether there is one.
    """

    def __init__(self, a: int, b: int, *, size: Size | None, bias: bool) -> None:
        super().__init__(a, b, 3, padding=1, bias=bias)
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        larger = self.size or (2 * h.shape[2], 2 * h.shape[3])
        return super().forward(F.interpolate(h, larger, mode="nearest"))


UPSAMPLING = ("transposed", "resize")


def upsampling(
    how: str, a: int, b: int, *, size: Size | None = None, kernel: int = 4, bias: bool = True
) -> nn.ConvTranspose2d | ResizeConv2d:
    """A layer (B, a, h, w) -> (B, b, H, W) that doubles the sides.

    Args:
        how: "transposed", a transposed convolution of stride 2, or "resize", see ``ResizeConv2d``.
        a: channels that come in.
        b: channels that go out.
        size: (H, W), where a side is twice the one that comes in, or one more; None is twice for any that comes in.
        kernel: side of the transposed convolution's kernel: 4, or 3 without a size.
        bias: whether there is one.

    Raises:
        UserError: for another name.
    """
    check_upsample(how)
    if how == "resize":
        return ResizeConv2d(a, b, size=size, bias=bias)
    height, width = size or (0, 0)
    more = (height % 2 + 4 - kernel, width % 2 + 4 - kernel)  # an odd side needs one row more, a smaller kernel too
    return nn.ConvTranspose2d(a, b, kernel, stride=2, padding=1, output_padding=more, bias=bias)


def check_upsample(how: str) -> None:
    """Refuse a way of upsampling that is not there; an encoder, which shares its decoder's options, asks this alone.

    Raises:
        UserError: that lists the names.
    """
    if how not in UPSAMPLING:
        raise unknown("upsample", how, UPSAMPLING)


class Attention(nn.Module):
    """x (B, C, H, W) -> x + gamma * o, o_j = v(sum_i beta_ji h(x_i)), beta_j = softmax_i f(x_i)^T g(x_j).

    Zhang et al. 2019, https://arxiv.org/abs/1805.08318, equations 1 to 3.

    f and g have C / 8 channels, h has C / 2, and i runs over the 2x2 maxima of the positions. gamma starts at 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        keys, values = max(1, channels // 8), max(1, channels // 2)
        self.f, self.g = nn.Conv2d(channels, keys, 1, bias=False), nn.Conv2d(channels, keys, 1, bias=False)
        self.h, self.v = nn.Conv2d(channels, values, 1, bias=False), nn.Conv2d(values, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        f, h = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.f, self.h))  # (B, keys or values, I)
        g = self.g(x).flatten(2)  # (B, keys, J)
        beta = (g.transpose(1, 2) @ f).softmax(2)  # (B, J, I)
        o = (h @ beta.transpose(1, 2)).unflatten(2, x.shape[2:])  # (B, values, J) -> (B, values, H, W)
        return x + self.gamma * self.v(o)


def initialise(network: nn.Module, norm: LayerName) -> None:
    """Where no norm keeps the size of activations, draw the hidden layers' weights from N(0, 2 / fan_in), biases 0.

    He et al. 2015: activations then keep their size through any number of layers, so that deep networks train at Adam's
    1e-3; with PyTorch's own weights, a sixth of that variance, a VAE of five hidden layers leaves its latents unused.
    Under a norm the size only sets the pace, smaller is faster, and PyTorch's stay; so do those of the last layer.

    Args:
        network: its layers in the order of the data; its condition starts as it is meant to.
        norm: the norm it was built with.
    """
    if norm != "none":
        return
    layers = [m for m in modules_of(network) if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for layer in layers[:-1]:
        fan = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # an output sees only every stride-th row and column of the kernel
            fan = layer.in_channels * math.prod(layer.kernel_size) // math.prod(layer.stride)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def normal_(network: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of all convolutions from N(0, std^2), biases 0: how networks of translation start.

    Isola et al. 2017, https://arxiv.org/abs/1611.07004, appendix 6.2.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def default_width(shape: tuple[int, ...]) -> int:
    """Channels of a translator's first layer: 64 as in the papers, and less for pictures below 128 pixels."""
    return min(64, max(8, min(shape[1:]) // 2))


def check_stride(network: str, shape: tuple[int, ...], stride: int) -> None:
    """Refuse pictures whose sides are no multiples of what a network halves.

    Args:
        network: its name in the error's text.
        shape: (C, H, W).
        stride: 2 to the number of halvings.

    Raises:
        UserError: that names the nearest possible size.
    """
    if any(side % stride for side in shape[1:]):
        near = "x".join(str(max(1, round(side / stride)) * stride) for side in shape[1:])
        raise UserError(
            f"network {network!r} takes pictures whose sides are multiples of {stride}, not "
            f"{shape[1]}x{shape[2]}: the nearest is {near}"
        )


def patch_grid(network: str, shape: tuple[int, ...], patch: int) -> list[int]:
    """Numbers of patches along each side of an example (C, ...).

    Args:
        network: its name in the error's text.
        shape: of an example.
        patch: side of a patch.

    Raises:
        UserError: an example without places, or a side that is no multiple of the patch.
    """
    _, *sides = shape
    if not 1 <= len(sides) <= 3:
        raise UserError(
            f"network {network!r} takes examples (C, ...) with one to three axes beside, not {shape}: mlp takes any"
        )
    if any(side % patch for side in sides):
        raise UserError(f"patch {patch}: each side of {sides} must be a multiple of it")
    return [side // patch for side in sides]


def stage_channels(width: int, depth: int, max_multiplier: int) -> list[int]:
    """Channels of ``depth`` stages: ``width``, and twice as many in each further one, up to ``most`` * width.

    Raises:
        UserError: for a width that is no whole number above 0.
    """
    check_positive("width", width)
    return [width * min(2**i, max_multiplier) for i in range(depth)]


def check_positive(option: str, *values: int) -> None:
    """Refuse what is no whole number above 0.

    Raises:
        UserError: that names the option.
    """
    if not all(isinstance(value, int) and value > 0 for value in values):
        raise UserError(f"{option} {', '.join(map(str, values))}: possible are whole numbers above 0")
