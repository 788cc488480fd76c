"""What the name of a value says: of "a2b_fd_mnist_v1" the metric is "fd", and with it what was measured."""

from __future__ import annotations

import re
from functools import cache

from lightning_gen.evaluation.values import UNTRANSLATED

SAMPLES = (
    *("fid", "fd", "kid", "kd", "is", "cs", "precision", "recall", "density", "coverage"),
    *("authenticity", "nn_ratio", "classes", "class_kl", "class_accuracy", "modes", "high_quality", "recognised"),
    *("reverse_kl", "final_over_best"),
)
LATENTS = (
    *("nll", "elbo", "reconstruction", "kl", "bits_per_dim", "rate", "psnr", "ssim"),
    *("active_units", "mutual_information", "mig", "factor_vae", "dci"),
)
TRANSLATIONS = (  # of one direction
    *("fid", "fd", "kid", "kd", "precision", "recall", "density", "coverage", "authenticity", "nn_ratio"),
    *("psnr", "ssim", "l1", "lpips", "pixel_accuracy", "class_accuracy", "mean_iou", "cycle", "identity"),
)
KNOWN = frozenset({*SAMPLES, *LATENTS, *TRANSLATIONS})
OF_TEST_EXAMPLES = KNOWN - {*SAMPLES}  # measured without samples of the prior and without an extractor
# The metrics whose value of real data is that of the reference itself; of the others, of real examples outside it.
OF_REFERENCE = frozenset({"authenticity", "nn_ratio", "modes", "high_quality", "recognised", "reverse_kl"})
# The metrics whose std is the standard error over the examples; of "kd" it is the spread over subsets, of "cs" over
# splits, and the others have none.
STANDARD_ERRORS = frozenset(
    {
        *("nll", "elbo", "reconstruction", "kl", "bits_per_dim", "rate", "psnr", "ssim", "l1"),
        *("lpips", "cycle", "identity", "class_kl", "reverse_kl"),  # over the samples
    }
)


@cache
def base_of(name: str) -> str:
    """The metric of a value; an unknown one is its own."""
    metric = re.sub("^(a2b|b2a)_", "", name.removesuffix(UNTRANSLATED))
    return max((base for base in KNOWN if f"{metric}_".startswith(f"{base}_")), key=len, default=metric)


def extractor_of(name: str) -> str:
    """The extractor that a value's name ends with; empty where it names none."""
    base = base_of(name)
    return "" if base in OF_TEST_EXAMPLES else name.partition(f"{base}_")[2]
