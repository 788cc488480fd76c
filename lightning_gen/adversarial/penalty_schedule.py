"""A discriminator's penalties as options: their weights, their intervals, and the StyleGAN2-ADA heuristic for gamma."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.names import join_nested_paths
from lightning_gen.objectives.penalties import PENALTIES, DiscriminatorStep, auto_gamma, lecam, r1, r2
from lightning_gen.objectives.terms import OPTION_KEYS, parse_terms
from lightning_gen.schedule import Schedule, schedule

AUTO = ("r1", "r2")  # whose weight the heuristic gives
BY_RULE = "auto"


class Penalties:
    """Several penalties, each with its weight and interval.

    Args:
        given: penalty -> weight, ramp, or {weight, every, **arguments}. ``every`` n computes it in each n-th iteration
            alone, with n times the weight (Karras et al. 2020, section 3.1). The weight "auto" of r1 and r2 is half of
            ``auto_gamma``.
        shape: of one example, for the heuristic.

    Raises:
        UserError: an unknown penalty or argument, an interval below 1, a weight "auto" of another penalty.
    """

    def __init__(self, given: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.every: dict[str, int] = {}
        self.by_rule: set[str] = set()
        plain: dict[str, Any] = {}
        for name, value in join_nested_paths(given, PENALTIES, OPTION_KEYS):
            options = dict(value) if isinstance(value, Mapping) else {"weight": value}
            self.every[name] = _interval(name, options.pop("every", 1))
            if options.get("weight") == BY_RULE:
                self._check_rule(name)
                options["weight"] = 1.0
                self.by_rule.add(name)
            plain[name] = None if value is None else options
        self.terms = parse_terms(plain, PENALTIES)
        self.weights = {name: _not_negative(name, schedule(term.weight)) for name, term in self.terms.items()}
        for name, weight in list(self.weights.items()):
            if weight.first == weight.end == 0:  # as if it were absent: its gradient is not computed either
                del self.terms[name], self.weights[name]
        self.needs_noise = any(
            term.term not in (r1, r2, lecam) for term in self.terms.values()
        )  # whether any of them uses noise
        self.schedules: dict[str, Schedule] = {}
        for name, term in self.terms.items():
            self.schedules |= term.schedules(name, "penalties")

    def _check_rule(self, name: str) -> None:
        if name not in AUTO:
            raise UserError(f"penalties.{name} auto: a rule is known for {' and '.join(AUTO)}; give a number")
        auto_gamma(self.shape, 1)

    def contains_any(self, *functions: Callable[..., Tensor]) -> bool:
        """Whether one of these is among them, by whatever name."""
        return any(term.term in functions for term in self.terms.values())

    def due_penalties(self, iteration: int) -> list[str]:
        """Those that are computed in this iteration."""
        return [name for name in self.terms if (iteration + 1) % self.every[name] == 0]

    def input_gradient_penalties(self, iteration: int) -> set[str]:
        """Those due whose gradient may come with the logits, as it is taken where they are: r1 and r2."""
        return {
            name
            for name in self.due_penalties(iteration)
            if name in AUTO and not self.terms[name].arguments.get("eager")
        }

    def loss(
        self, game: Callable[[], DiscriminatorStep], iteration: int, batch: int, now: Callable[[Schedule], float]
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The weighted sum of the penalties due, and the mean of each.

        Args:
            game: gives the discriminator's step; called only if a penalty is due.
            iteration: of the run.
            batch: the global one, for the heuristic.
            now: the value of a ramp at this iteration.
        """
        due = self.due_penalties(iteration)
        seen = game() if due else None
        values = {name: self.terms[name](seen, now).mean() for name in due}
        return sum((self.weight(name, batch, now) * value for name, value in values.items()), start=0.0), values

    def weight(self, name: str, batch: int, now: Callable[[Schedule], float]) -> float:
        """Of a penalty in an iteration in which it is computed."""
        weight = auto_gamma(self.shape, batch) / 2 if name in self.by_rule else now(self.weights[name])
        return weight * self.every[name]

    def startup_messages(self, batch: int) -> list[str]:
        """A message with the gamma that the heuristic gives."""
        size = " x ".join(map(str, self.shape[1:]))
        gamma = auto_gamma(self.shape, batch) if self.by_rule else 0.0
        return [
            f"penalty {name}: weight {gamma / 2:.4g} = gamma / 2, gamma = 0.0002 x {size} / {batch} (auto)"
            for name in sorted(self.by_rule)
        ]


def _not_negative(name: str, weight: Schedule) -> Schedule:
    if not (weight.first >= 0 and weight.end >= 0):
        raise UserError(f"penalties.{name} {weight.first:g} to {weight.end:g}: a weight must not be negative")
    return weight


def _interval(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"penalties.{name}.every {value!r}: give a number of iterations, at least 1")
    return value
