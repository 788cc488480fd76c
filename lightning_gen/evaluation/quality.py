"""Measurements of samples against real examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_gen.datamodules.order import derive_seed
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.stacked_mnist import StackedData, joint_class
from lightning_gen.evaluation.evaluation_run import EvaluationRun, ExtractedFeatures
from lightning_gen.evaluation.values import Value
from lightning_gen.metrics.base import FeatureMetric, GatherColumns
from lightning_gen.metrics.classifier_metrics import ClassAccuracy, ClassifierScore
from lightning_gen.metrics.distances import FrechetDistance, KernelDistance
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import Extractor, find_extractor
from lightning_gen.metrics.manifold import DensityCoverage, PrecisionRecall
from lightning_gen.metrics.memorisation import Memorisation
from lightning_gen.metrics.modes import ClassModes, GaussianModes, smooth_noise

Measured = Iterator[tuple[str, Value]]
FRECHET_DIMS = 4096  # above, the root of the covariance takes minutes to hours
SUBSET = 1000  # of the kernel distance
NEIGHBOURS = {"precision": 3, "density": 5}
RECOGNISED = 0.9  # probability of a class from which on a classifier recognises it
CITED = {"fd": "Heusel et al. 2017, eq. 6", "kd": "Binkowski et al. 2018, section 4", "cs": "Salimans et al. 2016"}


def frechet(s: EvaluationRun) -> Measured:
    """Fréchet distance."""
    if (dims := s.extract_features("reference").features.shape[1]) > FRECHET_DIMS:
        raise Inapplicable(f"features of {dims} dimensions are too many for a covariance: at most {FRECHET_DIMS}")
    own, floor = _against_reference(s, FrechetDistance(keep_real=True))
    how = f"Frechet distance of features ({CITED['fd']}); biased upwards by about 1/N: compare at equal N"
    yield _label(s, "fd"), _value(s, own, how, "lower", floor)


def kernel(s: EvaluationRun) -> Measured:
    """Kernel distance."""
    size = min(SUBSET, max(2, s.n // 2), s.floor_size)
    own, floor = _against_reference(s, KernelDistance(subset_size=size, seed=s.seed, keep_real=True))
    how = f"squared kernel MMD, cubic, unbiased ({CITED['kd']}); mean and std over 100 subsets of k examples"
    yield _label(s, "kd"), _value(s, own["mean"], how, "lower", floor["mean"], std=own["std"], k=size)


def classifier_score(s: EvaluationRun) -> Measured:
    """Inception-type score."""

    def score(source: str) -> dict[str, Tensor]:
        metric = ClassifierScore()
        metric.update(_log_probs(s, source))
        return metric.compute()

    own, floor = score("generated"), score("floor")
    how = f"exp of the mean KL between a sample's classes and all samples' ({CITED['cs']}); std over 10 splits"
    yield _label(s, "cs"), _value(s, own["mean"], how, "higher", floor["mean"], std=own["std"])


def precision_recall(s: EvaluationRun) -> Measured:
    """Precision and recall."""
    k = NEIGHBOURS["precision"]
    own, floor = _against_reference(s, PrecisionRecall(k=k, keep_real=True))
    what = {"precision": "samples among the real examples", "recall": "real examples among the samples"}
    for name, share in what.items():
        how = f"share of {share}: inside a ball to the k-th neighbour (Kynkaanniemi et al. 2019)"
        yield _label(s, name), _value(s, own[name], how, "higher", floor[name], k=k)


def density_coverage(s: EvaluationRun) -> Measured:
    """Density and coverage, coverage also per class."""
    k = NEIGHBOURS["density"]
    metric = DensityCoverage(k=k, keep_real=True)
    own, floor = _against_reference(s, metric, floor_first=True)
    how = "mean number of real balls round a sample, over k (Naeem et al. 2020, eq. 3); may exceed 1"
    yield _label(s, "density"), _value(s, own["density"], how, "higher", floor["density"], k=k)
    how = "share of real balls that hold a sample (Naeem et al. 2020, eq. 4)"
    details = {"per_class": _covered_per_class(s, metric.covered)}
    yield _label(s, "coverage"), _value(s, own["coverage"], how, "higher", floor["coverage"], k=k, details=details)


def _covered_per_class(s: EvaluationRun, covered: Tensor | None) -> dict[int, float] | None:
    y = s.extract_features("reference").y
    if y is None or covered is None:
        return None
    y = gather_rows(y)
    return {int(label): float(covered[y == label].double().mean()) for label in y.unique()}


def memorisation(s: EvaluationRun) -> Measured:
    """Memorisation: copies of training examples among the samples."""

    def against_training(source: str) -> dict[str, Tensor]:
        metric = Memorisation()
        for name, rows in (("train", "train"), ("held_out", "reference"), ("generated", source)):
            metric.update(s.extract_features(rows).features, source=name)
        return metric.compute()

    own, floor = against_training("generated"), against_training("reference")
    rows = s.train_rows
    how = f"share of samples farther from the nearest of {rows:,} training examples than that one's own neighbour is"
    how += " (Alaa et al. 2022); copies 0, fresh real examples the value beside it"
    near = f"near {float(floor['authenticity']):.2f}"
    yield _label(s, "authenticity"), _value(s, own["authenticity"], how, near, floor["authenticity"])
    how = f"mean distance to the nearest of {rows:,} training examples, over that of held-out examples; copies 0"
    yield _label(s, "nn_ratio"), _value(s, own["nn_ratio"], how, "near 1", floor["nn_ratio"])


def classes(s: EvaluationRun) -> Measured:
    """The classes of the samples, as predicted by a classifier trained on real examples."""
    total = s.data.spec.num_classes
    log_probs = _log_probs(s, "generated")
    if log_probs.shape[1] != total:
        raise Inapplicable(f"the extractor knows {log_probs.shape[1]} classes, the data have {total}")
    seen = ClassModes(total)
    seen.update(log_probs.argmax(1))
    found, counts = seen.compute(), torch.bincount(gather_rows(log_probs.argmax(1)), minlength=total)
    details: dict[str, Any] = {"samples_per_class": counts.tolist()}
    how = f"how many of {total} classes a classifier of real examples sees among the samples"
    yield _label(s, "classes"), _value(s, found["modes"], how, "higher", details=details)
    how = "KL in nats of the shares of these classes against equal shares, and its standard error over N draws"
    yield _label(s, "class_kl"), _value(s, found["reverse_kl"], how, None, std=found["standard_error"])
    if not s.classes:
        return
    accuracy = ClassAccuracy(total)
    requested = s.extract_features("generated").y
    assert requested is not None
    accuracy.update(log_probs, requested)
    result = accuracy.compute()
    how = "share of samples that a classifier of real examples assigns to the requested class"
    details = {"per_class": result["per_class"]}
    real = ClassAccuracy(total)
    floor = s.extract_features("floor")
    assert floor.log_probs is not None and floor.y is not None
    real.update(floor.log_probs, floor.y)
    yield (
        _label(s, "class_accuracy"),
        _value(s, result["accuracy"], how, "higher", real.compute()["accuracy"], details=details),
    )


def modes(s: EvaluationRun) -> Measured:
    """The modes of data that have known ones: Gaussians, or the classes of stacked images."""
    if isinstance(s.data, StackedData):
        return _stacked(s, *s.data.channel_dataset())
    if (known := s.data.modes()) is not None:
        return _gaussians(s, *known)
    raise Inapplicable("the data are not drawn from known modes")


def _gaussians(s: EvaluationRun, centres: Tensor, sigma: float) -> Measured:
    own, real = (
        _of_modes(s, _examples_of(s, source), GaussianModes(centres, sigma), lambda x: (x,))
        for source in ("generated", "real")
    )
    how = f"modes of {len(centres)} with a sample within 3 standard deviations"
    yield "modes", Value(own["modes"], s.n, how, "higher", real["modes"])
    how = "share of samples within 3 standard deviations of a mode (98.89 % of the true density)"
    yield "high_quality", Value(own["high_quality"], s.n, how, "higher", real["high_quality"])
    how = "KL in nats of the modes' shares of the high-quality samples against equal shares"
    yield "reverse_kl", Value(own["reverse_kl"], s.n, how, "lower", real["reverse_kl"])


def _stacked(s: EvaluationRun, dataset: str, channel: DataSpec) -> Measured:
    """By the classifier of the channels' data set, whatever the extractor of the other metrics."""
    classifier, total = find_extractor("auto", dataset, channel), s.data.spec.num_classes

    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.to(s.float64_device).unflatten(1, (-1, channel.shape[0])).flatten(0, 1)  # (B * S, C, H, W)
        best = classifier.log_probs(channels).view(len(x), -1, channel.num_classes).max(2)  # (B, S)
        return joint_class(best.indices, channel.num_classes), (best.values >= math.log(RECOGNISED)).all(1)

    sources = {source: _examples_of(s, source) for source in ("generated", "real")}
    sources["noise"] = lambda rows: _stacked_noise(s, rows)
    own, real, noise = (_of_modes(s, examples, ClassModes(total), read) for examples in sources.values())
    named, sure = _named(classifier), f"with a probability of {RECOGNISED} or more in each channel"
    how = f"modes of {total} that a classifier of the channels recognises {sure} (Lin et al. 2018, section 4.2)"
    note = f"smooth noise, which shows no digit, reaches {int(noise['modes'])}: such a count says nothing"
    yield classifier.label("modes"), Value(own["modes"], s.n, how, "higher", real["modes"], note=note, extractor=named)
    how = f"share of samples that are recognised {sure}; the others count for no mode"
    yield (
        classifier.label("recognised"),
        Value(own["recognised"], s.n, how, "higher", real["recognised"], extractor=named),
    )
    how = "KL in nats of the modes' shares of these against equal shares, which falls with N: compare at equal N"
    yield (
        classifier.label("reverse_kl"),
        Value(own["reverse_kl"], s.n, how, "lower", real["reverse_kl"], std=own["standard_error"], extractor=named),
    )


