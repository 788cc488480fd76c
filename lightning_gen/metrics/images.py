"""Reconstruction quality of images: PSNR and SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_gen.metrics.errors import Inapplicable

REACH = 5  # pixels from the centre to the border of SSIM's 11 x 11 window


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean over the elements, x and y (B, *shape) -> (B,) float64."""
    return (x.double() - y.double()).square().flatten(1).mean(1)


def decibels(mse: Tensor, data_range: float = 2.0) -> Tensor:
    """PSNR = 10 log10(range^2 / mse), (...) -> (...); no error at all is inf.

    Of a mean over examples it is finite where one example's PSNR is not.
    """
    return 10 * torch.log10(data_range**2 / mse)


def psnr(x: Tensor, y: Tensor, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio of each example; inf for identical ones, so that their mean may be inf.

    Args:
        x: (B, *shape).
        y: (B, *shape).
        data_range: largest possible difference, 2 for data in [-1, 1].

    Returns:
        (B,) decibels, float64.
    """
    return decibels(mean_squared_error(x, y), data_range)


def ssim(x: Tensor, y: Tensor, data_range: float = 2.0) -> Tensor:
    """Structural similarity of each example (Wang et al. 2004, equation 13), 11 x 11 Gaussian window of sigma 1.5.

    Mean over the channels and over the windows round every pixel, for which the picture goes on mirrored beyond its
    border. Wang's own program counts the windows inside alone, of which pictures below 11 pixels have none: never
    compare the two, on pictures with an empty border they may be 0.3 apart.

    Args:
        x: (B, C, H, W) in [-range / 2, range / 2].
        y: (B, C, H, W) in [-range / 2, range / 2].
        data_range: 2 for data in [-1, 1].

    Returns:
        (B,) in [-1, 1], float32, rounded by less than 1e-5.

    Raises:
        Inapplicable: for what is no image, and for images below 6 pixels, which cannot be mirrored by 5.
    """
    if x.ndim != 4 or min(x.shape[2:]) <= REACH:
        shape = tuple(x.shape[1:])
        raise Inapplicable(f"SSIM needs images of at least {REACH + 1} x {REACH + 1} pixels, not examples of {shape}")
    # the formula is one of intensities: with mean luminances of both signs it would not measure likeness
    first, second = (image.float() + data_range / 2 for image in (x, y))
    similarity = structural_similarity_index_measure(first, second, data_range=data_range, reduction="none")
    assert isinstance(similarity, Tensor)
    return similarity
