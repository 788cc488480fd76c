"""Likelihoods p(x|z) as distributions of whole numbers, which an entropy coder takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_gen.compression.stack import AnsStack, import_constriction
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.pixels import to_float
from lightning_gen.objectives.levels import level_edges
from lightning_gen.objectives.likelihood import Bernoulli, DiscretizedLogistic
from lightning_gen.objectives.likelihood_base import Likelihood

CHUNK_SIZE = (
    16_384  # elements whose tables are held in memory: a part of the format, since the last digits depend on it
)


class PixelCoder(ABC):
    """Levels of x under a likelihood, pushed to a stack and popped again.

    The probabilities are computed alike in both directions, from tensors of the same shapes, and constriction turns
    them into whole numbers of 24 bits of which none is zero; so no level is impossible.

    Args:
        likelihood: of the model.
        coded: the levels that can be coded, ascending; by default all.
    """

    levels: ClassVar[int]  # of an element

    def __init__(self, likelihood: Any, coded: Sequence[int] = ()) -> None:
        self.likelihood = likelihood
        self.coded = np.array(coded or range(self.levels), dtype=np.uint8)

    @abstractmethod
    def entropy_model(self) -> Any:
        """The model of constriction."""

    @abstractmethod
    def parameters(self, out: Tensor) -> tuple[Tensor, ...]:
        """The decoder's output for one example (*params) -> what ``table`` takes, each (D,)."""

    @abstractmethod
    def table(self, *parameters: Tensor) -> np.ndarray:
        """Parameters of n elements, (n,) each -> those of constriction's model, (n,) or (n, levels)."""

    @abstractmethod
    def to_x(self, levels: Tensor) -> Tensor:
        """Levels uint8 (n, *shape) -> x as it reaches the model, in [-1, 1]."""

    def to_levels(self, x: Tensor) -> Tensor:
        """x (n, *shape) -> levels uint8.

        Raises:
            UserError: x lies between the levels.
        """
        levels = ((x + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1).to(torch.uint8)
        if not torch.equal(self.to_x(levels), x.float()):
            raise UserError(f"the examples hold values besides the {self.levels} levels that the likelihood knows")
        return levels

    def push(self, stack: AnsStack, levels: Tensor, out: Tensor) -> None:
        """One example's levels (*shape), given the decoder's output (*params)."""
        symbols = np.searchsorted(self.coded, levels.flatten().numpy()).astype(np.int32)
        parts = [part.split(CHUNK_SIZE) for part in self.parameters(out)]
        for k in reversed(range(len(parts[0]))):
            here = symbols[k * CHUNK_SIZE : (k + 1) * CHUNK_SIZE]
            stack.push(here, self.entropy_model(), self.table(*(part[k] for part in parts)))

    def pop(self, stack: AnsStack, out: Tensor) -> Tensor:
        """One example's levels (D,), given the decoder's output (*params)."""
        parts = zip(*(part.split(CHUNK_SIZE) for part in self.parameters(out)), strict=True)
        symbols = [stack.pop(self.entropy_model(), self.table(*part)) for part in parts]
        return torch.from_numpy(self.coded[np.concatenate(symbols)])


class BernoulliPixelCoder(PixelCoder):
    """Bernoulli: P(1) = sigma(logit)."""

    levels = 2

    def entropy_model(self) -> Any:
        return import_constriction().stream.model.Bernoulli(perfect=False)

    def parameters(self, out: Tensor) -> tuple[Tensor, ...]:
        return (out.flatten(),)

    def table(self, *parameters: Tensor) -> np.ndarray:
        return torch.sigmoid(parameters[0].double()).numpy()

    def to_x(self, levels: Tensor) -> Tensor:
        return 2 * levels.float() - 1


class LogisticPixelCoder(PixelCoder):
    """Discretised logistic: the mass of each level, with open tails at the first and the last."""

    levels = 256

    def entropy_model(self) -> Any:
        return import_constriction().stream.model.Categorical(perfect=False)

    def parameters(self, out: Tensor) -> tuple[Tensor, ...]:
        location, log_scale = self.likelihood.location_and_log_scale(out)
        location, log_scale = torch.broadcast_tensors(location, log_scale)
        return location.flatten(), torch.exp(-log_scale).flatten()

    def table(self, *parameters: Tensor) -> np.ndarray:
        location, inverse = (part.unsqueeze(1) for part in parameters)
        below = torch.sigmoid((level_edges(self.coded) - location) * inverse)  # (n, levels - 1): P(level <= k)
        first, inside, last = below[:, :1], below.diff(dim=1).clamp_min(0), 1 - below[:, -1:]
        return torch.cat([first, inside, last], 1).numpy()

    def to_x(self, levels: Tensor) -> Tensor:
        return to_float(levels, "uint8")


PIXELS: dict[type[Likelihood], type[PixelCoder]] = {
    Bernoulli: BernoulliPixelCoder,
    DiscretizedLogistic: LogisticPixelCoder,
}
VALUES: dict[type[PixelCoder], str] = {BernoulliPixelCoder: "binary", LogisticPixelCoder: "uint8"}


def pixel_coder_for(likelihood: Any, values: str, coded: Sequence[int] = ()) -> PixelCoder:
    """The coder of a likelihood on data of these values, of all their levels or of some.

    Raises:
        UserError: it gives no probabilities of levels.
    """
    found = PIXELS.get(type(likelihood))
    name = type(likelihood).__name__
    if found is None:
        known = " and ".join(kind.__name__ for kind in PIXELS)
        raise UserError(f"likelihood {name} gives no table of levels that can be coded: possible are {known}")
    if values != VALUES[found]:
        raise UserError(
            f"likelihood {name} on data of values {values!r} is no distribution of their levels: train with "
            f"--model.likelihood discretized_logistic, or on binary data, --data.binarize dynamic"
        )
    return found(likelihood, coded)
