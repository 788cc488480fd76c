"""Measurements of likelihoods, reconstructions and latent codes, on held-out examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gen.evaluation import exact
from lightning_gen.evaluation.evaluation_run import EvaluationRun, check_finite
from lightning_gen.evaluation.quality import Measured
from lightning_gen.evaluation.values import Value, mean_with_stderr
from lightning_gen.kinds import kind_of
from lightning_gen.metrics import disentanglement, images, latents
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.likelihood import bits_per_dim, discretisation
from lightning_gen.networks.condition import condition_of
from lightning_gen.objectives.latent import ACTIVE, active_units, information_of_moments, kl_normal
from lightning_gen.objectives.levels import counting_levels, dequantise
from lightning_gen.objectives.priors import Normal
from lightning_gen.protocols import ExactLikelihood, Likelihood, MeasuresTokens, Reconstructs
from lightning_gen.training.noise import indexed_noise

FEWEST = 100  # examples of an importance bound, however large k
BITS_K = 100  # importance samples of the bits per dimension, at most
NEAR_BOUND = 0.5  # nats: so near to its bound an estimate of mutual information is not informative
SEPARATE = 10_000  # codes used by the disentanglement scores


class Rebuilt(NamedTuple):
    """A metric of reconstructions: (x, x~) (B, *shape) -> (B,), what it is, and which is better."""

    function: Callable[[Tensor, Tensor], Tensor]
    how: str
    better: str


REBUILT = {  # the kind of the data says which of them apply
    "psnr": Rebuilt(
        images.psnr,
        "of reconstructions of test examples, in decibels, mean over images; std is the standard error",
        "higher",
    ),
    "ssim": Rebuilt(images.ssim, "of reconstructions of test examples; std is the standard error", "higher"),
}


def elbo(s: EvaluationRun) -> Measured:
    """The evidence lower bound and its two parts."""
    model = _likelihood(s)

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        log_prob, kl = model.elbo(batch["x"], condition_of(batch), batch["index"].tolist())
        return {"log_prob": log_prob, "kl": kl}

    values = s.map_test_set(["log_prob", "kl"], s.n, "bounds of the test examples", work)
    log_prob, kl = values["log_prob"], values["kl"]
    check_finite(log_prob, "log_prob of the test examples")
    check_finite(kl, "kl of the test examples")
    error = "; std is the standard error over the test examples"
    how = f"log p(x|z) - KL(q(z|x) || p(z)) in nats, one z for each test example{error}"
    nats = _nats(s)
    yield "elbo", mean_with_stderr(log_prob - kl, how, "higher", likelihood=nats)
    yield "reconstruction", mean_with_stderr(-log_prob, f"-log p(x|z) in nats{error}", "lower", likelihood=nats)
    yield "kl", mean_with_stderr(kl, f"KL(q(z|x) || p(z)) in nats{error}", None)


def importance(s: EvaluationRun) -> Measured:
    """The importance-sampled bound for each k, of the same examples, as many as the largest allows; of flows exact."""
    if isinstance(s.model, ExactLikelihood):
        yield from exact.negative_log_likelihood(s)
        return
    n = min(s.n, max(FEWEST, s.draws // max(s.k)))
    for k in sorted(s.k):
        nll = -_bound(s, k, n)
        how = f"-log 1/k sum p(x,z)/q(z|x) in nats (Burda et al. 2016, eq. 8), {len(nll):,} test examples"
        how += "; std is the standard error over them"
        yield f"nll_is{k}", mean_with_stderr(nll, how, "lower", k=k, likelihood=_nats(s))


def bits(s: EvaluationRun) -> Measured:
    """Bits per dimension, where the data have levels."""
    if isinstance(s.model, ExactLikelihood):
        yield from exact.bits(s)
        return
    model = _likelihood(s)
    rule = discretisation(getattr(model, "likelihood", None), s.data.spec)
    dims = math.prod(s.data.spec.shape)
    k = min(BITS_K, *s.k)
    n = min(s.n, max(FEWEST, s.draws // k))
    with counting_levels(model, s.data.spec):
        nats = -_bound(s, k, n, rule.dequantise)
    how = f"importance bound over {dims} dimensions times ln 2; {rule.levels} levels: {rule.how}; {len(nats):,} "
    how += "test examples; std is the standard error over them"
    levels = f"{rule.levels} levels"  # of which the bits of all likelihoods compare
    yield "bits_per_dim", mean_with_stderr(bits_per_dim(nats, dims), how, "lower", k=k, likelihood=levels)


def rate(s: EvaluationRun) -> Measured:
    """What the tokens of an example cost under the model's prior, without a class: the length of a file of many."""
    model = s.model
    if not isinstance(model, MeasuresTokens):
        raise Inapplicable(f"{s.name} has no tokens and prior of them")

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"bits": model.code_length(model.tokens(batch["x"])) / math.log(2)}

    lengths = s.map_test_set(["bits"], s.n, "bits of the tokens", work)["bits"]
    check_finite(lengths, "code lengths of the test examples")
    how = (
        f"-log2 p(tokens) of {model.tokens_shape} tokens of {model.vocab} values, without a class, in bits; std is the "
    )
    how += "standard error over the test examples"
    yield "rate", mean_with_stderr(lengths, how, None)


