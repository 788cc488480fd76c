"""Priors of a latent code: densities, draws, and fits against torch.distributions, closed forms and Monte Carlo."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributions as D
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.objectives import priors
from lightning_gen.objectives.latent import kl_normal, reparameterise
from lightning_gen.objectives.priors import Mixture, Normal, Prior, Vamp

POINTS = DataSpec((5,), "vector", "real", size=100, num_classes=3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
    """q(z|x) with x (B, 5) -> z (B, 3)."""
    mean, log_var = (x @ normal(5, 6, seed=5)).chunk(2, 1)
    return 2 * mean, log_var - 2


def refuse(x: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("this prior is not made of the posterior")


def mixture() -> Mixture:
    prior = Mixture(POINTS, 3, components=4).double()
    for parameter, value in ((prior.logits, normal(4, seed=1)), (prior.mean, 3 * normal(4, 3, seed=2))):
        parameter.data = value
    prior.log_var.data = normal(4, 3, seed=3) - 1
    return prior


def vamp(values: str = "real") -> Vamp:
    prior = Vamp(POINTS._replace(values=values), 3, components=4).double()
    prior.inputs.data = normal(4, 5, seed=4)
    return prior


def of_torch(prior: Mixture) -> D.MixtureSameFamily:
    """The same mixture, made from the prior's parameters."""
    if isinstance(prior, Vamp):
        weights, (mean, log_var) = torch.full((4,), 0.25).double(), encoder(prior.inputs)
    else:
        weights, mean, log_var = prior.logits.softmax(0), prior.mean, prior.log_var
    return D.MixtureSameFamily(D.Categorical(weights), D.Independent(D.Normal(mean, torch.exp(0.5 * log_var)), 1))


@pytest.mark.parametrize("prior", [mixture(), vamp()], ids=["mixture", "vamp"])
def test_the_density_is_that_of_torch_with_its_gradient(prior: Mixture):
    z = 3 * normal(7, 6, 3, seed=6).requires_grad_()
    ours, theirs = prior.log_prob(z, encoder), of_torch(prior).log_prob(z)
    assert ours.shape == (7, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    inputs = (z, *prior.parameters())
    both = (torch.autograd.grad(density.sum(), inputs) for density in (ours, theirs))
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_narrow_components_far_away_keep_their_digits_in_float32():
    """The square, multiplied out in float32, was off by a nat."""
    prior = Mixture(POINTS, 3, components=2)
    prior.mean.data, prior.log_var.data = (
        torch.tensor([[20.0] * 3, [-20.0] * 3]),
        torch.full((2, 3), 2 * math.log(0.01)),
    )
    z = prior.mean + 0.01 * normal(2, 3, seed=4).float()
    expected = of_torch(prior.double()).log_prob(z.double()).float()
    torch.testing.assert_close(prior.float().log_prob(z, encoder), expected, rtol=0, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("prior", [mixture(), vamp()], ids=["mixture", "vamp"])
def test_draws_have_the_mean_and_the_covariance_of_the_mixture(prior: Mixture):
    assert prior.draw_dim == 4
    z, expected = prior.draw(normal(100_000, 4, seed=7), encoder), of_torch(prior)
    each, share = expected.component_distribution, expected.mixture_distribution.probs
    assert each.mean is not None and share is not None
    error = expected.stddev / math.sqrt(len(z))
    assert ((z.mean(0) - expected.mean).abs() < 5 * error).all()
    centred = each.mean - expected.mean
    covariance = (share[:, None, None] * (centred.unsqueeze(2) * centred.unsqueeze(1))).sum(0)
    covariance = covariance + torch.diag((share[:, None] * each.variance).sum(0))
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0, atol=0.02 * float(covariance.max()))


def test_components_are_drawn_by_their_shares():
    weights = torch.tensor([0.1, 0.0, 0.6, 0.3])
    counts = torch.bincount(priors.component(weights, normal(50_000)), minlength=4) / 50_000
    torch.testing.assert_close(counts, weights, rtol=0, atol=0.01)
    assert counts[1] == 0
    ends = priors.component(weights, torch.tensor([-40.0, 40.0]))  # uniform numbers 0 and 1
    assert ends.tolist() == [0, 3]


def test_pseudo_inputs_stay_in_the_range_of_the_data():
    seen = []

    def watched(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return encoder(x)

    for values in ("uint8", "real"):
        vamp(values).log_prob(normal(2, 3), watched)
    torch.testing.assert_close(seen[0], vamp().inputs.tanh())
    torch.testing.assert_close(seen[1], vamp().inputs)


def test_the_normal_prior_is_in_closed_form_what_others_estimate():
    prior = Normal(POINTS, 3)
    mean, log_var = normal(4, 3, seed=1), normal(4, 3, seed=2)
    z = reparameterise(mean, log_var, normal(100_000, 4, 3, seed=3))
    closed = prior.kl(z[0], mean, log_var, refuse)
    torch.testing.assert_close(closed, kl_normal(mean, log_var))
    estimates = [Prior.kl(prior, z[:, i], mean[i], log_var[i], refuse) for i in range(4)]
    assert all(estimate.shape == (100_000, 1) for estimate in estimates)
    for estimate, exact in zip(estimates, closed.sum(1), strict=True):
        assert (estimate.mean() - exact).abs() < 5 * estimate.std() / math.sqrt(100_000)
    noise = normal(6, 3)
    assert prior.draw(noise, refuse) is noise


@pytest.mark.parametrize("prior", [mixture(), vamp()], ids=["mixture", "vamp"])
def test_the_kl_of_a_mixture_is_one_estimate_for_each_draw(prior: Mixture):
    mean, log_var = encoder(normal(6, 5, seed=8))
    z = reparameterise(mean, log_var, normal(6, 3, seed=9))
    expected = D.Independent(D.Normal(mean, torch.exp(0.5 * log_var)), 1).log_prob(z) - of_torch(prior).log_prob(z)
    estimate = prior.kl(z, mean, log_var, encoder)
    assert estimate.shape == (6, 1)
    torch.testing.assert_close(estimate[:, 0], expected, rtol=0, atol=1e-10)


def test_a_mixture_fits_two_clusters_where_the_normal_prior_cannot():
    torch.manual_seed(0)
    side = 4.0 * (torch.arange(512) % 4 > 0) - 2  # three quarters at 2, a quarter at -2
    z = side.unsqueeze(1) + 0.5 * normal(512, 2).float()
    prior = Mixture(POINTS, 2, components=2)
    prior.mean.data = torch.tensor([[0.1, 0.0], [-0.1, 0.0]])
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-prior.log_prob(z, refuse).mean()).backward()
        optimizer.step()
    nats = -prior.log_prob(z, refuse).mean().item()
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)) - 0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert nats == pytest.approx(entropy, abs=0.1)
    assert -Normal(POINTS, 2).log_prob(z, refuse).mean() > nats + 2
    torch.testing.assert_close(prior.logits.softmax(0), torch.tensor([0.75, 0.25]), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["mixture", "vamp"])
