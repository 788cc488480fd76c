"""Projection discriminator: the condition enters by an inner product."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.condition import Condition, ConditionSpec

START = 0.1  # of the size of a usual linear layer's weights; spectral norm, where it is used, divides by the size


class Projection(nn.Module):
    """x (B, *shape), c -> (B, out): the encoder's outputs, to the first of which <embed(c), f(x)> is added.

    Miyato and Koyama 2018, "cGANs with Projection Discriminator", https://arxiv.org/abs/1802.05637, equation 4; f(x)
    are the encoder's features. The embedding is a table of classes (B,), or linear in the vector of a text (B, L). It
    starts from N(0, 0.01 / F), where the weights of a usual linear layer have a variance of about 1 / F.

    Args:
        encoder: with ``.features(x) -> (B, F)``, ``.num_features`` F and ``.head`` (B, F) -> (B, out), itself
            unconditional.
        condition: what c is.

    Raises:
        UserError: for an encoder that lacks one of them.
    """

    def __init__(self, encoder: nn.Module, condition: ConditionSpec) -> None:
        super().__init__()
        if missing := [name for name in ("features", "num_features", "head") if not hasattr(encoder, name)]:
            raise UserError(
                f"{type(encoder).__name__} has no .{', .'.join(missing)}, which a projection of the class needs: take "
                "another network, such as dcgan, or tell it the class in another way"
            )
        self.encoder = encoder
        self.num_features = int(encoder.num_features)  # type: ignore[arg-type]
        self.condition = Condition(condition)
        if condition.kind == "class":
            self.embed: nn.Module = nn.Embedding(condition.size, self.num_features)
        else:
            self.embed = nn.Linear(condition.dim, self.num_features, bias=False)
        size = START / math.sqrt(self.num_features * (1 if condition.kind == "class" else condition.dim))
        nn.init.normal_(self.embed.weight, std=size)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, *shape) -> (B, F), unconditional."""
        return self.encoder.features(x)  # type: ignore[operator]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        f = self.features(x)
        out = self.encoder.head(f)  # type: ignore[operator]
        inner = (self.embed(self.condition.key(c)) * f).sum(1, keepdim=True)  # (B, 1)
        return torch.cat([out[:, :1] + inner, out[:, 1:]], 1)
