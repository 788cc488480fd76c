"""METRICS: groups of metrics that are measured together, by name; a function of the user's own is one by its path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lightning_gen.datamodules.errors import unknown
from lightning_gen.evaluation import codes, own, quality, translation
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.evaluation.quality import Measured

VERSION = 3  # of the metrics: raised when the same model gets other values
SAMPLES, CODES, TRANSLATIONS = "samples", "codes", "translations"
ALL = "all"  # stands for the groups that models of a kind may have


class Metric(NamedTuple):
    """A group of metrics that are measured together.

    Args:
        measure: gives them, or raises ``Inapplicable``.
        about: one line for the help.
        category: what they measure: translations count as samples, and other models have no translations measured
            unless these are named.
    """

    measure: Callable[[EvaluationRun], Measured]
    about: str
    category: str = SAMPLES


METRICS: dict[str, Metric] = {
    "modes": Metric(quality.modes, "modes found, share of good samples, reverse KL (Gaussian toy data)"),
    "fd": Metric(translation.with_untranslated(quality.frechet), "Frechet distance"),
    "kd": Metric(translation.with_untranslated(quality.kernel), "kernel distance"),
    "cs": Metric(quality.classifier_score, "inception-type classifier score"),
    "pr": Metric(quality.precision_recall, "precision and recall"),
    "dc": Metric(quality.density_coverage, "density and coverage, coverage per class"),
    "memorisation": Metric(quality.memorisation, "authenticity and nearest-neighbour ratio"),
    "classes": Metric(quality.classes, "classes by a classifier's predictions; accuracy on requested classes"),
    "elbo": Metric(codes.elbo, "evidence lower bound, reconstruction and KL", CODES),
    "reconstruction": Metric(codes.reconstructions, "PSNR and SSIM of reconstructions", CODES),
    "latents": Metric(codes.latent, "active units, mutual information, posterior collapse", CODES),
    "mig": Metric(
        codes.mutual_information_gaps, "mutual information gap, by Chen's convention and by histograms", CODES
    ),
    "factor_vae": Metric(codes.factor_vae, "FactorVAE score", CODES),
    "dci": Metric(codes.dci, "disentanglement, completeness, informativeness", CODES),
    "bits": Metric(codes.bits, "bits per dimension", CODES),
    "rate": Metric(codes.rate, "bits of an example's tokens under the prior", CODES),
    "nll": Metric(codes.importance, "negative log-likelihood: importance-sampled for each k, exact of a flow", CODES),
    "cycle": Metric(translation.cycle, "cycle reconstruction error", TRANSLATIONS),
    "identity": Metric(translation.identity, "identity error: change of target pictures by translation", TRANSLATIONS),
    "pairs": Metric(translation.pairs, "PSNR, SSIM and L1 against the truth, of paired data", TRANSLATIONS),
    "lpips": Metric(translation.perceptual, "LPIPS against the truth, of paired data", TRANSLATIONS),
    "segmentation": Metric(translation.segments, "segments against the truth's, with --segmenter", TRANSLATIONS),
}


def find_metric(name: str) -> Metric:
    """The group of a name of the table, or of the import path of a function of the user's own.

    Raises:
        UserError: it is neither.
    """
    if name in METRICS:
        return METRICS[name]
    if "." not in name:
        raise unknown("metric", name, [ALL, *METRICS])
    return Metric(*own.metric(name))


def own_metrics(names: Sequence[str]) -> list[str]:
    """Those that are import paths of the user's own functions."""
    return [name for name in names if name not in METRICS and name != ALL]


def check_metrics(names: Sequence[str]) -> None:
    """Import what has to be imported.

    Raises:
        UserError: a name is unknown, or the values of two would have the same names.
    """
    for name in names:
        if name != ALL:
            find_metric(name)
    own.check_names(own_metrics(names))