def _stacked_noise(s: EvaluationRun, rows: range) -> Tensor:
    """Smooth noise in the place of samples with these numbers."""
    channels, side, _ = s.data.spec.shape
    generator = torch.Generator().manual_seed(derive_seed(s.seed, "noise floor", rows.start))
    return smooth_noise(channels * len(rows), side, generator).view(len(rows), channels, side, side)


def _examples_of(s: EvaluationRun, source: str) -> Callable[[range], Tensor]:
    """Samples with these numbers, or the reference in their place."""
    return lambda rows: (s.samples(rows) if source == "generated" else s.real(s.split, rows)).x


def _of_modes(
    s: EvaluationRun,
    examples: Callable[[range], Tensor],
    metric: GaussianModes | ClassModes,
    read: Callable[[Tensor], tuple[Tensor, ...]],
) -> dict[str, Tensor]:
    """A metric of the examples with numbers 0 to n - 1; ``read`` says what of them it is given."""

    def local() -> None:
        for rows in s.chunks(s.n, "modes"):
            metric.update(*read(examples(rows)))

    s.run_on_all_ranks(local)
    return metric.compute()


def _against_reference(s: EvaluationRun, metric: FeatureMetric, floor_first: bool = False) -> tuple[Any, Any]:
    """A metric of the samples and of the floor, both against the reference; ``metric`` is left with the later one."""
    results = {}
    metric.update(s.extract_features("reference").features, real=True)
    for source in ("floor", "generated") if floor_first else ("generated", "floor"):
        metric.reset()  # keeps the reference
        metric.update(s.extract_features(source).features, real=False)
        results[source] = metric.compute()
    return results["generated"], results["floor"]


def _log_probs(s: EvaluationRun, source: str) -> Tensor:
    described: ExtractedFeatures = s.extract_features(source)
    if described.log_probs is None:
        raise Inapplicable(f"the extractor {_extractor(s).name} is no classifier")
    return described.log_probs


def gather_rows(values: Tensor) -> Tensor:
    """Values (n, ...) of all ranks, in order."""
    rows = GatherColumns("values")
    rows.update(values=values)
    return rows.compute()["values"]


def _extractor(s: EvaluationRun) -> Extractor:
    assert isinstance(s.extractor, Extractor)
    return s.extractor


def _label(s: EvaluationRun, metric: str) -> str:
    return _extractor(s).label(metric)


def _value(s: EvaluationRun, value: Any, how: str, better: str | None, floor: Any = None, **more: Any) -> Value:
    return Value(value, s.n, how + s.remark, better, floor, extractor=_named(_extractor(s)), **more)


def _named(extractor: Extractor) -> str:
    return f"{extractor.name} {(extractor.sha256 or '')[:8]}".strip()
