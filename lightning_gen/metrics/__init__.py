"""Metrics of samples, likelihoods and latents; each is usable alone."""

from lightning_gen.metrics.classifier_metrics import ClassAccuracy, ClassifierScore
from lightning_gen.metrics.distances import FrechetDistance, KernelDistance
from lightning_gen.metrics.extractors import Extractor, find_extractor
from lightning_gen.metrics.manifold import DensityCoverage, PrecisionRecall
from lightning_gen.metrics.memorisation import Memorisation
from lightning_gen.metrics.modes import ClassModes, GaussianModes

__all__ = [
    "ClassAccuracy",
    "ClassModes",
    "ClassifierScore",
    "DensityCoverage",
    "Extractor",
    "FrechetDistance",
    "GaussianModes",
    "KernelDistance",
    "Memorisation",
    "PrecisionRecall",
    "find_extractor",
]
