"""What each sample metric sees: ``python benchmarks/metric_table.py --root data`` scores sets of known faults.

The samples are real MNIST images, spoilt in a known way, and every metric of evaluate.py scores them against the same
3,500 test images. Writes docs/evaluation.md's table, between its two marks, and prints it.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from lightning_gen import exits
from lightning_gen.config.arguments import Parser
from lightning_gen.datamodules.mnist import MNIST
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.evaluation import quality
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.metrics.extractors import find_extractor

N = 3_500  # as many as there are unused images of one class
TRAINED = 20_000  # images that stand for a model's training set; the others are fresh
CLASS, MISSING = 7, 4
COLUMNS = ("fd", "kd", "cs", "precision", "recall", "density", "coverage", "authenticity", "nn_ratio", "classes")
GROUPS = (
    quality.frechet,
    quality.kernel,
    quality.classifier_score,
    quality.precision_recall,
    quality.density_coverage,
    quality.memorisation,
    quality.classes,
)
PAGE = Path(__file__).parents[1] / "docs/evaluation.md"
MARKS = "<!-- table of benchmarks/metric_table.py -->", "<!-- end of the table -->"


class Parts(MNIST):
    """MNIST with a smaller training set, so that unused images are left to play the samples."""

    def splits(self):
        splits = super().splits()
        x, y = (splits["train"].columns[name] for name in "xy")
        self.fresh = x[TRAINED:], y[TRAINED:]
        order = torch.randperm(splits["test"].columns["x"].shape[0], generator=torch.Generator().manual_seed(0))
        test = {name: column[order] for name, column in splits["test"].columns.items()}
        return {**splits, "train": Tensors(x=x[:TRAINED], y=y[:TRAINED]), "test": Tensors(**test)}


class Images:
    """Images (N, 1, 28, 28) in the place of a model that makes them."""

    device = torch.device("cpu")

    def __init__(self, spec, x: Tensor) -> None:
        self.spec, self.x = spec, x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x

    def sample(self, n, y=None, seed=0, start=0):
        return self.x[start : start + n]


def cases(data: Parts) -> dict[str, Tensor]:
    """Sets of N images with a known fault each."""
    x, y = data.fresh
    real = x[:N].float() / 127.5 - 1
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    return {
        "real images": real,
        "noise of 10 %": (real + 0.2 * noise).clamp(-1, 1),  # 0.2 of the range of 2
        "blur of 1 pixel": gaussian_blur(real, 7, 1.0),
        f"no {MISSING}": x[y != MISSING][:N],
        f"only {CLASS}": x[y == CLASS][:N],
        "50 images, 70 times each": x[:50].repeat(N // 50, 1, 1, 1),
        "copies of training images": data._splits["train"].columns["x"][:N],
    }


def main(argv: list[str]) -> None:
    parser = Parser(prog="python benchmarks/metric_table.py", description=__doc__)
    parser.add_argument("--root", default="data", help="where MNIST is")
    given = parser.parse_args(argv)
    data = Parts(root=given.root)
    data.prepare_data()
    data.setup()
    extractor = find_extractor("auto", "mnist", data.spec)
    lines = [f"| samples | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    start = time.perf_counter()
    for name, images in cases(data).items():
        assert len(images) == N
        subject = EvaluationRun(Images(data.spec, images), data, extractor, n=N)
        values = dict(pair for group in GROUPS for pair in group(subject))
        cells = [f"{float(values[extractor.label(column)].value):.3g}" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    begin, end = MARKS
    text = PAGE.read_text(encoding="utf-8")
    table = f"{begin}\n\n" + "\n".join(lines) + f"\n\n{end}"
    PAGE.write_text(re.sub(f"{begin}.*{end}", lambda _: table, text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    exits.run_main(main)
