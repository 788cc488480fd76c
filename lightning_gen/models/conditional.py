"""What all models share that decode random codes: the classes that they may be told, and samples by number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.protocols import SamplesLatents
from lightning_gen.training.noise import indexed_noise


class ConditionalMixin:
    """Codes are drawn and decoded, in a class where the model knows any; mixed into a GenerativeModule."""

    draw_dim: int  # numbers that a draw from the prior takes
    classes: int  # that the model can be told, 0 for none
    sampler: SamplesLatents | None = None  # in place of the prior, see samplers.py

    def setup_condition(self, conditional: bool) -> None:
        """Take the number of classes from the data.

        Raises:
            UserError: a conditional model on data without labels.
        """
        if conditional and not self.spec.num_classes:  # type: ignore[attr-defined]
            raise UserError(
                "the model is conditional, but these data have no class labels: take data with labels, such as digits "
                "or mnist, or a model without classes"
            )
        self.classes = self.spec.num_classes if conditional else 0  # type: ignore[attr-defined]

    @property
    def network_condition(self) -> dict[str, int]:
        """The option that makes a network take a class."""
        return {"num_classes": self.classes} if self.classes else {}

    def condition(self, y: Tensor | None) -> Tensor | None:
        """What the networks are told beside x or z: the class ids (B,), or nothing.

        Raises:
            UserError: the model is conditional and there are no class ids, or they are out of range.
        """
        if not self.classes:
            return None
        if y is None:
            raise UserError(f"this model is conditional: give the class of each example, 0 to {self.classes - 1}")
        if not self.training and len(y):  # type: ignore[attr-defined]  # waits for a device
            self._check(y, len(y))
        return y

    def conditions_for_samples(self, n: int, y: Tensor | None, start: int) -> Tensor | None:
        """The classes of n samples: those asked for, or all in turn by the sample's number.

        Raises:
            UserError: a class out of range; a class asked of a model that knows none.
        """
        device: Any = self.device  # type: ignore[attr-defined]
        if y is None:
            return torch.arange(start, start + n, device=device) % self.classes if self.classes else None
        if not self.classes:
            raise UserError("this model knows no classes: take a conditional one, such as cvae or cgan")
        self._check(y, n)
        return y.to(device)

    def _check(self, y: Tensor, n: int) -> None:
        low, high = int(y.min()), int(y.max())
        if len(y) != n or low < 0 or high >= self.classes:
            given = f"{len(y)} class ids for {n} samples" if len(y) != n else f"class {low} to {high}"
            raise UserError(f"{given}: possible are {n} ids from 0 to {self.classes - 1}")

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z (n, Z) from the prior."""
        return noise

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z), classes (B,) -> (B, *shape) in the range of the data."""
        raise NotImplementedError

    def sample(self, n: int, y: Tensor | None = None, seed: int = 0, start: int = 0) -> Tensor:
        """n examples (n, *shape) for codes from the prior or the sampler; number k of a seed is always the same.

        Args:
            n: how many.
            y: (n,) classes, of a conditional model; None for all in turn.
            seed: of the noise.
            start: number of the first.
        """
        source: Any = self.sampler or self
        noise = indexed_noise(range(start, start + n), (source.draw_dim,), seed, "sample").to(self.device)  # type: ignore[attr-defined]
        return self.decode(source.draw(noise), self.conditions_for_samples(n, y, start))
