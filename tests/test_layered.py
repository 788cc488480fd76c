"""Several layers of latents: bounds against torch.distributions and a linear chain whose likelihood is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributions as D
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.layered import LatentLayer, LayeredVAE
from lightning_gen.models.vae import VAE
from lightning_gen.objectives.latent import importance_bound

DIMS = 5
POINTS = DataSpec((DIMS,), "vector", "real", size=100, num_classes=2)
SMALL: dict[str, Any] = {"network": "mlp", "network_args": {"hidden": [8]}, "likelihood": "gaussian", "scale": 0.5}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layered(*sizes: int, **options: Any) -> LayeredVAE:
    torch.manual_seed(0)
    return LayeredVAE(POINTS, latent_dims=sizes, layer_args={"hidden": [8]}, **SMALL, **options).eval()


def of(out: Tensor) -> D.Normal:
    mean, log_var = out.chunk(2, -1)
    return D.Normal(mean, torch.exp(0.5 * log_var))


@torch.no_grad()
def test_the_columns_of_the_kl_are_those_of_torch_or_of_the_draw():
    """Of the top in closed form; below it z_1 and z_2 depend on each other under q, and the draws stand for both."""
    model, x, noise = layered(4, 3, 2), normal(6, DIMS), normal(6, 9, seed=1)
    s = model.infer(x, None, noise)
    q = [of(model.encoder(x))]
    z = []
    for i, part in enumerate(noise.split([4, 3, 2], 1)):
        z.append(q[i].mean + q[i].stddev * part)
        if i < 2:
            q.append(of(model.upwards[i](z[i])))
    p = [of(model.downwards[i](z[i + 1])) for i in range(2)]
    columns = [(q[i].log_prob(z[i]) - p[i].log_prob(z[i])).sum(1) for i in range(2)]
    columns.append(D.kl_divergence(q[2], D.Normal(torch.zeros(6, 2), torch.ones(6, 2))).sum(1))
    assert s.kl is not None and s.kl.shape == (6, 3)
    torch.testing.assert_close(s.kl, torch.stack(columns, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(s.z, torch.cat(z, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(s.out, model.decoder(z[0]))


@torch.no_grad()
def test_a_level_that_others_were_not_drawn_from_has_its_kl_in_closed_form():
    level = LatentLayer(normal(3, 6, 2), *((normal(3, 6, 2, seed=i), normal(3, 6, 2, seed=i + 1)) for i in (1, 3)))
    q, p = (D.Normal(mean, torch.exp(0.5 * log_var)) for mean, log_var in (level.q, level.p))
    torch.testing.assert_close(level.kl(), D.kl_divergence(q, p).sum(-1))
    estimate = (q.log_prob(level.z) - p.log_prob(level.z)).sum(-1)
    torch.testing.assert_close(level._replace(closed=False).kl(), estimate)


@torch.no_grad()
def test_the_bound_rises_with_the_number_of_draws_and_is_that_of_the_draws():
    model, x = layered(3, 2), normal(200, DIMS)
    bounds = [model.log_likelihood(x, k).mean() for k in (1, 5, 50)]
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] - 0.05
    noise = normal(7, 200, 5, seed=1)
    draws = model.importance_samples(x, None, noise)
    torch.testing.assert_close(draws.z[:, 3], model.importance_samples(x[[3]], None, noise[:, [3]]).z[:, 0])
    assert importance_bound(draws.log_px + draws.log_ratio).shape == (200,)


@torch.no_grad()
def test_one_layer_is_the_vae():
    one = layered(3)
    vae = VAE(POINTS, latent_dim=3, **SMALL).eval()
    vae.encoder, vae.decoder = one.encoder, one.decoder
    x = normal(6, DIMS)
    for ours, theirs in zip(one.elbo(x), vae.elbo(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(one.log_likelihood(x, 9), vae.log_likelihood(x, 9))
    torch.testing.assert_close(one.sample(4), vae.sample(4))


@torch.no_grad()
def test_samples_do_not_depend_on_the_batch():
    model = layered(4, 3, 2)
    whole = model.sample(9, seed=1)
    parts = [model.sample(2, seed=1), model.sample(7, seed=1, start=2)]
    assert whole.shape == (9, DIMS)
    torch.testing.assert_close(whole, torch.cat(parts))
    assert (model.sample(9, seed=2) - whole).abs().max() > 1e-3


# A chain that is known: z_2 ~ N(0, I), z_1 ~ N(a z_2 + c, v), x ~ N(W z_1 + b, s^2), W of orthogonal columns ----------

A, C, V = torch.tensor([1.5, -0.7]), torch.tensor([0.4, -1.0]), torch.tensor([0.3, 0.8])
S = 0.5
W = torch.linalg.qr(normal(DIMS, 2, seed=3))[0] * torch.tensor([2.0, 1.0])
B = normal(DIMS, seed=4)


def linear(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    layer.head.weight.data, layer.head.bias.data = weight, bias  # type: ignore[union-attr]


def chain(wrong: float = 0.0) -> LayeredVAE:
    """A two-layer model of the chain with its exact posterior, whose mean of z_1 is moved by ``wrong``."""
    none: dict[str, Any] = {"hidden": []}
    options = SMALL | {"network_args": none, "scale": S}
    model = LayeredVAE(POINTS, latent_dims=[2, 2], layer_args=none, **options).eval()
    linear(model.decoder, W, B)
    zeros = torch.zeros(2, 2)
    linear(model.downwards[0], torch.cat([torch.diag(A), zeros]), torch.cat([C, V.log()]))
    variance = 1 / (1 + A**2 / V)  # of z_2 given z_1
    gain = variance * A / V
    linear(model.upwards[0], torch.cat([torch.diag(gain), zeros]), torch.cat([-gain * C, variance.log()]))
    prior = A**2 + V  # of z_1
    variance = 1 / (1 / prior + W.square().sum(0) / S**2)  # of z_1 given x
    gain = variance.unsqueeze(1) * W.T / S**2
    offset = variance * C / prior - gain @ B + wrong
    linear(model.encoder, torch.cat([gain, torch.zeros_like(gain)]), torch.cat([offset, variance.log()]))
    return model


def log_p(x: Tensor) -> Tensor:
    covariance = W @ torch.diag(A**2 + V) @ W.T + S**2 * torch.eye(DIMS)
    return D.MultivariateNormal(W @ C + B, covariance).log_prob(x)


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 5])
def test_with_the_exact_posterior_every_draw_gives_the_likelihood(k: int):
    x = 2 * normal(20, DIMS, seed=5)
    torch.testing.assert_close(chain().log_likelihood(x, k), log_p(x), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_the_mean_log_weight_is_the_elbo():
    model, x, count = chain(wrong=0.3), 2 * normal(1, DIMS, seed=5), 40_000
    draws = model.importance_samples(x, None, normal(count, 1, 4, seed=1))
    log_w = (draws.log_px + draws.log_ratio)[:, 0]
    log_px, kl = model.elbo(x.expand(count, -1))
    assert log_px.shape == kl.shape == (count,)
    error = math.sqrt(((log_px - kl).var() + log_w.var()) / count)
    assert (log_w.mean() - (log_px - kl).mean()).abs() < 4 * error
    assert 4 * error < 0.1 < log_p(x) - log_w.mean()


@torch.no_grad()
def test_with_another_posterior_the_bound_is_lower_and_tightens():
    x = 2 * normal(200, DIMS, seed=5)
    model = chain(wrong=0.3)
    gaps = [(log_p(x) - model.log_likelihood(x, k)).mean() for k in (1, 10, 300)]
    assert gaps[0] > gaps[1] + 0.1 > gaps[2] + 0.2
    assert gaps[2].abs() < 0.05


@torch.no_grad()
def test_draws_of_the_lowest_layer_have_the_moments_of_the_chain():
    z = chain().draw(normal(50_000, 4, seed=6))
    variance = A**2 + V
    assert ((z.mean(0) - C).abs() < 5 * (variance / len(z)).sqrt()).all()
    torch.testing.assert_close(z.T.cov(), torch.diag(variance), rtol=0, atol=0.06)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, said",
    [
        ({"estimator": "stl", "k": 5}, "estimator 'stl' needs a single layer of latents: take elbo or iwae"),
        ({"estimator": "dreg", "k": 5}, "estimator 'dreg' needs a single layer"),
        ({"conditional": True}, "LayeredVAE takes no classes: take a VAE"),
        ({"terms": {"kl": 1, "tc": 5}}, "unknown term 'tc'.*capacity, kl"),
        ({"latent_dims": [4, 0]}, r"latent_dims\[1\] 0: it must be at least 1"),
        ({"latent_dims": []}, "latent_dims 0: it must be at least 1"),
    ],
)
def test_what_needs_one_layer_is_refused(options: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        LayeredVAE(POINTS, **options)
