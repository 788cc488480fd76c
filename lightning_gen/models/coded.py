"""What all models with a latent code share: networks, terms, conditions, drawing of codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.spec import DataSpec
from lightning_gen.module import GenerativeModule
from lightning_gen.noise import numbered
from lightning_gen.objectives.latent import Step
from lightning_gen.objectives.terms import Term, parse_terms
from lightning_gen.protocols import DrawsCodes
from lightning_gen.schedule import Schedule, schedule
from lightning_gen.validation import Logs


class Coded(GenerativeModule):
    """x -> code -> x, with loss = reconstruction + sum of weight * term.

    Args:
        spec: the data's spec.
        terms: term -> weight, ramp, or {weight, **arguments}.
        conditional: whether the networks are told the class of each example.
        **options: of GenerativeModule.

    Raises:
        UserError: an unknown term; a conditional model on data without labels.
    """

    known_terms: ClassVar[Mapping[str, Term]]
    moving: ClassVar[frozenset[str]] = frozenset()  # terms by a network that changes, which do not compare in time
    draw_dim: int  # numbers that a draw from the prior takes
    sampler: DrawsCodes | None = None  # in place of the prior, see samplers.py

    def __init__(self, spec: DataSpec, *, terms: dict[str, Any], conditional: bool = False, **options: Any) -> None:
        super().__init__(spec, **options)
        if conditional and not self.spec.num_classes:
            raise UserError(
                "the model is conditional, but these data have no class labels: take data with labels, such as digits "
                "or mnist, or --model.conditional false"
            )
        self.classes = self.spec.num_classes if conditional else 0
        self.terms = parse_terms(terms, self.known_terms)
        self.weights = {name: schedule(term.weight) for name, term in self.terms.items()}
        for name, term in self.terms.items():
            self.schedules |= term.schedules(name)

    # Terms

    def term_values(self, s: Step) -> Logs:
        """Each term, (B,)."""
        return {
            name: term.term(s, **{key: self._now(value) for key, value in term.arguments.items()})
            for name, term in self.terms.items()
        }

    def _now(self, value: Any) -> Any:
        return self.weight(value) if isinstance(value, Schedule) else value

    def weighted(self, values: Logs) -> tuple[Tensor, Logs]:
        """reconstruction + sum of weight * term, and the means of all, from values (B,)."""
        means = {name: value.mean() for name, value in values.items()}
        loss = means["reconstruction"]
        for name, weight in self.weights.items():
            loss = torch.add(loss, means[name], alpha=self.weight(weight))
        return loss, means

    def validated(self, values: Logs) -> Tensor:
        """The same sum for each example (B,), with the weights at the end of the run, without what does not compare."""
        comparable = {name: weight for name, weight in self.weights.items() if name not in self.moving}
        return values["reconstruction"] + sum(weight.end * values[name] for name, weight in comparable.items())

    # Conditions

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
        if not self.training and len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.classes:  # waits for a device
            raise UserError(f"class {int(y.min())} to {int(y.max())}: this model knows 0 to {self.classes - 1}")
        return y

    def asked(self, n: int, y: Tensor | None, start: int) -> Tensor | None:
        """The classes of n samples: those asked for, or all in turn by the sample's number.

        Raises:
            UserError: a class out of range; a class asked of a model that knows none.
        """
        if y is None:
            return torch.arange(start, start + n, device=self.device) % self.classes if self.classes else None
        if not self.classes:
            raise UserError("this model knows no classes: take a conditional one, such as cvae")
        if len(y) != n or int(y.min()) < 0 or int(y.max()) >= self.classes:
            given = f"{len(y)} class ids for {n} samples" if len(y) != n else f"class {int(y.min())} to {int(y.max())}"
            raise UserError(f"{given}: possible are {n} ids from 0 to {self.classes - 1}")
        return y.to(self.device)

    # What it can do

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
        noise = numbered(range(start, start + n), (source.draw_dim,), seed, "sample").to(self.device)
        return self.decode(source.draw(noise), self.asked(n, y, start))


class Rebuilds:
    """Reconstructs by way of a code; the class that mixes it in says how it encodes and decodes."""

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> z (B, Z), the mean where the code is random."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> (B, *shape)."""
        return self.decode(self.encode(x, y), y)  # type: ignore[attr-defined]

    forward = reconstruct


class GaussianCode(Rebuilds):
    """q(z|x) = N(mu(x), diag sigma^2(x)), both from one encoder, which gives them side by side."""

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, *shape), classes (B,) of a conditional model -> mean (B, Z) and log-variance (B, Z) of q(z|x)."""
        return gaussian(call(self.network("encoder"), x, self.condition(y)))  # type: ignore[attr-defined]

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> posterior mean (B, Z)."""
        return self.posterior(x, y)[0]


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """A network's output (..., 2Z) -> mean and log-variance (..., Z), in float32 under autocast too, as nats are."""
    mean, log_var = out.float().chunk(2, dim=-1)
    return mean, log_var


def call(network: Callable[..., Tensor], x: Tensor, c: Tensor | None) -> Tensor:
    """A network of x or z, told the condition where there is one."""
    return network(x) if c is None else network(x, c)
