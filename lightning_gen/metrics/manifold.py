"""Fidelity and diversity of samples by balls round each sample, which reach to its k-th nearest neighbour."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_gen.metrics.base import Extractor, FeatureMetric
from lightning_gen.metrics.neighbours import count_inside, nearest
from lightning_gen.names import check_at_least_one


def _radii(x: Tensor, k: int) -> Tensor:
    """Distances (N,) of the rows (N, d) to their k-th nearest other rows."""
    return nearest(x, x, k, exclude_self=True)[0][:, -1]


class PrecisionRecall(FeatureMetric):
    """Improved precision and recall, Kynkaanniemi et al. 2019, equations 1 and 2.

    Precision is the share of generated samples in the ball of any real one, recall the share of real samples in the
    ball of any generated one. Balls are closed.

    Args:
        extractor: see ``FeatureMetric``.
        keep_real: ``reset`` keeps the reference.
        k: a ball reaches to the k-th nearest neighbour in its own set.
        options: of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, extractor: Extractor | None = None, keep_real: bool = False, k: int = 3, **options: Any) -> None:
        super().__init__(extractor, keep_real, **options)
        check_at_least_one(k=k)
        self.k = k

    def compute(self) -> dict[str, Tensor]:
        """{"precision": (), "recall": ()} in [0, 1].

        Raises:
            UserError: for fewer than k + 1 samples on either side.
        """
        real, generated = self.real_and_generated(self.k + 1, "add samples or choose a smaller k")
        return {
            "precision": _share_inside(generated, real, self.k),
            "recall": _share_inside(real, generated, self.k),
        }


def _share_inside(queries: Tensor, points: Tensor, k: int) -> Tensor:
    return (count_inside(queries, points, _radii(points, k))[0] > 0).double().mean()


class DensityCoverage(FeatureMetric):
    """Density and coverage, Naeem et al. 2020, equations 3 and 4.

    Density is the mean number of real balls round a generated sample, over k; coverage the share of real samples with
    a generated one in their ball. Balls are closed.

    Args:
        extractor: see ``FeatureMetric``.
        keep_real: ``reset`` keeps the reference.
        k: a ball reaches to the k-th nearest real neighbour.
        options: of ``torchmetrics.Metric``.

    Attributes:
        covered: (N,) bool after ``compute``, which real samples are covered, in the order of rank and update; else
            None.
    """

    higher_is_better = True

    def __init__(self, extractor: Extractor | None = None, keep_real: bool = False, k: int = 5, **options: Any) -> None:
        super().__init__(extractor, keep_real, **options)
        check_at_least_one(k=k)
        self.k = k
        self.covered: Tensor | None = None

    def compute(self) -> dict[str, Tensor]:
        """{"density": () at least 0, near 1 for equal distributions; "coverage": () in [0, 1]}.

        Raises:
            UserError: for fewer than k + 1 samples on either side.
        """
        real, generated = self.real_and_generated(self.k + 1, "add samples or choose a smaller k")
        holding, held = count_inside(generated, real, _radii(real, self.k))
        self.covered = held > 0
        return {"density": holding.double().mean() / self.k, "coverage": self.covered.double().mean()}

    def reset(self) -> None:
        """Clear what is covered, and all rows but those that are kept."""
        super().reset()
        self.covered = None
