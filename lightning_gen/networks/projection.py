"""A discriminator that is told the class by an inner product."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError

START = 0.1  # of the size of a usual linear layer's weights; spectral norm, where it is used, divides by the size


class Projection(nn.Module):
    """x (B, *shape), ids (B,) -> (B, out): the encoder's outputs, to the first of which <embed(c), f(x)> is added.

    Miyato and Koyama 2018, "cGANs with Projection Discriminator", https://arxiv.org/abs/1802.05637, equation 4; f(x)
    are the encoder's features. The embedding starts from N(0, 0.01 / F), where the weights of a usual linear layer have
    a variance of about 1 / F.

    Args:
        encoder: with ``.features(x) -> (B, F)``, ``.num_features`` F and ``.head`` (B, F) -> (B, out), without classes.
        num_classes: number of classes.

    Raises:
        UserError: for an encoder that lacks one of them.
    """

    def __init__(self, encoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        if missing := [name for name in ("features", "num_features", "head") if not hasattr(encoder, name)]:
            raise UserError(
                f"{type(encoder).__name__} has no .{', .'.join(missing)}, which a projection of the class needs: take "
                "another network, such as dcgan, or tell it the class in another way"
            )
        self.encoder = encoder
        self.num_features = int(encoder.num_features)  # type: ignore[arg-type]
        self.embed = nn.Embedding(num_classes, self.num_features)
        nn.init.normal_(self.embed.weight, std=START / math.sqrt(self.num_features))

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, *shape) -> (B, F); the class has no part in them."""
        return self.encoder.features(x)  # type: ignore[operator]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        f = self.features(x)
        out = self.encoder.head(f)  # type: ignore[operator]
        inner = (self.embed(c) * f).sum(1, keepdim=True)  # (B, 1)
        return torch.cat([out[:, :1] + inner, out[:, 1:]], 1)