def test_a_vae_with_a_learned_prior_trains_it_and_its_encoder(name: str):
    args = {"components": 3}
    model = VAE(POINTS, latent_dim=2, network="mlp", network_args={"hidden": [8]}, prior=name, prior_args=args)
    s = model.infer(normal(6, 5).float(), None, normal(6, 2).float())
    assert s.kl is not None and s.kl.shape == (6, 1)
    for parameter in (*model.prior.parameters(), *model.encoder.parameters()):
        assert torch.autograd.grad(s.kl.sum(), parameter, retain_graph=True)[0].abs().max() > 0
    assert model.draw(normal(4, model.draw_dim).float()).shape == (4, 2)


NORM = {"norm": "batch"}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"prior": "vamp", "network": "mlp", "network_args": NORM}, "batch norm .*network_args.norm layer"),
        ({"prior": "vamp", "conditional": True}, "without classes: take prior normal or mixture"),
        ({"prior": "vampp"}, "unknown prior 'vampp': did you mean 'vamp'"),
        ({"prior": "mixture", "prior_args": {"component": 3}}, "no option 'component': its options are components=100"),
        ({"prior": "mixture", "prior_args": {"components": 0}}, "components 0: it must be at least 1"),
        ({"prior": "normal", "prior_args": {"components": 3}}, "no option 'components'"),
        ({"prior": nn.Linear}, "is no Prior"),
    ],
)
def test_misfits_are_refused(options: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        VAE(POINTS, **options)


def test_a_mixture_may_have_batch_norm_and_classes():
    VAE(POINTS, prior="mixture", network="mlp", network_args=NORM, conditional=True)


@pytest.mark.parametrize(
    ("terms", "said"),
    [({"mi": 1, "tc": 6, "dkl": 1}, "'dkl' measures against N"), ({"tc": 6}, "no term trains the prior, only tc")],
)
def test_a_learned_prior_needs_a_term_that_knows_it(terms, said):
    with pytest.raises(UserError, match=said):
        VAE(DataSpec(shape=(1, 8, 8), size=100), prior="mixture", terms=terms)
