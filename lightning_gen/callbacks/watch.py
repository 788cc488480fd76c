"""Cheap sample metrics at each validation, by which best.ckpt may be chosen."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.evaluation.quality import FRECHET_DIMS
from lightning_gen.metrics.base import FeatureMetric
from lightning_gen.metrics.distances import FrechetDistance, KernelDistance
from lightning_gen.metrics.extractors import Extractor, find_extractor
from lightning_gen.protocols import Samples
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.module import GenerativeModule

USUAL = 1000  # samples
WATCHED = ("fd", "kd")
LEAST = 100  # smallest number of examples for a useful distance


class Watch(Callback):
    """Logs a distance of samples to the validation examples as ``val/fd_mnist_v1@1k``.

    The samples have fixed indices of a fixed seed, so the values of a run differ by the model alone, and the random
    numbers of training are untouched. A distance of few samples is larger than one of many: compare at an equal number.

    Args:
        names: "fd" or "kd", with a number of samples: "fd@1000"; several separated by commas.
        extractor: of the features.
        data: of the run; the test examples are not used.
        seed: of the samples.
        allow_fewer: take as many samples as there are validation examples where these are fewer, but not below 100.

    Raises:
        UserError: an unknown name.
    """

    def __init__(
        self, names: str, extractor: Extractor, data: DataModule, seed: int = 0, allow_fewer: bool = False
    ) -> None:
        self.extractor, self.data, self.seed, self.allow_fewer = extractor, data, seed, allow_fewer
        self.asked = [parse(name) for name in names.split(",")]
        self.metrics: list[FeatureMetric] = []
        self.subjects: dict[int, EvaluationRun] = {}

    @property
    def names(self) -> list[str]:
        """Under which the values are logged; with ``allow_fewer`` known after ``check``."""
        return [f"val/{self.extractor.label(name)}@{format_count(n)}" for name, n in self.asked]

    def check(self) -> None:
        """Whether the data, which must be there by now, can be measured."""
        if self.allow_fewer:
            n = self.data.size("val")
            self.asked = [(name, min(wanted, n)) for name, wanted in self.asked if n >= LEAST]
        for name, n in self.asked:
            if n > self.data.size("val"):
                raise UserError(
                    f"--watch {name}@{n}: there are {self.data.size('val'):,} validation examples: ask for fewer"
                )
            dims = math.prod(self.data.spec.shape)
            if name == "fd" and self.extractor.name == "raw" and dims > FRECHET_DIMS:
                raise UserError(f"--watch fd: values of {dims} dimensions are too many for a covariance: watch kd")

    def setup(self, trainer: L.Trainer, pl_module: GenerativeModule, stage: str) -> None:  # type: ignore[override]
        if stage != "fit":
            return
        if not isinstance(pl_module, Samples):
            raise UserError(f"--watch: {type(pl_module).__name__} makes no new examples")
        self.check()
        # of its own, because what is gathered is on the CPU, whatever the training's devices are
        group = torch.distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        self.metrics = [
            FrechetDistance(process_group=group) if name == "fd" else _kernel(n, group) for name, n in self.asked
        ]
        here = partial(EvaluationRun, rank=trainer.global_rank, world=trainer.world_size, split="val", seed=self.seed)
        self.subjects = {n: here(pl_module, self.data, self.extractor, n=n) for _, n in self.asked}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self.asked:
            return
        for subject in self.subjects.values():
            subject.clear_samples()
        values = {}
        for name, (_, n), metric in zip(self.names, self.asked, self.metrics, strict=True):
            with evaluation_mode(pl_module):
                metric.reset()
                metric.update(self.subjects[n].extract_features("reference").features, real=True)
                metric.update(self.subjects[n].extract_features("generated").features, real=False)
            result = metric.compute()
            values[name] = float(result["mean"] if isinstance(result, dict) else result)
        pl_module.log_dict(values, logger=False)  # for other callbacks, such as the one that keeps best.ckpt
        pl_module.log_to_loggers(values)


def trained_extractor(dataset: str, data: Any) -> Extractor | None:
    """An extractor trained on the data set, if there is any; cheap enough to be on by default.

    Not the values themselves: mean and covariance of points say little about them, and would choose a poor checkpoint.
    """
    if not isinstance(data, DataModule):
        return None
    try:
        extractor = find_extractor("auto", dataset, data.spec)
    except UserError:
        return None
    return None if extractor.published or extractor.name == "raw" else extractor


def parse(text: str) -> tuple[str, int]:
    """ "fd@1000" -> ("fd", 1000); "1k" is 1000.

    Raises:
        UserError: it is no such text, or another metric.
    """
    found = re.fullmatch(r"(\w+)(?:@(\d+)(k?))?", text.strip())
    if not found or found.group(1) not in WATCHED:
        raise unknown("metric to watch", text, [f"{name}@1000" for name in WATCHED])
    n = int(found.group(2) or USUAL) * (1000 if found.group(3) else 1)
    if n < 10:
        raise UserError(f"--watch {text}: at least 10 samples")
    return found.group(1), n


def format_count(n: int) -> str:
    """1000 -> "1k", 297 -> "297"."""
    return f"{n // 1000}k" if n % 1000 == 0 else str(n)


def _kernel(n: int, group: Any) -> KernelDistance:
    """Ten subsets of half the samples, at most a thousand; not of all, because some real examples may be unreadable."""
    return KernelDistance(subsets=10, subset_size=min(n // 2, 1000), process_group=group)
