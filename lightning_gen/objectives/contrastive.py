"""Contrastive losses: a query is matched to its own key among others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """-log exp(q_i k_i / t) / sum_j exp(q_i k_j / t), mean over the places i of one image: (B,) in nats.

    Park et al. 2020, https://arxiv.org/abs/2007.15651, equations 2 and 4, with the other places of the same image as
    negatives. log P is the loss at chance level, 0 that of a perfect match at each place.

    Args:
        query: (B, P, F) of P places of the translation, of length 1.
        key: (B, P, F) of the same places of the source, of length 1; no gradient flows to it.
        temperature: t.
    """
    logits = query.float() @ key.detach().float().transpose(1, 2) / temperature  # (B, P, P)
    places = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])  # (B, P)
    return F.cross_entropy(logits.transpose(1, 2), places, reduction="none").mean(1)
