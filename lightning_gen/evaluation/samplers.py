"""Samplers: the distribution of the codes of new examples, chosen after training.

Ghosh et al. 2020, section 4 (ex-post density estimation), https://arxiv.org/abs/1903.12436: the codes of the training
examples seldom follow the prior, and samples are better where their density is fitted once the model is trained.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lightning_gen.datamodules import pixels
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.value_range import check_same_range
from lightning_gen.evaluation.code_flow import CodeFlow, fit_flow
from lightning_gen.evaluation.evaluation_run import check_finite
from lightning_gen.names import check_at_least_one
from lightning_gen.networks.condition import condition_of
from lightning_gen.objectives.priors import component
from lightning_gen.protocols import Encodes, Posterior, SamplesLatents
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.noise import indexed_noise

COMPONENTS = 10
MOST, MOST_OF_FLOW = 10_000, 100_000  # training examples whose codes are fitted
SEED = 20200426  # of the choice of examples, their binarisation and the start of the fit
RIDGE = 1e-6  # of the codes' mean variance, added to that of each component


@runtime_checkable
class TakesSampler(Encodes, Protocol):
    """Has latents sampled in one step, from the prior or from a sampler in its place."""

    sampler: SamplesLatents | None


class Normal:
    """N(0, I), whatever the model's prior is.

    Args:
        latent_dim: Z.
    """

    def __init__(self, latent_dim: int) -> None:
        self.draw_dim = latent_dim

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, Z) -> z (n, Z)."""
        return noise


