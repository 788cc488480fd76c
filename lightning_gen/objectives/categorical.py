"""A categorical likelihood of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.objectives.likelihood_base import Likelihood


class Categorical(Likelihood):
    """P(x | z) = prod_l softmax(out_l)[x_l], with a logit for each of the V tokens of the vocabulary at each place l.

    Bowman et al. 2016, https://arxiv.org/abs/1511.06349, section 3. An autoregressive decoder sees x_<l at place l.

    Args:
        spec: what one example looks like; its ``vocab`` gives V.

    Raises:
        UserError: no vocabulary.
    """

    values = ("tokens",)

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        if not spec.vocab:
            raise UserError(
                "data of tokens without a vocabulary: the spec needs vocab=(token, ...), a string for each id"
            )
        self.vocab = len(spec.vocab)

    def params(self) -> tuple[int, ...]:
        return (*self.shape, self.vocab)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """x (..., *shape) int64, out (..., *shape, V); leading dimensions broadcast -> (...) nats."""
        log_p = out.float().log_softmax(-1)
        leading = torch.broadcast_shapes(x.shape, log_p.shape[:-1])
        chosen = x.expand(leading).unsqueeze(-1)  # (..., *shape, 1)
        return self._sum(log_p.expand(*leading, -1).gather(-1, chosen).squeeze(-1))

    def mean(self, out: Tensor) -> Tensor:
        """The most probable token at each place, (..., *shape) int64: tokens have no mean."""
        return out.argmax(-1)

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shares = out.float().softmax(-1).flatten(0, -2)  # (N, V)
        return torch.multinomial(shares, 1, generator=generator).view(out.shape[:-1])
