"""How many of Stacked MNIST's 1000 modes does noise reach? ``python benchmarks/modes_of_noise.py``, a minute of a core.

A count of modes asks a classifier for a digit where there may be none. Rows: white noise, and smooth noise (Gaussian,
of ``size`` x ``size`` numbers, enlarged) that shows strokes and no digit. Columns: the modes as ``evaluate`` counts
them, the share of samples of which the classifier is sure (0.9 or more in each channel), and the modes among these.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.stacked_mnist import joint_class
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.metrics.modes import ClassModes

SIDE, BATCH, SURE = 28, 1000, 0.9
KINDS = {"white noise": 28, "smooth noise, size 7": 7, "smooth noise, size 4": 4}


def noise(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 28, 28) in [-1, 1], mostly black, as MNIST's digits are."""
    rough = torch.randn(n, 1, size, size, generator=generator)
    return 2 * torch.sigmoid(4 * F.interpolate(rough, size=SIDE, mode="bicubic") - 4) - 1


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=26_000, help="samples (default 26000, as in the literature)")
    given = parser.parse_args()
    classifier = find_extractor("auto", "mnist", DataSpec((1, SIDE, SIDE), num_classes=10))
    print(f"{given.n:,} samples, {classifier.name}\n\n| samples | modes | sure | modes of these |\n|---|---|---|---|")
    for name, size in KINDS.items():
        generator = torch.Generator().manual_seed(0)
        labels, sure = [], []
        for rows in torch.arange(given.n).split(BATCH):
            log_probs = classifier.log_probs(noise(3 * len(rows), size, generator)).view(len(rows), 3, 10)
            labels.append(joint_class(log_probs.argmax(2), 10))
            sure.append((log_probs.amax(2).exp() >= SURE).all(1))
        of_all, known = torch.cat(labels), torch.cat(sure)
        print(f"| {name} | {count(of_all)} | {known.float().mean():.1%} | {count(of_all[known])} |")


def count(labels: Tensor) -> int:
    """Modes with at least one sample."""
    metric = ClassModes(1000)
    metric.update(labels)
    return int(metric.compute()["modes"]) if len(labels) else 0


if __name__ == "__main__":
    main()
