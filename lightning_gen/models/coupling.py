"""Which noise of a batch goes with which example."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_gen.objectives.coupled import all_gather_with_grad


def independent(x: Tensor, e: Tensor) -> Tensor:
    """The noise as it was drawn."""
    return e


def optimal(x: Tensor, e: Tensor) -> Tensor:
    """The noise (B, *shape) in the order in which the sum of squared distances to the examples (B, *shape) is least.

    Tong et al. 2024, https://arxiv.org/abs/2302.00482, section 3.2.3. Of the batch of all devices, on each alike; under
    accumulation of each chunk.
    """
    from scipy.optimize import linear_sum_assignment  # here: it takes a while to import

    every_x, every_e = (all_gather_with_grad(part.flatten(1)) for part in (x.detach(), e))
    cost = torch.cdist(every_x.double(), every_e.double()).square()
    _, chosen = linear_sum_assignment(cost.cpu().numpy())
    first = len(x) * (dist.get_rank() if dist.is_available() and dist.is_initialized() else 0)
    rows = torch.from_numpy(chosen)[first : first + len(x)].to(e.device)
    return every_e[rows].view_as(e)


COUPLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"independent": independent, "ot": optimal}