class Mixture:
    """sum_c w_c N(m_c, L_c L_c^T).

    Args:
        weights: (C,) w, which sum to 1.
        means: (C, Z) m.
        factors: (C, Z, Z) L, lower triangular.
    """

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        self.weights, self.means, self.factors = weights, means, factors
        self.draw_dim = means.shape[1] + 1  # one more chooses the component

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, Z + 1) -> z = m_c + L_c eps, (n, Z)."""
        chosen = component(self.weights, noise[:, -1])
        return self.means[chosen] + (self.factors[chosen] @ noise[:, :-1, None]).squeeze(2)


def fit_mixture(codes: Tensor, components: int = COMPONENTS) -> Mixture:
    """A mixture of Gaussians with full covariances, fitted by expectation maximisation.

    Args:
        codes: (N, Z).
        components: number C of Gaussians.

    Raises:
        UserError: there are fewer than C (Z + 1) codes, so that some covariance would be singular.
    """
    from sklearn.exceptions import ConvergenceWarning  # here: it takes a second to import
    from sklearn.mixture import GaussianMixture

    check_at_least_one(components=components)
    count, dims = codes.shape
    if count < components * (dims + 1):
        most = count // (dims + 1)
        instead = f"--components {most}" if most else "--sampler normal"
        raise UserError(
            f"{components} components with covariances in {dims} dimensions need {components * (dims + 1):,} training "
            f"examples, and there are {count:,}: try {instead}"
        )
    x = codes.detach().double().cpu().numpy()
    ridge = RIDGE * (float(x.var(0).mean()) + RIDGE)
    model = GaussianMixture(components, reg_covar=ridge, max_iter=200, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that could still improve is a sampler too
        model.fit(x)
    parts = (model.weights_, model.means_, np.linalg.cholesky(model.covariances_))
    return Mixture(*(torch.from_numpy(part).to(codes.device, torch.float32) for part in parts))


def encode_training_set(model: Any, data: DataModule, most: int = MOST) -> Tensor:
    """Codes (N, Z) of at most ``most`` training examples, of a model that ``Encodes``.

    Raises:
        UserError: the data are of another shape, or a code is not finite.
    """
    if model.spec.shape != data.spec.shape:
        raise UserError(f"the model takes examples of shape {model.spec.shape}, the data have {data.spec.shape}")
    data = data.in_units_of(model.spec)
    order = torch.randperm(data.size("train"), generator=torch.Generator().manual_seed(SEED))  # data may be sorted
    parts = []
    for rows in order[:most].split(EVAL_BATCH_SIZE):
        batch = data.examples("train", rows)
        x, y = batch["x"], condition_of(batch)
        if data.binarize == "dynamic":  # as in training, which draws them anew each time
            noise = indexed_noise(batch["index"].tolist(), tuple(x.shape[1:]), SEED, "binarize")
            x = pixels.binarize(x, 2 * torch.special.ndtr(noise) - 1)
        parts.append(model.encode(x.to(model.device), None if y is None else y.to(model.device)))
    codes = torch.cat(parts)
    check_finite(codes, "codes of the training examples")
    return codes


def _prior(model: Any, data: DataModule | None, components: int) -> None:
    return None


def _normal(model: Any, data: DataModule | None, components: int) -> Normal:
    one = torch.zeros(1, *model.spec.shape, device=model.device)
    return Normal(model.encode(one, torch.zeros(1, dtype=torch.int64, device=model.device)).shape[1])


def _gmm(model: Any, data: DataModule | None, components: int) -> Mixture:
    assert data is not None
    return fit_mixture(encode_training_set(model, data), components)


def _flow(model: Any, data: DataModule | None, components: int) -> CodeFlow:
    assert data is not None
    return fit_flow(encode_training_set(model, data, MOST_OF_FLOW), isinstance(model, Posterior), SEED)


SAMPLERS: dict[str, Callable[[Any, DataModule | None, int], SamplesLatents | None]] = {
    "prior": _prior,  # the model's own
    "normal": _normal,
    "gmm": _gmm,
    "flow": _flow,
}
FITTED = ("gmm", "flow")  # those that need training data


def attach_sampler(
    model: Any, name: str, data: DataModule | None = None, components: int | None = None
) -> dict[str, str | int]:
    """Let a model draw its codes from a sampler; nothing of it is saved with the model.

    Args:
        model: any, for "prior"; else one with latents sampled in one step.
        name: "prior", the model's own; "normal", N(0, I); "gmm", a mixture of Gaussians, and "flow", a flow of codes,
            both fitted to training examples.
        data: with the training examples, for "gmm" and "flow".
        components: number of Gaussians of "gmm", 10 by default.

    Returns:
        its entries in a file of samples; nothing for the prior.

    Raises:
        UserError: an unknown name, a model without such codes, or too few training examples.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    if components is not None and name != "gmm":
        raise UserError(f"components {components}: only --sampler gmm has any, not {name}")
    components = COMPONENTS if components is None else components
    if data is not None:
        check_same_range(model.spec, data.spec)
    if isinstance(model, TakesSampler):
        with evaluation_mode(model):  # type: ignore[arg-type]
            model.sampler = SAMPLERS[name](model, data, components)
    elif name != "prior":
        raise UserError(
            f"sampler {name!r} draws codes, and {type(model).__name__} has none to draw: autoencoders have, such as "
            "vae, ae, wae and rae; others make samples in their own way, --sampler prior"
        )
    return {} if name == "prior" else {"sampler": name} | ({"components": components} if name == "gmm" else {})


def describe_sampler(setting: dict[str, Any]) -> str:
    """What ``attach_sampler`` returned, in words: "gmm of 10 components"."""
    of = f" of {setting['components']} components" if "components" in setting else ""
    return f"{setting['sampler']}{of}"


def add_sampler(parser: argparse.ArgumentParser) -> None:
    """The options of ``attach_sampler``."""
    parser.add_argument(
        "--sampler",
        choices=list(SAMPLERS),
        default="prior",
        help="where codes come from: the model's prior, N(0, I), or a Gaussian mixture or a flow (half a minute) "
        "fitted to the training examples (default prior)",
    )
    parser.add_argument("--components", type=int, help=f"Gaussians of --sampler gmm (default {COMPONENTS})")
