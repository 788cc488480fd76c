"""Validation: exact means over all examples, for any batch size and number of devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_gen.training.lightning_use import LightningUse
from lightning_gen.training.memory_order import ContiguousInputs
from lightning_gen.training.players import size_of

Batch = dict[str, Tensor]
Logs = dict[str, Tensor]

MOST_NATS = 709.0  # of which exp is a float


class Ratio(NamedTuple):
    """A validation value that is a ratio of sums over all examples: the quotient of two logged means, taken at the end.

    A mean of quotients would be another value: a perplexity is exp(sum of nats / sum of tokens).

    Args:
        numerator: name of a validation value.
        denominator: name of another one, such as the number of tokens of each example.
        of: function applied to the quotient.
    """

    numerator: str
    denominator: str
    of: Callable[[float], float] = float

    def __call__(self, means: Mapping[str, float]) -> float:
        """The value, from the means over all examples; NaN of 0 / 0."""
        above, below = means[self.numerator], means[self.denominator]
        return self.of(above / below) if below else math.nan


def perplexity(nats: float) -> float:
    """exp(nats), infinity where it is larger than a float."""
    return math.exp(nats) if nats < MOST_NATS else math.inf


class Means:
    """Sums of per-example values in float64 on the CPU, and the number of examples."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Values (B, ...) of each example of a batch."""
        for name, value in values.items():
            total = value.detach().cpu().double().sum(0)  # (...)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.count += len(next(iter(values.values()), ()))

    def reduce(self, world_size: int = 1) -> dict[str, Tensor]:
        """The means (...) over all examples of all ranks, the same on each; ranks may have seen nothing."""
        parts: list[Any] = [(self.sums, self.count)]
        if world_size > 1:
            parts = [None] * world_size
            torch.distributed.all_gather_object(parts, (self.sums, self.count))
        parts = [part for part in parts if part[1]]
        count = sum(seen for _, seen in parts)
        return {name: sum(sums[name] for sums, _ in parts) / count for name in parts[0][0]} if parts else {}


class Rows:
    """Values of single examples, on the CPU, by the examples' numbers: for what is a statistic of all of them."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, numbers: list[int], columns: Mapping[str, Tensor]) -> None:
        """Columns (B, ...) of a batch."""
        self.numbers += numbers
        for name, column in columns.items():
            self.parts.setdefault(name, []).append(column.detach().cpu())

    def gather(self, world_size: int = 1) -> dict[str, Tensor]:
        """The columns (N, ...) of all examples of all ranks in the order of their numbers, the same on each rank."""
        mine = self.numbers, {name: torch.cat(parts) for name, parts in self.parts.items()}
        ranks: list[Any] = [mine]
        if world_size > 1:
            ranks = [None] * world_size
            torch.distributed.all_gather_object(ranks, mine)
        ranks = [rank for rank in ranks if rank[0]]
        order = torch.tensor([number for numbers, _ in ranks for number in numbers]).argsort(stable=True)
        return {name: torch.cat([part[name] for _, part in ranks])[order] for name in ranks[0][1]} if ranks else {}


class ExampleMeanValidation(ContiguousInputs, LightningUse):
    """A LightningModule whose validation and test are means over examples, and statistics of all of them."""

    iteration: int
    rows: Rows | None = None  # while a validation or a test runs
    ratios: ClassVar[Mapping[str, Ratio]] = {}  # quotients of two validation values, by name, where both are there

    def check_finite(self) -> None:
        """Stop where training has diverged."""

    def validation_values(self, batch: Batch) -> Logs:
        """Values (B, ...) of each example of a validation batch; their means go to ``validation_summary``."""
        return {}

    def values_of_all(self, rows: Rows) -> Logs:
        """Statistics () of all examples, from what ``validation_values`` has added to the rows; called on all ranks."""
        return {}

    def validation_summary(self, means: Logs) -> dict[str, float]:
        """From means over the whole validation set to the scalars that are logged."""
        values = {name: float(mean) for name, mean in means.items()}
        there = {name: r for name, r in self.ratios.items() if r.numerator in values and r.denominator in values}
        return values | {name: ratio(values) for name, ratio in there.items()}

    def on_validation_epoch_start(self) -> None:
        self.check_finite()
        self._means, self.rows = Means(), Rows()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        size, seen = size_of(batch), self._means.count
        index = batch.get("index")
        if index is not None and bool((index < 0).all()):  # stands in on a device that gets no example
            return
        # of the examples, on which their noise depends
        self.example_indices = list(range(seen, seen + size)) if index is None else index.tolist()
        self._means.add(self.validation_values(batch))

    def on_validation_epoch_end(self) -> None:
        self._summarise("val")

    def on_test_epoch_end(self) -> None:
        self._summarise("test")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        return self(batch["x"])

    def _summarise(self, stage: str) -> None:
        means, rows = self._means.reduce(self.trainer.world_size), self.rows
        self.rows = None
        if rows is not None:
            means |= self.values_of_all(rows)
        values = {f"{stage}/{name}": value for name, value in self.validation_summary(means).items()}
        fitting = self.trainer.state.fn == "fit"
        self.log_dict(values, logger=not fitting)  # for callbacks, and what trainer.validate returns
        if fitting and not self.trainer.sanity_checking:
            self.log_to_loggers(values)

    def log_to_loggers(self, values: Mapping[str, float]) -> None:
        """Log to all loggers at this iteration; 50 times cheaper than ``self.log``."""
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=self.iteration)
