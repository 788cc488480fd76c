"""Cheap sample metrics at each validation, by which best.ckpt may be chosen."""

from __future__ import annotations

import re
from functools import partial

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.base import DataModule
from datamodules.errors import UserError, unknown
from lightning_gen.callbacks.pictures import sampling
from lightning_gen.evaluation.subject import Subject
from lightning_gen.metrics.base import FeatureMetric
from lightning_gen.metrics.distances import FrechetDistance, KernelDistance
from lightning_gen.metrics.extractors import Extractor
from lightning_gen.module import GenerativeModule

USUAL = 1000  # samples
WATCHED = ("fd", "kd")


class Watch(Callback):
    """Logs a distance of samples to the validation examples under its honest name, such as ``val/fd_mnist_v1@1k``.

    The samples have fixed numbers of a fixed seed, so the values of a run differ by the model alone, and the random
    numbers of training are untouched. A distance of few samples is larger than one of many: compare at an equal number.

    Args:
        names: "fd" or "kd", with a number of samples: "fd@1000"; several separated by commas.
        extractor: of the features.
        data: of the run; the test examples are not looked at.
        seed: of the samples.

    Raises:
        UserError: an unknown name, or more samples than there are validation examples.
    """

    def __init__(self, names: str, extractor: Extractor, data: DataModule, seed: int = 0) -> None:
        self.extractor, self.data, self.seed = extractor, data, seed
        self.ready: set[str] = set()  # metrics that hold their reference
        self.metrics: dict[str, tuple[int, FeatureMetric]] = {}
        for text in names.split(","):
            name, n = parse(text.strip())
            if n > data.size("val"):
                raise UserError(f"--watch {text}: there are {data.size('val'):,} validation examples: ask for fewer")
            metric = FrechetDistance(keep_real=True) if name == "fd" else _kernel(n)
            self.metrics[f"val/{extractor.label(name)}@{short(n)}"] = (n, metric)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        here = partial(Subject, rank=trainer.global_rank, world=trainer.world_size, split="val", seed=self.seed)
        sizes = {n for n, _ in self.metrics.values()}
        subjects = {n: here(pl_module, self.data, self.extractor, n=n) for n in sizes}
        values = {}
        for name, (n, metric) in self.metrics.items():
            with sampling(pl_module):
                if name not in self.ready:
                    metric.update(subjects[n].described("reference").features, real=True)
                    self.ready.add(name)
                metric.reset()  # keeps the reference
                metric.update(subjects[n].described("generated").features, real=False)
            result = metric.compute()
            values[name] = float(result["mean"] if isinstance(result, dict) else result)
        pl_module.log_dict(values, logger=False)  # for other callbacks, such as the one that keeps best.ckpt
        pl_module.write(values)


def parse(text: str) -> tuple[str, int]:
    """ "fd@1000" -> ("fd", 1000); "1k" is 1000.

    Raises:
        UserError: it is no such text, or another metric.
    """
    found = re.fullmatch(r"(\w+)(?:@(\d+)(k?))?", text)
    if not found or found.group(1) not in WATCHED:
        raise unknown("metric to watch", text, [f"{name}@1000" for name in WATCHED])
    n = int(found.group(2) or USUAL) * (1000 if found.group(3) else 1)
    if n < 10:
        raise UserError(f"--watch {text}: at least 10 samples")
    return found.group(1), n


def short(n: int) -> str:
    """1000 -> "1k", 297 -> "297"."""
    return f"{n // 1000}k" if n % 1000 == 0 else str(n)


def _kernel(n: int) -> KernelDistance:
    """All n samples as one subset, or ten subsets of a thousand."""
    return KernelDistance(subsets=10 if n > 1000 else 1, subset_size=min(n, 1000), keep_real=True)
