"""Mode coverage: the number of known modes with samples, and the KL of their shares."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.metrics.base import UnevenRanksMetric, check_finite, require_samples
from lightning_gen.metrics.classifier_metrics import count_labels
from lightning_gen.names import check_at_least_one


def _reached(counts: Tensor) -> dict[str, Tensor]:
    """The number of modes with a sample, and KL(share of each mode || uniform) in nats, inf without samples.

    Args:
        counts: (M,) samples of each mode.
    """
    shares = counts.double() / counts.sum()  # (M,), NaN without samples
    kl = torch.special.xlogy(shares, shares * len(counts)).sum()
    return {"modes": (counts > 0).sum().double(), "reverse_kl": kl.nan_to_num(nan=math.inf)}


def _error_of_kl(counts: Tensor) -> Tensor:
    """Standard error of the plugged-in KL(share of each mode || uniform) of N samples, ().

    The first order of its expansion is the variance of log p over N; where the shares are even that vanishes, and the
    second order is left: 2 N KL is chi-squared with M - 1 degrees of freedom, of standard deviation sqrt(2 (M - 1)).
    The scatter of the shares themselves adds (M - 1) / N to the variance of their logarithms, which is taken off.
    """
    n, seen = counts.sum().double(), counts[counts > 0]
    shares = seen.double() / n
    logs = shares.log()
    scatter = (len(seen) - 1) / n
    variance = (shares * logs**2).sum() - (shares * logs).sum() ** 2 - scatter
    return ((variance.clamp(min=0) + scatter / 2) / n).sqrt().nan_to_num(nan=math.inf)  # without samples


def smooth_noise(n: int, side: int, generator: torch.Generator, size: int = 7) -> Tensor:
    """(n, 1, side, side) in [-1, 1], mostly black like MNIST, strokes without a digit: how many modes does noise reach?

    Args:
        n: number of pictures.
        side: of a picture, in pixels.
        generator: on the CPU.
        size: Gaussian numbers along a side, which are enlarged; ``side`` of them are white noise.
    """
    rough = torch.randn(n, 1, size, size, generator=generator)
    return 2 * torch.sigmoid(4 * F.interpolate(rough, size=side, mode="bicubic") - 4) - 1


class GaussianModes(UnevenRanksMetric):
    """Modes of a mixture of Gaussians, Srivastava et al. 2017, section 5.1; the KL of Lin et al. 2018, section 4.1.

    A sample is of high quality within ``radius`` standard deviations of the nearest centre.

    Args:
        centres: (M, D) of the modes.
        sigma: standard deviation of each.
        radius: in standard deviations.
        options: of ``torchmetrics.Metric``.
    """

    counts: Tensor
    total: Tensor

    def __init__(self, centres: Tensor, sigma: float, radius: float = 3.0, **options: Any) -> None:
        super().__init__(**options)
        if centres.ndim != 2 or sigma <= 0 or radius <= 0:
            raise UserError(
                f"GaussianModes: needs centres (M, D), sigma > 0 and radius > 0, got centres {tuple(centres.shape)}, "
                f"sigma {sigma}, radius {radius}"
            )
        self.centres = centres.detach().double()
        self.reach = radius * sigma
        self.add_state("counts", torch.zeros(len(centres), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, points: Tensor) -> None:
        """Add a batch of points (B, D).

        Raises:
            UserError: for another shape, and for points that are not finite.
        """
        if points.ndim != 2 or points.shape[1] != self.centres.shape[1]:
            raise UserError(f"GaussianModes: points must be (N, {self.centres.shape[1]}), got {tuple(points.shape)}")
        check_finite(points, "GaussianModes: points")
        points = points.detach().to(self.device, torch.float64)
        differences = points[:, None] - self.centres.to(self.device)  # (B, M, D)
        distances, modes = differences.norm(dim=2).min(1)  # (B,)
        self.counts = self.counts + torch.bincount(modes[distances <= self.reach], minlength=len(self.counts))
        self.total = self.total + len(points)

    def compute(self) -> dict[str, Tensor]:
        """The values, all ().

        Returns:
            "modes": with at least one sample of high quality; "high_quality": share of such samples; "reverse_kl":
            KL(their share per mode || uniform) in nats, inf where there are none.

        Raises:
            UserError: if there are no samples.
        """
        require_samples(int(self.total), 1, "GaussianModes: samples")
        return {**_reached(self.counts), "high_quality": self.counts.sum().double() / self.total}


class ClassModes(UnevenRanksMetric):
    """Modes that are classes of a classifier, such as the 1000 of Stacked MNIST, Lin et al. 2018, section 4.2.

    A classifier names a class where there is none, too: samples that it does not recognise count for no mode.

    Args:
        num_modes: M.
        options: of ``torchmetrics.Metric``.
    """

    counts: Tensor
    total: Tensor

    def __init__(self, num_modes: int, **options: Any) -> None:
        super().__init__(**options)
        check_at_least_one(num_modes=num_modes)
        self.num_modes = num_modes
        self.add_state("counts", torch.zeros(num_modes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, recognised: Tensor | None = None) -> None:
        """Add the labels (B,) of a batch of samples, and where known which of them are recognised (B,) bool.

        Raises:
            UserError: for labels that are no integers in [0, M).
        """
        labels = labels.to(self.device)
        known = labels if recognised is None else labels[recognised.to(self.device)]
        self.counts = self.counts + count_labels(known, self.num_modes, "ClassModes: labels")
        self.total = self.total + len(labels)

    def compute(self) -> dict[str, Tensor]:
        """The values, all ().

        Returns:
            "modes": with at least one recognised sample; "reverse_kl": KL(their share per mode || uniform) in nats, inf
            where there are none; "standard_error": of that KL, over draws of as many samples; "recognised": share of
            the samples.

        Raises:
            UserError: if there are no samples.
        """
        require_samples(int(self.total), 1, "ClassModes: samples")
        share = self.counts.sum().double() / self.total
        return {**_reached(self.counts), "standard_error": _error_of_kl(self.counts), "recognised": share}