def _bound(s: EvaluationRun, k: int, n: int, dequantised: bool = False) -> Tensor:
    """log p(x) of the first n test examples by k draws, (n,) in nats, of all ranks; ``dequantised``: log P(levels)."""
    model = _likelihood(s)

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, numbers = batch["x"], batch["index"].tolist()
        if not dequantised:
            return {"bound": model.log_likelihood(x, k, condition_of(batch), numbers=numbers)}
        noise = indexed_noise(numbers, tuple(x.shape[1:]), s.seed, "dequantise")
        uniform = torch.special.ndtr(noise.double()) - 0.5  # the distribution function of a normal number is uniform
        x, log_volume = dequantise(x, uniform.to(x), s.data.spec)
        return {"bound": model.log_likelihood(x, k, condition_of(batch), numbers=numbers) + log_volume}

    bound = s.map_test_set(["bound"], n, f"importance sampling, k = {k}", work)["bound"]
    check_finite(bound, "likelihoods of the test examples")
    return bound


def _nats(s: EvaluationRun) -> str:
    """The variable of which log p(x|z) is a density or probability."""
    likelihood = getattr(s.model, "likelihood", s.model)
    return f"{type(likelihood).__name__} of {s.data.spec.values} values"


def _likelihood(s: EvaluationRun) -> Any:
    if not isinstance(s.model, Likelihood):
        raise Inapplicable(f"{s.name} knows no likelihood")
    return s.model


def reconstructions(s: EvaluationRun) -> Measured:
    """PSNR and SSIM of reconstructions."""
    model, names = s.model, kind_of(s.data.spec).reconstruction_metrics
    if not isinstance(model, Reconstructs) or not names:
        raise Inapplicable(f"{s.name} on {s.data.spec.kind} data has no reconstructions with PSNR and SSIM")

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, rebuilt = batch["x"].cpu(), model.reconstruct(batch["x"], condition_of(batch)).cpu()
        return {name: REBUILT[name].function(x, rebuilt) for name in names}

    values = s.map_test_set(names, s.n, "reconstructions", work)
    for name in names:
        if name != "psnr":  # which is infinite for a perfect reconstruction
            check_finite(values[name], "reconstructions")
        yield name, mean_with_stderr(values[name], REBUILT[name].how, REBUILT[name].better)


def latent(s: EvaluationRun) -> Measured:
    """Information in the code: active units, mutual information, collapse."""
    codes = s.codes()
    mean, log_var, n = codes["mean"], codes["log_var"], len(codes["mean"])
    carried = kl_normal(mean, log_var).mean(0)  # (Z,)
    if not isinstance(getattr(s.model, "prior", None), Normal):  # then the KL to the normal of the code's own moments
        moments = mean.mean(0), mean.square().mean(0), log_var.exp().mean(0), log_var.mean(0)
        carried = information_of_moments(*moments)
    active = int(active_units(mean.mean(0), mean.square().mean(0)).sum())
    report = latents.collapse_report(carried, mean.var(0, correction=0))
    how = f"latents of {len(carried)} whose posterior mean varies by more than {ACTIVE} (Burda et al. 2016, section 4)"
    yield "active_units", Value(active, n, how, None, details=report)
    information = latents.mutual_information(codes["z"], mean, log_var)
    bound = math.log(n)
    how = (
        f"I(x; z) under q in nats (Hoffman and Johnson 2016), of {n:,} examples and so at most log {n:,} = {bound:.2f}"
    )
    full = information > bound - NEAR_BOUND
    note = (
        f"the value is at its bound of {bound:.2f} for {n:,} examples: the information may be larger" if full else None
    )
    yield "mutual_information", Value(information, n, how, None, note=note)


def _factors(s: EvaluationRun) -> tuple[dict[str, Tensor], Tensor, int]:
    if not s.data.spec.factors:
        raise Inapplicable("the data have no known factors of variation")
    codes = {name: column[:SEPARATE] for name, column in s.codes().items()}
    return codes, codes["factors"], len(codes["mean"])


def mutual_information_gaps(s: EvaluationRun) -> Measured:
    """The mutual information gap in both conventions."""
    codes, factors, n = _factors(s)
    result = disentanglement.mig_chen(codes["mean"], codes["log_var"], factors, seed=s.seed)
    how = "gap between the two codes that know most of a factor, over its entropy; densities from q(z|x)"
    yield "mig_chen", Value(result.pop("mig"), n, f"{how} (Chen et al. 2018, eq. 6)", "higher", details=result)
    result = disentanglement.mig_histogram(codes["mean"], factors)
    how = "the same gap from histograms of the posterior means in 20 bins (Locatello et al. 2019)"
    yield "mig_histogram", Value(result.pop("mig"), n, how, "higher", details=result)


def factor_vae(s: EvaluationRun) -> Measured:
    """FactorVAE's score."""
    codes, factors, n = _factors(s)
    score = disentanglement.factor_vae_score(codes["mean"], factors, seed=s.seed)
    how = f"accuracy of naming the fixed factor by the code that varies least (Kim and Mnih 2018); of {n:,} codes"
    yield "factor_vae", Value(score, n, how, "higher")


def dci(s: EvaluationRun) -> Measured:
    """Disentanglement, completeness, informativeness."""
    codes, factors, n = _factors(s)
    result = disentanglement.dci(codes["mean"], factors, seed=s.seed)
    for name in ("disentanglement", "completeness", "informativeness"):
        how = f"{name} of the posterior means (Eastwood and Williams 2018), by decision forests"
        yield f"dci_{name}", Value(result[name], n, how, "higher")
