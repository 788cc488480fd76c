"""The projection head of a contrastive loss on feature maps.

Park et al. 2020, https://arxiv.org/abs/2007.15651, section 3: a two-layer MLP
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.networks.layers import normal_


class Projector(nn.Module):
    """A map (B, C, H, W) at places (B, P) of H * W -> (B, P, features), each of length 1.

    Args:
        channels: C.
        features: of the result, and of the hidden layer.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, features), nn.ReLU(), nn.Linear(features, features))
        normal_(self)

    def forward(self, h: Tensor, places: Tensor) -> Tensor:
        chosen = h.flatten(2).gather(2, places.unsqueeze(1).expand(-1, h.shape[1], -1))  # (B, C, P)
        return F.normalize(self.layers(chosen.transpose(1, 2)), dim=2, eps=1e-7)
