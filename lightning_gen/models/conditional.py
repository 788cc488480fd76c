"""Mixin for class- and text-conditional sampling; each sample is a function of its seed and index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gen.datamodules.classes import find_class
from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.condition import ConditionSpec, condition_spec, conditions_in_turn
from lightning_gen.protocols import SamplesLatents
from lightning_gen.training.accepted import check_count
from lightning_gen.training.noise import indexed_noise

Condition = Tensor | Sequence[str] | str  # of examples: ids (B,), tokens (B, L), names of classes, or one name for all


class ConditionalMixin:
    """Draws codes and decodes them, conditioned where the model takes a condition; mixed into a GenerativeModule."""

    draw_dim: int  # size of the noise vector of one draw from the prior
    condition_spec: ConditionSpec | None  # what the model is conditioned on
    classes: int  # that it is conditioned on, 0 for none
    condition_length: int  # tokens of the text that it is conditioned on, 0 for none
    sampler: SamplesLatents | None = None  # in place of the prior, see samplers.py

    def setup_condition(self, conditional: bool) -> None:
        """Take the condition from the data: classes, or texts.

        Raises:
            UserError: a conditional model on data without labels and texts.
        """
        known = self.condition_spec = condition_spec(self.spec, conditional)  # type: ignore[attr-defined]
        self.classes = known.size if known and known.kind == "class" else 0
        self.condition_length = known.length if known else 0

    @property
    def condition_kwargs(self) -> dict[str, ConditionSpec]:
        """The option that makes a network take the condition."""
        return {"condition": self.condition_spec} if self.condition_spec else {}

    def condition(self, y: Tensor | None) -> Tensor | None:
        """The networks' condition beside x or z: class ids (B,), tokens (B, L), or None.

        Raises:
            UserError: the model is conditional and there is no condition, or its ids are out of range.
        """
        if self.condition_spec is None:
            return None
        if y is None:
            raise UserError(f"this model is conditional: give {self.condition_spec.possible}")
        if not self.training and len(y):  # type: ignore[attr-defined]  # waits for a device
            self.condition_spec.check(y, len(y))
        return y

    def class_ids(self, y: Condition, n: int) -> Tensor:
        """A condition of n examples as a tensor: of class names, or one name for all, the ids.

        Raises:
            UserError: there is no such class.
        """
        if isinstance(y, Tensor):
            return y
        given = [y] * n if isinstance(y, str | int) else list(y)
        if self.condition_length or any(not isinstance(name, str | int) for name in given):
            names = "" if self.condition_length else ", or the names of classes"
            raise UserError(f"y is a {type(y).__name__}: give a tensor{names}")
        return torch.tensor([find_class(name, self.spec) for name in given], dtype=torch.int64)  # type: ignore[attr-defined]

    def conditions_for_samples(self, n: int, y: Condition | None, start: int) -> Tensor | None:
        """The condition of n samples: the requested one, or all classes in turn by the sample's index.

        Raises:
            UserError: an impossible condition; one for an unconditional model; no text for a model that needs it.
        """
        device: Any = self.device  # type: ignore[attr-defined]
        if y is None:
            if self.condition_length:
                raise UserError(f"this model is conditional: give {self.condition_spec.possible}, as y")  # type: ignore[union-attr]
            return conditions_in_turn(self, torch.arange(start, start + n, device=device))
        if self.condition_spec is None:
            raise UserError("this model knows no classes: take a conditional one, such as cvae or cgan")
        y = self.class_ids(y, n)
        self.condition_spec.check(y, n)
        return y.to(device)

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z (n, Z) from the prior."""
        return noise

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z), conditions (B, ...) -> (B, *shape) in the range of the data."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, n: int, y: Condition | None = None, seed: int = 0, start: int = 0) -> Tensor:
        """n examples (n, *shape) for codes from the prior or the sampler; sample k of a seed is always the same.

        Without gradients: ``decode(draw(noise))`` has them.

        Args:
            n: how many.
            y: (n,) classes, of a conditional model, as ids, as names, or one name for all; or its texts (n, L); None:
                labels cycle through all classes.
            seed: of the noise.
            start: index of the first.

        Raises:
            UserError: a number that is none, or an impossible condition.
        """
        check_count(n, start)
        source: Any = self.sampler or self
        noise = indexed_noise(range(start, start + n), (source.draw_dim,), seed, "sample").to(self.device)  # type: ignore[attr-defined]
        return self.decode(source.draw(noise), self.conditions_for_samples(n, y, start))
