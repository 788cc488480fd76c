"""Estimators of a bound's gradient, on a linear model whose posterior is known, draw by draw."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_latent_metrics import PPCA, linear_vae, normal
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.objectives.estimators import ESTIMATORS
from lightning_gen.objectives.latent import gaussian_log_density, importance_bound
from lightning_gen.objectives.priors import Prior
from lightning_gen.schedule import schedule

DRAWS = 20_000


class Case:
    """One example x, its posterior as leaves (B, Z), one row for each repetition of the draw, and the model around it.

    Args:
        offset: what is added to the mean and the log-variance of the exact posterior.
        repeat: B.
    """

    def __init__(self, offset: float = 0.0, repeat: int = DRAWS) -> None:
        ppca = PPCA.draw(orthogonal=True)
        self.model = linear_vae(ppca).train()
        self.batch = {"x": ppca.data(1).expand(repeat, -1)}
        self.q = [(v + offset).repeat(repeat, 1).requires_grad_() for v in ppca.best_diagonal(ppca.data(1))]
        self.model.posterior = lambda x, y=None: tuple(self.q)
        self.model.noise = lambda shape, stream="z": normal(*shape, seed=10)

    def loss(self, estimator: str, k: int, kl: float = 1.0) -> Tensor:
        self.model.estimator, self.model.k, self.model.weights = ESTIMATORS[estimator], k, {"kl": schedule(kl)}
        return self.model.loss_vae(self.batch, {})[0]

    def gradient(self, estimator: str, k: int, kl: float = 1.0) -> Tensor:
        """Of -bound by mean and log-variance, for each draw on its own, (B, 2 Z)."""
        gradients = torch.autograd.grad(self.loss(estimator, k, kl), self.q)
        return torch.cat(gradients, 1) * len(self.q[0])  # the loss is a mean over draws


def farthest(difference: Tensor) -> float:
    """Draws (B, D) -> the largest distance of their mean from zero, in standard errors."""
    error = difference.std(0) / math.sqrt(len(difference))
    return float((difference.mean(0).abs() / error).max())


@pytest.mark.parametrize("kl", [1.0, 0.5])
def test_dreg_has_the_expectation_of_iwae_and_less_variance(kl: float):
    case = Case(offset=0.3)
    iwae, dreg = (case.gradient(name, 4, kl) for name in ("iwae", "dreg"))
    assert farthest(dreg - iwae) < 4
    assert farthest(iwae) > 20  # there is a gradient to agree upon
    assert (dreg.var(0) < iwae.var(0)).all()


def test_stl_is_biased_for_several_draws_and_not_for_one():
    case = Case(offset=0.3)
    assert farthest(case.gradient("stl", 4) - case.gradient("iwae", 4)) > 10
    assert farthest(case.gradient("stl", 1) - case.gradient("iwae", 1)) < 4


@pytest.mark.parametrize("name, k", [("stl", 1), ("stl", 4), ("dreg", 4)])
def test_at_the_exact_posterior_the_gradient_has_no_variance(name: str, k: int):
    case = Case(repeat=100)
    assert case.gradient(name, k).abs().max() < 1e-9
    assert case.gradient("iwae", k).std(0).min() > 1e-2


@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_decoder_and_value_are_those_of_iwae(name: str):
    case = Case(offset=0.3, repeat=10)
    decoder = list(case.model.decoder.parameters())
    ours, theirs = case.loss(name, 4), case.loss("iwae", 4)
    assert torch.equal(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, decoder), torch.autograd.grad(theirs, decoder), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
        assert b.abs().max() > 1e-3


@pytest.mark.parametrize("kl", [1.0, 0.5])
def test_the_loss_is_the_importance_bound_of_its_draws(kl: float):
    case = Case(offset=0.3, repeat=10)
    x, z = case.batch["x"], case.q[0] + torch.exp(0.5 * case.q[1]) * normal(10, 4, 3, seed=10).transpose(0, 1)
    log_px = case.model.likelihood.log_prob(x, case.model.decoder(z))
    zeros = torch.zeros_like(z)
    log_ratio = gaussian_log_density(z, zeros, zeros) - gaussian_log_density(z, *case.q)
    torch.testing.assert_close(case.loss("iwae", 4, kl), -importance_bound(log_px + kl * log_ratio).mean())


def test_iwae_of_one_draw_is_the_elbo_with_the_kl_of_that_draw(monkeypatch):
    case = Case(offset=0.3, repeat=10)
    iwae = case.loss("iwae", 1)
    closed = case.loss("elbo", 1)
    monkeypatch.setattr(type(case.model.prior), "kl", Prior.kl)
    case.model.noise = lambda shape, stream="z": normal(10, 1, 3, seed=10)[:, 0]
    elbo = case.loss("elbo", 1)
    torch.testing.assert_close(iwae, elbo, rtol=1e-12, atol=0)
    assert (closed - elbo).abs() > 1e-2
    for a, b in zip(torch.autograd.grad(iwae, case.q), torch.autograd.grad(elbo, case.q), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_validation_reports_the_bound_that_is_trained():
    spec = DataSpec((5,), "vector", "real", size=100)
    terms = {"kl": "0..0.5@100"}
    model = VAE(spec, latent_dim=2, network="mlp", estimator="iwae", k=3, terms=terms).eval()
    model.example_indices = [4, 5, 6, 7]
    x = normal(4, 5).float()
    with torch.no_grad():
        loss = model.validation_values({"x": x})["loss"]
        torch.testing.assert_close(loss, -model.log_likelihood(x, 3, numbers=model.example_indices, power=0.5))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"estimator": "elbo", "k": 5}, "draws one z for each example, not k = 5: take iwae, stl or dreg"),
        ({"estimator": "iwae", "k": 0}, "k 0: it must be at least 1"),
        ({"estimator": "iwae", "k": 5, "terms": {"kl": 1, "tc": 5}}, "'kl' and nothing else.*need the estimator elbo"),
        ({"estimator": "dreg", "terms": {"capacity": 1}}, "'kl' and nothing else"),
        ({"estimator": "stl", "terms": {}}, "'kl' and nothing else"),
        ({"estimator": "iwae", "terms": {"kl": {"weight": 1, "free_bits": 0.1}}}, "'kl' and nothing else"),
        ({"estimator": "iwea"}, "unknown estimator 'iwea': did you mean 'iwae'.*dreg.*elbo.*iwae.*stl"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        VAE(DataSpec((5,), "vector", "real"), **options)
