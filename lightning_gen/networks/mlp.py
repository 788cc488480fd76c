"""Fully connected networks (Kingma & Welling 2013, appendix C), for vectors and small images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.condition import Condition, ConditionSpec
from lightning_gen.networks.layers import LayerName, check_positive, initialise, norm_act_block


class MLPEncoder(nn.Module):
    """x (B, *shape) -> (B, out), through hidden layers; tokens one-hot.

    Args:
        spec: what one example looks like.
        out: number of outputs.
        hidden: widths of the hidden layers.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
        norm: none, batch or layer.
        dropout: probability of dropping a hidden unit, 0 <= dropout < 1.
        scale: size of the data's values, which the encoder divides by and the decoder multiplies with.
        condition: what the network is conditioned on, see condition.py; None for nothing.
    """

    def __init__(
        self,
        spec: DataSpec,
        out: int,
        *,
        hidden: Sequence[int] = (400,),
        activation: LayerName = "relu",
        norm: LayerName = "none",
        dropout: float = 0.0,
        scale: float = 1.0,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        self.condition = Condition(condition)
        self.vocab = len(spec.vocab) if spec.values == "tokens" else 0
        widths = [math.prod(spec.shape) * max(1, self.vocab) + self.condition.dim, *hidden]
        _check_scale(scale)
        self.scale = scale
        self.body = _hidden(widths, activation, norm, dropout)
        self.num_features = widths[-1]
        self.head = nn.Linear(self.num_features, out)
        initialise(self, norm)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, *shape) -> (B, num_features), what the last layer sees."""
        seen = F.one_hot(x, self.vocab).float() if self.vocab else x / self.scale
        return self.body(self.condition.concat(seen.flatten(1), c))  # (B, *shape) -> (B, D) -> (B, num_features)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, c))


class MLPDecoder(nn.Module):
    """z (B, Z) -> (B, *params), through the hidden layers in reverse.

    Args:
        spec: what one example looks like.
        latent_dim: Z.
        params: shape of the output, as given by the likelihood.
        hidden: widths of the encoder's hidden layers, taken in reverse.
        activation: relu, leaky_relu, tanh, elu, gelu, silu or softplus.
        norm: none, batch or layer.
        dropout: probability of dropping a hidden unit, 0 <= dropout < 1.
        scale: size of the data's values, which the encoder divides by and the decoder multiplies with.
        condition: what the network is conditioned on, see condition.py; None for nothing.
    """

    def __init__(
        self,
        spec: DataSpec,
        latent_dim: int,
        params: tuple[int, ...],
        *,
        hidden: Sequence[int] = (400,),
        activation: LayerName = "relu",
        norm: LayerName = "none",
        dropout: float = 0.0,
        scale: float = 1.0,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        self.condition = Condition(condition)
        widths = [latent_dim + self.condition.dim, *reversed(hidden)]
        self.params = tuple(params)
        _check_scale(scale)
        self.scale = scale
        self.body = _hidden(widths, activation, norm, dropout)
        self.head = nn.Linear(widths[-1], math.prod(params))
        initialise(self, norm)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        out = self.head(self.body(self.condition.concat(z, c))) * self.scale
        return out.unflatten(1, self.params)  # (B, D) -> (B, *params)


def _check_scale(scale: float) -> None:
    """Refuse a size that is none.

    Raises:
        UserError: it is not above 0.
    """
    if not scale > 0:
        raise UserError(f"scale {scale}: the size of the data's values must be above 0")


def _hidden(widths: Sequence[int], activation: LayerName, norm: LayerName, dropout: float) -> nn.Sequential:
    """(B, widths[0]) -> (B, widths[-1]); batch norm brings its own bias."""
    check_positive("hidden", *widths[1:])
    return nn.Sequential(
        *[
            norm_act_block(nn.Linear(a, b, bias=norm != "batch"), b, activation=activation, norm=norm, dropout=dropout)
            for a, b in pairwise(widths)
        ]
    )
