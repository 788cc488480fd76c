"""Metrics from classifier predictions on samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.metrics.base import UnevenRanksMetric, require_samples
from lightning_gen.names import check_at_least_one

ROUNDING = 0.05  # how far a sum of half-precision probabilities may be from 1


def _check_log_probs(log_probs: Tensor, metric: str) -> None:
    if log_probs.ndim != 2:
        raise UserError(f"{metric}: log-probabilities must be (N, C), got {tuple(log_probs.shape)}")
    bad = int((~((log_probs.exp().sum(1) - 1).abs() < ROUNDING)).sum())
    if bad:
        raise UserError(
            f"{metric}: {bad} of {len(log_probs)} rows are no log-probabilities (their exp must sum to 1): "
            "apply log_softmax to logits"
        )


class ClassifierScore(UnevenRanksMetric):
    """exp(E_x KL(p(y | x) || p(y))), Salimans et al. 2016, section 4: from 1 to the number of classes.

    Give the samples in random order: parts of samples that are sorted by class hold one class each, and score 1.

    Args:
        splits: contiguous parts of the samples, each with its own p(y) and score.
        options: of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    log_probs: list[Tensor]

    def __init__(self, splits: int = 10, **options: Any) -> None:
        super().__init__(**options)
        check_at_least_one(splits=splits)
        self.splits = splits
        self.add_rows("log_probs")

    def update(self, log_probs: Tensor) -> None:
        """Add a batch.

        Args:
            log_probs: (B, C) log p(y | x); -inf is probability 0.

        Raises:
            UserError: for another shape, and for rows that are no log-probabilities.
        """
        log_probs = log_probs.detach().to(self.device, torch.float64, copy=True)
        _check_log_probs(log_probs, "ClassifierScore")
        self.log_probs = [*self.log_probs, log_probs]

    def compute(self) -> dict[str, Tensor]:
        """{"mean": (), "std": ()} over the splits.

        Raises:
            UserError: for fewer samples than splits.
        """
        rows = self.rows("log_probs")
        require_samples(len(rows), self.splits, "ClassifierScore: samples", "add samples or choose fewer splits")
        scores = torch.stack([_score(part) for part in rows.tensor_split(self.splits)])
        return {"mean": scores.mean(), "std": scores.std(correction=0)}


def _score(log_probs: Tensor) -> Tensor:
    """(N, C) -> ()."""
    probs = log_probs.exp()
    information = log_probs - probs.mean(0).log()  # (N, C), -inf or NaN where p = 0
    return torch.where(probs > 0, probs * information, 0).sum(1).mean().exp()


class ClassAccuracy(UnevenRanksMetric):
    """Accuracy of a classifier's predictions on samples, with the requested labels as targets.

    Args:
        num_classes: C.
        options: of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    hits: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        check_at_least_one(num_classes=num_classes)
        self.num_classes = num_classes
        for name in ("hits", "counts"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_probs: Tensor, requested: Tensor) -> None:
        """Add a batch.

        Args:
            log_probs: (B, C), or logits.
            requested: (B,) class ids.

        Raises:
            UserError: for other shapes, NaN, and ids outside [0, C).
        """
        if log_probs.shape != (len(requested), self.num_classes):
            raise UserError(
                f"ClassAccuracy: log-probabilities must be ({len(requested)}, {self.num_classes}) for "
                f"{len(requested)} requested classes, got {tuple(log_probs.shape)}"
            )
        if log_probs.isnan().any():
            raise UserError("ClassAccuracy: log-probabilities are NaN: has the model diverged?")
        requested = requested.to(self.device)
        self.counts = self.counts + count_labels(requested, self.num_classes, "ClassAccuracy: requested classes")
        right = log_probs.argmax(1).to(self.device) == requested  # (B,)
        self.hits = self.hits + torch.bincount(requested[right], minlength=self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """{"accuracy": (), "per_class": (C,), NaN for classes that were never requested}.

        Raises:
            UserError: if there are no samples.
        """
        require_samples(int(self.counts.sum()), 1, "ClassAccuracy: samples")
        return {
            "accuracy": self.hits.sum().double() / self.counts.sum(),
            "per_class": self.hits.double() / self.counts,
        }


def count_labels(labels: Tensor, num_classes: int, what: str) -> Tensor:
    """How often each class occurs, (C,) int64.

    Args:
        labels: (N,) integers in [0, C).
        num_classes: C.
        what: the labels are, for the error.

    Raises:
        UserError: for labels that are no integers (N,) in that range.
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise UserError(f"{what} must be (N,) integers, got {tuple(labels.shape)} {labels.dtype}")
    outside = int(((labels < 0) | (labels >= num_classes)).sum())
    if outside:
        lowest, highest = int(labels.min()), int(labels.max())
        raise UserError(f"{what} must be in [0, {num_classes}), but {outside} are not: they span {lowest}..{highest}")
    return torch.bincount(labels.long(), minlength=num_classes)
