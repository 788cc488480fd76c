"""Distances between the distributions of real and generated features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gen.metrics.base import Extractor, FeatureMetric, require_samples
from lightning_gen.names import check_at_least_one

SPARE = 8  # directions that a basis of a range has above its rank


class Moments(NamedTuple):
    """Of n rows: their number (), mean (d,) and scatter sum (x - mean)(x - mean)^T (d, d), in float64."""

    n: Tensor
    mean: Tensor
    scatter: Tensor


def _packed(m: Moments) -> Tensor:
    """(d + 2, d): rows that ranks can exchange as one tensor."""
    return torch.cat([m.n.expand(1, len(m.mean)), m.mean[None], m.scatter])


def _of(features: Tensor) -> Moments:
    mean = features.mean(0)
    centred = features - mean
    return Moments(torch.tensor(len(features)).to(features), mean, centred.T @ centred)


def _merged(packed: Tensor) -> Moments:
    """The moments of several sets of rows together (Chan, Golub & LeVeque 1979, equation 2.1), without large sums.

    Args:
        packed: (R * (d + 2), d) of R sets.
    """
    parts = packed.view(-1, packed.shape[1] + 2, packed.shape[1])  # (R, d + 2, d)
    n, means, scatters = parts[:, 0, :1], parts[:, 1], parts[:, 2:]  # (R, 1), (R, d), (R, d, d)
    total = n.sum()
    mean = means[0] + (n * (means - means[0])).sum(0) / total
    offsets = means - mean  # (R, d)
    return Moments(total, mean, scatters.sum(0) + (n * offsets).T @ offsets)


def _root(covariance: Tensor, rank: int) -> Tensor:
    """A (d, r) with A A^T = covariance (d, d), positive semidefinite and of this rank at most.

    Of fewer samples than dimensions it is found in a basis of the covariance's range, which takes a twentieth of the
    time (Halko, Martinsson & Tropp 2011, algorithm 4.1, exact for this rank).
    """
    d, columns = len(covariance), rank + SPARE
    if 2 * columns > d:
        return _eigen_root(covariance)
    generator = torch.Generator(covariance.device).manual_seed(0)
    drawn = torch.randn(d, columns, generator=generator, dtype=covariance.dtype, device=covariance.device)
    basis = torch.linalg.qr(covariance @ drawn).Q  # (d, rank + SPARE)
    return basis @ _eigen_root(basis.T @ covariance @ basis)


def _eigen_root(covariance: Tensor) -> Tensor:
    """The root (d, d) from eigenvalues, of which those below rounding count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors * torch.where(values > rounding, values, 0).sqrt()


class FrechetDistance(FeatureMetric):
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Dowson & Landau 1982; Heusel et al. 2017, equation 6.

    Keeps the moments alone, not the features. With S1 = A A^T and S2 = B B^T the last trace is the sum of the singular
    values of A^T B, which is right for singular covariances, hence for fewer samples than dimensions, too.

    Args:
        extractor: see ``FeatureMetric``.
        keep_real: ``reset`` keeps the reference.
        options: of ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def _store(self, state: list[Tensor], features: Tensor) -> list[Tensor]:
        before = [part for part in state if len(part)]
        return [_packed(_merged(torch.cat([*before, _packed(_of(features))])))]

    def compute(self) -> Tensor:
        """The distance () in float64, at least 0.

        Raises:
            UserError: for fewer than 2 samples on either side.
        """
        real, generated = self._moments("real"), self._moments("generated")
        covariances = [m.scatter / (m.n - 1) for m in (real, generated)]
        traces = covariances[0].trace() + covariances[1].trace()
        roots = [_root(c, int(m.n) - 1) for c, m in zip(covariances, (real, generated), strict=True)]
        root = torch.linalg.svdvals(roots[0].T @ roots[1]).sum()
        return ((real.mean - generated.mean).square().sum() + traces - 2 * root).clamp(min=0)

    def _moments(self, source: str) -> Moments:
        packed = self.features(source)
        moments = _merged(packed) if len(packed) else Moments(packed.new_zeros(()), packed, packed)
        require_samples(int(moments.n), 2, f"FrechetDistance: {source} samples")
        return moments


class KernelDistance(FeatureMetric):
    """Unbiased squared MMD with k(x, y) = (x . y / d + 1)^3, Binkowski et al. 2018, section 4.

    The mean and standard deviation over random subsets; the subsets depend on ``seed`` alone.

    Args:
        extractor: see ``FeatureMetric``.
        keep_real: ``reset`` keeps the reference.
        subsets: number of subsets.
        subset_size: real and generated samples in each.
        degree: of the polynomial.
        seed: of the subsets.
        options: of ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def __init__(
        self,
        extractor: Extractor | None = None,
        keep_real: bool = False,
        subsets: int = 100,
        subset_size: int = 1000,
        degree: int = 3,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(extractor, keep_real, **options)
        check_at_least_one(subsets=subsets, degree=degree)
        require_samples(subset_size, 2, "KernelDistance: subset_size", "an unbiased estimate compares pairs")
        self.subsets, self.subset_size, self.degree, self.seed = subsets, subset_size, degree, seed

    def compute(self) -> dict[str, Tensor]:
        """{"mean": (), "std": ()} over the subsets; the mean of equal distributions is 0 and may be negative.

        Raises:
            UserError: for fewer than ``subset_size`` samples on either side.
        """
        real, generated = self.real_and_generated(self.subset_size, "add samples or choose a smaller subset_size")
        generator = torch.Generator().manual_seed(self.seed)

        def subset(x: Tensor) -> Tensor:
            return x[torch.randperm(len(x), generator=generator)[: self.subset_size].to(x.device)]

        values = real.new_empty(self.subsets)  # at once: small blocks kept between large ones fragment the heap
        for i in range(self.subsets):
            values[i] = self._mmd(subset(real), subset(generated))
        return {"mean": values.mean(), "std": values.std(correction=0)}

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** self.degree  # (N, M)

    def _mmd(self, x: Tensor, y: Tensor) -> Tensor:
        """Of (N, d) and (N, d); Gretton et al. 2012, equation 3."""
        xx, yy = self._kernel(x, x), self._kernel(y, y)
        same = xx.sum() - xx.trace() + yy.sum() - yy.trace()
        return same / (len(x) * (len(x) - 1)) - 2 * self._kernel(x, y).mean()
