"""Scores of a segmentation against the ground truth: pixel accuracy, class accuracy, IoU."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Confusion matrix of pixels: true class by predicted class.

    Args:
        predicted: (B, H, W) class ids.
        truth: (B, H, W) class ids.
        classes: number of classes K.

    Returns:
        (K, K) int64, a row for each true class.
    """
    pairs = truth.flatten().long() * classes + predicted.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def scores(counts: Tensor) -> dict[str, Tensor]:
    """The scores of Long et al. 2015, section 5, of a confusion (K, K); the mean ones over the classes that are there.

    Returns:
        {"pixel_accuracy", "class_accuracy", "mean_iou"}, each () float64 in [0, 1].
    """
    counts = counts.double()
    right, true, seen = counts.diagonal(), counts.sum(1), counts.sum(0)  # (K,)
    union = true + seen - right
    return {
        "pixel_accuracy": right.sum() / counts.sum(),
        "class_accuracy": (right / true)[true > 0].mean(),
        "mean_iou": (right / union)[union > 0].mean(),
    }
