"""Log-likelihoods of models that compute them exactly, as flows do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_gen.evaluation.evaluation_run import EvaluationRun, check_finite
from lightning_gen.evaluation.quality import Measured
from lightning_gen.evaluation.values import mean_with_stderr
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.likelihood import bits_per_dim
from lightning_gen.networks.condition import condition_of
from lightning_gen.objectives.levels import dequantise, stored_levels
from lightning_gen.training.noise import indexed_noise

MOST_NUMBERS = 800_000  # in examples, 1,000 of 28x28: each takes a hundred evaluations of the network and more
FEWEST = 100
ERROR = "test examples; std is the standard error over them"


def negative_log_likelihood(s: EvaluationRun) -> Measured:
    """-log p(x) of data that have a density."""
    if s.data.spec.values != "real":
        raise Inapplicable(f"{s.name} has a density, and {s.data.spec.values!r} data have none: see bits_per_dim")
    nll = -_log_prob(s, dequantised=False)
    how = f"-log p(x) in nats by the change of density along the flow (Chen et al. 2018), {len(nll):,} {ERROR}"
    yield "nll", mean_with_stderr(nll, how, "lower", likelihood="a density")


def bits(s: EvaluationRun) -> Measured:
    """Bits per dimension of data with levels: a bound, by uniform noise."""
    spec = s.data.spec
    if spec.values != "uint8":
        raise Inapplicable(f"{s.name} on {spec.values!r} data has no bits per dimension: 'uint8' data have levels")
    levels, dims = len(stored_levels(spec)), math.prod(spec.shape)
    nats = -_log_prob(s, dequantised=True)
    how = (
        f"bound: density of {levels} levels with uniform noise (Theis et al. 2016), over {dims} dimensions times ln 2, "
    )
    how += f"{len(nats):,} {ERROR}"
    yield "bits_per_dim", mean_with_stderr(bits_per_dim(nats, dims), how, "lower", likelihood=f"{levels} levels")


def _log_prob(s: EvaluationRun, dequantised: bool) -> Tensor:
    """log p(x) (n,) in nats of the first test examples of all ranks, or of their levels."""
    model: Any = s.model

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, numbers, log_volume = batch["x"], batch["index"].tolist(), torch.zeros(len(batch["x"]))
        if dequantised:
            noise = indexed_noise(numbers, tuple(x.shape[1:]), s.seed, "dequantise")
            x, log_volume = dequantise(x, (torch.special.ndtr(noise.double()) - 0.5).to(x), s.data.spec)
        return {"nats": model.log_prob(x, condition_of(batch), numbers) + log_volume.to(x)}

    n = min(s.n, max(FEWEST, MOST_NUMBERS // math.prod(s.data.spec.shape)))
    nats = s.map_test_set(["nats"], n, "exact likelihoods", work)["nats"]
    check_finite(nats, "likelihoods of the test examples")
    return nats
