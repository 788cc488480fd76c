"""InfoGAN latent codes: Chen et al. 2016, https://arxiv.org/abs/1606.03657."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError


class InfoGANCodes:
    """Part of the latent z: one-hot categories, then continuous codes in [-1, 1], all uniform and independent.

    An auxiliary network Q predicts them from the generated example; both players minimise -log Q(c | x): equations 5-6.

    Args:
        categorical: number of values of each category, each at least 2.
        continuous: number of continuous codes.
        start: first column of the codes in z.

    Attributes:
        dim: columns in z.
        draw_dim: size of the noise vector of one draw.
        num_outputs: size of Q's output: a logit per value of each category, the mean of each continuous code.

    Raises:
        UserError: for impossible sizes.
    """

    def __init__(self, categorical: Sequence[int] = (), continuous: int = 0, start: int = 0) -> None:
        if not all(isinstance(size, int) and size >= 2 for size in categorical):
            raise UserError(f"codes.categorical {list(categorical)}: each takes a whole number from 2 on, such as [10]")
        if not isinstance(continuous, int) or continuous < 0:
            raise UserError(f"codes.continuous {continuous}: possible are whole numbers from 0 on")
        if not categorical and not continuous:
            raise UserError("codes without any: give codes.categorical, such as [10], or codes.continuous, such as 2")
        self.categorical, self.continuous, self.start = tuple(categorical), continuous, start
        self.dim = self.num_outputs = sum(categorical) + continuous
        self.draw_dim = len(categorical) + continuous

    def draw(self, noise: Tensor) -> Tensor:
        """Codes (n, dim) from standard normal noise (n, draw_dim)."""
        uniform = torch.special.ndtr(noise)
        parts = [_one_hot(uniform[:, i], size) for i, size in enumerate(self.categorical)]
        return torch.cat([*parts, 2 * uniform[:, len(parts) :] - 1], dim=1)

    def negative_log_likelihood(self, out: Tensor, codes: Tensor) -> Tensor:
        """-log Q(c | x), which bounds the mutual information I(c; x) >= H(c) - E[-log Q]: equation 5.

        Q is categorical, and for continuous codes Gaussian with variance 1, as in the authors' code for digits.

        Args:
            out: (B, outputs) of Q.
            codes: (B, dim) that the example was generated from.

        Returns:
            (B,) nats.
        """
        *logits, mean = out.float().split([*self.categorical, self.continuous], dim=1)
        *one_hot, c = codes.float().split([*self.categorical, self.continuous], dim=1)
        squares = (c - mean).square() + math.log(2 * math.pi)  # (B, continuous)
        pairs = zip(logits, one_hot, strict=True)
        return sum((-(hot * F.log_softmax(out, dim=1)).sum(1) for out, hot in pairs), start=0.5 * squares.sum(1))


def _one_hot(uniform: Tensor, size: int) -> Tensor:
    """(n,) in [0, 1] -> (n, size)."""
    values = (size * uniform).long().clamp(max=size - 1)  # ndtr rounds to 1 from 5.4 on
    return F.one_hot(values, size).to(uniform.dtype)
