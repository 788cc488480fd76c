"""How many of Stacked MNIST's 1000 modes does noise reach? ``python benchmarks/modes_of_noise.py``, a minute of a core.

A count of modes asks a classifier for a digit where there may be none. Rows: white noise, and smooth noise that shows
strokes and no digit. Columns: the modes that any classification counts for, the share of samples that are recognised,
0.9 or more in each channel, and the modes of these alone, which is how ``evaluate`` counts.
"""

from __future__ import annotations

import argparse
import math

import torch

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.stacked_mnist import joint_class
from lightning_gen.evaluation.quality import RECOGNISED
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.metrics.modes import ClassModes, smooth_noise

SIDE, BATCH = 28, 1000
KINDS = {"white noise": 28, "smooth noise, size 7": 7, "smooth noise, size 4": 4}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=26_000, help="samples (default 26000, as in the literature)")
    given = parser.parse_args()
    classifier = find_extractor("auto", "mnist", DataSpec((1, SIDE, SIDE), num_classes=10))
    print(
        f"{given.n:,} samples, {classifier.name}\n\n| samples | modes | recognised | their modes |\n|---|---|---|---|"
    )
    for name, size in KINDS.items():
        generator, every, recognised = torch.Generator().manual_seed(0), ClassModes(1000), ClassModes(1000)
        for rows in torch.arange(given.n).split(BATCH):
            noise = smooth_noise(3 * len(rows), SIDE, generator, size)
            best = classifier.log_probs(noise).view(len(rows), 3, 10).max(2)
            labels = joint_class(best.indices, 10)
            every.update(labels)
            recognised.update(labels, (best.values >= math.log(RECOGNISED)).all(1))
        own = recognised.compute()
        print(f"| {name} | {int(every.compute()['modes'])} | {own['recognised']:.1%} | {int(own['modes'])} |")


if __name__ == "__main__":
    main()
