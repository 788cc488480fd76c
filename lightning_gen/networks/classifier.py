"""A small convolutional classifier: its features measure how far generated images are from real ones."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.dcgan import LARGEST, SMALLEST, fits
from lightning_gen.networks.layers import check_positive, norm_act_block


class Classifier(nn.Module):
    """x (B, C, H, W) in [-1, 1] -> features (B, D), logits (B, num_classes), with D = 4 * width.

    3x3 convolutions with BatchNorm and ReLU, halving the image until its shorter side is 4 to 8, the mean of each map,
    and a linear layer.

    The features are these means, scaled to mean 0 and variance 1 on the training images, with no hidden layer behind
    them: there training pulls each class together into a point. In a run on MNIST 98 % of a hidden layer's variance lay
    in 9 of 64 directions, a covariance with a condition number of 1e7; of the means before it that was 9e2, and
    differences within a class still count. A mean over a map also has no spike at 0 as a single ReLU has, and so is
    closer to the normal distribution that the Frechet distance (Heusel et al. 2017, equation 6) takes it for. The fixed
    scale makes distances under different classifiers comparable in size.

    Args:
        shape: (C, H, W) of an image, C 1 or 3, H and W from 8 to 256.
        num_classes: number of classes, at least 2.
        width: a quarter of the channels of the last layer; each layer at twice the size has half as many, at least
            ``width``.

    Raises:
        UserError: for other shapes or numbers.
    """

    def __init__(self, shape: tuple[int, ...], num_classes: int, width: int = 16) -> None:
        super().__init__()
        if not fits(DataSpec(shape)) or shape[0] not in (1, 3):
            raise UserError(
                f"the classifier takes images (C, H, W) with 1 or 3 channels and sides of {SMALLEST} to {LARGEST} "
                f"pixels, not {shape}: resize them with --data.size"
            )
        if num_classes < 2:
            raise UserError(f"a classifier needs at least 2 classes, not {num_classes}")
        check_positive("width", width)
        halvings = (min(shape[1:]) // SMALLEST).bit_length()
        channels = [4 * width // 2 ** min(left, 2) for left in range(halvings, -1, -1)]
        layers = [_convolution(shape[0], channels[0])]
        for a, b in pairwise(channels):
            layers += [_convolution(a, b, stride=2), _convolution(b, b)]
        mean = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # (B, D, h, w) -> (B, D)
        self.features = nn.Sequential(*layers, *mean, nn.BatchNorm1d(channels[-1], affine=False))
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return features, self.head(features)


def _convolution(a: int, b: int, stride: int = 1) -> nn.Module:
    """(B, a, H, W) -> (B, b, H / stride, W / stride), rounded up."""
    convolution = nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False)
    return norm_act_block(convolution, b, activation="relu", norm="batch", dropout=0.0, dims=2)
