"""The levels of discrete data: the values that an element can have, and the cell of the real line round each."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.objectives.likelihood import DiscretizedLogistic
from lightning_gen.objectives.mixture import DiscretizedLogisticMixture


def stored_levels(spec: DataSpec) -> Sequence[int]:
    """The stored values that occur in "uint8" data, ascending: those that the data set names, or 0 to 255."""
    return spec.levels or range(256)


def level_edges(stored: Sequence[int] | np.ndarray) -> Tensor:
    """(L,) stored values -> (L - 1,) the midpoints of neighbours, float32, as x reaches the model: v / 127.5 - 1."""
    values = torch.as_tensor(stored, dtype=torch.float32)
    return (values[:-1] + values[1:]) / 2 / 127.5 - 1


@contextlib.contextmanager
def counting_levels(model: Any, spec: DataSpec) -> Iterator[None]:
    """Within it, log p(x|z) of a discretised likelihood is the log-probability of the levels that the data have.

    A model is trained on the masses of 256 levels, also where fewer occur; those masses are the model's loss, and its
    probability of one of the L levels is the mass of the whole cell round it.
    """
    own = getattr(model, "likelihood", None)
    if not spec.levels or not isinstance(own, DiscretizedLogistic | DiscretizedLogisticMixture):
        yield
        return
    model.likelihood = copy.copy(own)  # shares the parameters
    model.likelihood.edges = level_edges(spec.levels)
    try:
        yield
    finally:
        model.likelihood = own


def dequantise(x: Tensor, noise: Tensor, spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Each level spread over its cell, and the logarithm of the cells' volume.

    By Jensen's inequality log P(levels) >= E_u log p(x') + sum_i log width_i, with x' uniform in the cell of x (Theis
    et al. 2016, arXiv:1511.01844, section 3.1). The outer cells reach as far outwards as inwards.

    Args:
        x: (B, *shape) levels, as they reach the model.
        noise: u, (B, *shape) uniform in [-1/2, 1/2).
        spec: of the data.

    Returns:
        x' (B, *shape), and sum_i log width_i (B,).
    """
    stored = stored_levels(spec)
    ends = torch.tensor([stored[0], stored[-1]], dtype=torch.float32) / 127.5 - 1
    edges = level_edges(stored)
    first, last = 2 * ends[:1] - edges[:1], 2 * ends[1:] - edges[-1:]
    place = torch.bucketize(x.contiguous(), edges.to(x))
    lower, upper = (side.to(x)[place] for side in (torch.cat([first, edges]), torch.cat([edges, last])))
    return lower + (noise + 0.5) * (upper - lower), (upper - lower).log().flatten(1).sum(1)
