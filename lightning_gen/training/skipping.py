"""Skips steps with exceptional gradient norms; resets the running norm after MAX_CONSECUTIVE_SKIPS skips in a row.

Child 2021, "Very deep VAEs", https://arxiv.org/abs/2011.10650, skips the updates whose gradient has a norm above a
fixed threshold. A run whose gradients have grown for good would stop learning; here the threshold follows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError

WARMUP_STEPS = 20  # steps from which the typical norm is known well enough to leave one out
MAX_CONSECUTIVE_SKIPS = 10  # steps left out in a row
RATE = 0.01  # weight of a new norm in the running mean, from step 1 / RATE on; before, all norms count alike


class NoSkipping:
    """Leaves out nothing."""

    def check(self, scaled: bool) -> None:
        """Works with every precision."""

    def should_step(self, player: str, parameters: Iterable[Tensor]) -> bool:
        """Always."""
        return True

    def count(self, player: str) -> dict[str, float]:
        """Nothing to log."""
        return {}


@dataclass
class Norms:
    """Running statistics of a player's gradient norm.

    Args:
        log_typical: logarithm of their running geometric mean.
        seen: number of norms in it.
        in_row: number of steps just left out, one after the other.
        skipped: number of steps left out in all.
    """

    log_typical: float = 0.0
    seen: int = 0
    in_row: int = 0
    skipped: int = 0

    def update(self, log_norm: float, limit: float) -> bool:
        """Note a norm; whether its step is taken. A single norm counts as no further than ``limit`` from the mean."""
        skip = self.seen >= WARMUP_STEPS and log_norm - self.log_typical > limit
        if skip and self.in_row == MAX_CONSECUTIVE_SKIPS:
            skip, self.seen = False, 0  # these are the norms now: the mean starts anew
        distance = log_norm - self.log_typical
        if self.seen >= WARMUP_STEPS:
            distance = min(limit, max(-limit, distance))
        self.seen += 1
        self.log_typical += distance * max(1 / self.seen, RATE)
        self.in_row = self.in_row + 1 if skip else 0
        self.skipped += skip
        return not skip


class Skipping(nn.Module):
    """Leaves out a step whose gradient's norm is more than ``skip`` times the typical one of its player.

    Typical is the running geometric mean of the norms, including those of the steps left out, but none counted as
    further than a factor ``skip`` away. The first ``WARMUP_STEPS`` steps are taken, and so is the one after
    ``MAX_CONSECUTIVE_SKIPS`` left out in a row, at which the mean starts anew. A norm that is zero or not finite is not
    counted: finite.py checks for NaN.

    A module without parameters, so that its state is in the checkpoint; numbers, not tensors, because they
    decide on the host, and no conversion of the model may round them.

    Args:
        players: names of the players.
        skip: the factor, above 1.

    Raises:
        UserError: for another factor.
    """

    def __init__(self, players: Iterable[str], skip: float) -> None:
        super().__init__()
        if not skip > 1:
            raise UserError(f"skip {skip}: how many times the typical norm a gradient may have, above 1, such as 10")
        self.limit = math.log(skip)
        self.norms = {player: Norms() for player in players}

    def check(self, scaled: bool) -> None:
        """Check that gradient norms are available.

        Raises:
            UserError: gradients are scaled, as float16 needs it.
        """
        if scaled:
            raise UserError(
                "skip does not go with --trainer.precision 16-mixed, which scales gradients: try bf16-mixed"
            )

    def should_step(self, player: str, parameters: Iterable[Tensor]) -> bool:
        """Whether a player's step is taken, by the gradients of its parameters; waits for the device."""
        norm = gradient_norm(parameters)
        return not 0 < norm < math.inf or self.norms[player].update(math.log(norm), self.limit)

    def count(self, player: str) -> dict[str, float]:
        """How many steps were left out so far, to log; empty before the first."""
        skipped = self.norms[player].skipped
        return {"skipped": float(skipped)} if skipped else {}

    def get_extra_state(self) -> dict[str, dict[str, Any]]:
        return {player: asdict(norms) for player, norms in self.norms.items()}

    def set_extra_state(self, state: dict[str, dict[str, Any]]) -> None:
        self.norms = {player: Norms(**values) for player, values in state.items()}


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """The norm of all gradients together, or their largest entry where the squares overflow and the entries do not."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    return float(nn.utils.get_total_norm(gradients, math.inf)) if math.isinf(norm) else norm
