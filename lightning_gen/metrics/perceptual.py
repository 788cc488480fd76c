"""LPIPS: the distance of two pictures in the features of a network trained on ImageNet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from lightning_gen.datamodules.errors import UserError
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import sha256_of

LEAST = 32  # pixels: of smaller pictures AlexNet's last layers have nothing left
URL = AlexNet_Weights.IMAGENET1K_V1.url


def weights_path() -> Path:
    """Where the weights of AlexNet belong."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def lpips() -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS (Zhang et al. 2018) with AlexNet: x and y (B, C, H, W) in [-1, 1], C = 1 or 3 -> (B,) at least 0.

    Nothing is downloaded by itself.

    Raises:
        Inapplicable: the weights are not there.
        UserError: they are another file.
    """
    path = weights_path()
    if not path.is_file():
        raise Inapplicable(f"LPIPS needs AlexNet's weights at {path}: download them from {URL}")
    if f"-{sha256_of(path)[:8]}." not in path.name:  # the name holds the start of its hash
        raise UserError(f"{path} is damaged or another file: delete it and download it anew from {URL}")
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore")  # of torchvision, about how torchmetrics asks for the weights
        network = LearnedPerceptualImagePatchSimilarity("alex").net  # the metric itself keeps the mean alone

    def distance(x: Tensor, y: Tensor) -> Tensor:
        if min(x.shape[2:]) < LEAST:
            raise Inapplicable(f"LPIPS needs pictures of at least {LEAST} x {LEAST} pixels, not {tuple(x.shape[2:])}")
        network.to(x.device)
        return network(*(picture.expand(-1, 3, -1, -1) for picture in (x, y))).flatten()

    return distance
