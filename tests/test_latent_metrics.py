"""Likelihoods, reconstructions, latents and disentanglement: closed forms, exact models, known extremes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributions as D
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics import disentanglement, images, latents
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.likelihood import bits_per_dim, discretisation
from lightning_gen.models import vae
from lightning_gen.models import vae_base as bounds_of
from lightning_gen.networks import Network
from lightning_gen.objectives import likelihoods
from lightning_gen.objectives.latent import (
    active_units,
    gaussian_log_density,
    importance_bound,
    kl_normal,
    reparameterise,
)
from lightning_gen.objectives.levels import counting_levels, dequantise, level_edges
from lightning_gen.objectives.likelihood import Bernoulli
from lightning_gen.objectives.likelihood_base import Likelihood

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# Likelihood: probabilistic PCA, where everything is known -------------------------------------------------------------


class PPCA(NamedTuple):
    """x = W z + b + s noise with z ~ N(0, I); p(z | x) = N(M^-1 W'(x - b), s^2 M^-1) with M = W'W + s^2 I."""

    weight: Tensor
    bias: Tensor
    scale: float

    @classmethod
    def draw(cls, dims: int = 6, latent: int = 3, orthogonal: bool = False) -> PPCA:
        weight = normal(dims, latent, seed=1)
        if orthogonal:  # of unequal lengths: the posterior is diagonal
            weight = torch.linalg.qr(weight)[0] * f64([2.0, 1.0, 0.5])[:latent]
        return cls(weight, normal(dims, seed=2), 0.4)

    def data(self, n: int) -> Tensor:
        z, noise = normal(n, self.weight.shape[1], seed=3), normal(n, len(self.bias), seed=4)
        return z @ self.weight.T + self.bias + self.scale * noise

    def log_p(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.bias)).double()
        return D.MultivariateNormal(self.bias, covariance).log_prob(x)

    def posterior(self, x: Tensor) -> D.MultivariateNormal:
        precision = self.weight.T @ self.weight / self.scale**2 + torch.eye(self.weight.shape[1]).double()
        mean = torch.linalg.solve(precision, self.weight.T @ (x - self.bias).T / self.scale**2).T
        return D.MultivariateNormal(mean, precision_matrix=precision)

    def best_diagonal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The diagonal q of least KL(q || p(z | x)): its mean, and the inverse of the precision's diagonal."""
        exact = self.posterior(x)
        return exact.loc, -exact.precision_matrix.diagonal(dim1=-2, dim2=-1).log().expand_as(exact.loc)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        log_scale = torch.full_like(self.bias, 2 * math.log(self.scale))
        zero = torch.zeros_like(z)
        return gaussian_log_density(x, z @ self.weight.T + self.bias, log_scale) + gaussian_log_density(z, zero, zero)


def exact(actual: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_with_the_exact_posterior_every_importance_weight_is_the_likelihood():
    model = PPCA.draw()
    x = model.data(20)
    posterior = model.posterior(x)
    z = posterior.loc + normal(5, 20, 3) @ posterior.scale_tril[0].T  # (K, B, Z)
    log_w = model.log_joint(x, z) - posterior.log_prob(z)
    exact(log_w, model.log_p(x).expand(5, -1))
    exact(importance_bound(log_w), model.log_p(x))


def test_elbo_of_the_best_diagonal_posterior_is_short_of_the_likelihood_by_its_kl():
    model = PPCA.draw()
    x = model.data(20)
    mean, log_var = model.best_diagonal(x)
    log_p_x_given_z = gaussian_log_density(
        x, mean @ model.weight.T + model.bias, f64(2 * math.log(model.scale)).expand(6)
    )
    spread = (log_var.exp() * model.weight.square().sum(0)).sum(-1) / (2 * model.scale**2)
    elbo = log_p_x_given_z - spread - kl_normal(mean, log_var).sum(-1)
    q = D.MultivariateNormal(mean, torch.diag_embed(log_var.exp()))
    gap = D.kl_divergence(q, model.posterior(x))
    assert gap.min() > 0.1
    exact(elbo, model.log_p(x) - gap)


def test_importance_bound_rises_with_k_up_to_the_likelihood():
    model = PPCA.draw()
    x = model.data(300)
    mean, log_var = model.best_diagonal(x)
    z = reparameterise(mean, log_var, normal(256, 300, 3))
    log_w = model.log_joint(x, z) - gaussian_log_density(z, mean, log_var)
    bounds = [importance_bound(log_w[:k]).mean() for k in (1, 4, 16, 64, 256)]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[1] - 0.05
    assert 0 < model.log_p(x).mean() - bounds[-1] < 0.03


class Linear64(nn.Linear):
    """x (..., D) -> (..., out) in float64, whatever x is."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], dtype=torch.float64)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


def linear_vae(model: PPCA) -> vae.VAE:
    """The project's VAE with the decoder of PPCA and, as encoder, its best diagonal posterior."""
    dims, latent = model.weight.shape
    mean, log_var = model.best_diagonal(torch.zeros(1, dims).double())
    gain = model.best_diagonal(torch.eye(dims).double())[0].T - mean.T
    gain = torch.cat([gain, torch.zeros_like(gain)])
    network = Network(
        lambda spec, out: Linear64(gain, torch.cat([mean[0], log_var[0]])),
        lambda spec, latent_dim, params: Linear64(model.weight, model.bias),
    )
    spec = DataSpec((dims,), "vector", "real", size=100)
    options: dict[str, Any] = {"network": network, "likelihood": "gaussian", "scale": model.scale}
    return vae.VAE(spec, latent_dim=latent, **options).eval()


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 7])
def test_model_gives_the_likelihood_where_its_posterior_is_exact(k: int, monkeypatch):
    ppca = PPCA.draw(orthogonal=True)
    x, model = ppca.data(11), linear_vae(ppca)
    exact(model.log_likelihood(x, k), ppca.log_p(x), atol=3e-5)  # the model casts its posterior to float32
    monkeypatch.setattr(model, "posterior", lambda x, y: model.encoder(x).chunk(2, 1))
    exact(model.log_likelihood(x, k), ppca.log_p(x))


@torch.no_grad()
def test_models_importance_bound_does_not_depend_on_chunks_and_batches(monkeypatch):
    ppca = PPCA.draw()
    x, model = ppca.data(11), linear_vae(ppca)
    whole = model.log_likelihood(x, 50)
    assert (ppca.log_p(x).mean() - whole.mean()).abs() < 0.2
    exact(model.log_likelihood(x[4:], 50, numbers=list(range(4, 11))), whole[4:], atol=1e-6)
    for batch_size in (1, 33, 100):
        monkeypatch.setattr(bounds_of, "MAX_DECODED_NUMEL", batch_size * bounds_of.SMALLEST)
        exact(model.log_likelihood(x, 50), whole, atol=1e-6)
    monkeypatch.setattr(bounds_of, "MAX_NOISE_NUMEL", 3 * 50 * model.latent_dim)  # three examples at a time
    exact(model.log_likelihood(x, 50), whole, atol=1e-6)


def test_a_linear_model_has_as_many_active_units_as_live_dimensions():
    ppca = PPCA.draw(orthogonal=True)
    dead = torch.cat([ppca.weight[:, :1], torch.zeros(6, 4).double(), ppca.weight[:, 1:]], 1)  # 3 live of 7
    mean, _ = PPCA(dead, ppca.bias, ppca.scale).best_diagonal(ppca.data(500))
    active = active_units(mean.mean(0), mean.square().mean(0))
    assert active.tolist() == [True, *[False] * 4, True, True]


# Bits per dimension ---------------------------------------------------------------------------------------------------


def build(name: str, values: str, scale: float | None = None) -> tuple[Likelihood, DataSpec]:
    spec = DataSpec((1,), "vector", values)
    return likelihoods.build(name, spec, scale), spec


def test_bits_of_the_uniform_distribution_over_256_levels_are_8():
    for dims in (1, 784):
        nats = f64([dims * math.log(256)] * 3)
        exact(bits_per_dim(nats, dims), f64([8.0] * 3), atol=1e-12)


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 2.0])
def test_the_256_probabilities_of_the_discretised_logistic_sum_to_1(log_scale: float):
    model, spec = build("discretized_logistic", "uint8", math.exp(log_scale))
    locations = f64([-1.5, -1, 0.001, 0.4, 1, 3])
    log_mass = model.log_prob(LEVELS[:, None, None], locations[:, None])  # (256, locations)
    exact(log_mass.exp().sum(0), torch.ones(6).double(), atol=1e-10)
    ends = model.log_prob(torch.tensor([[-1.0], [1.0]])[:, None], torch.tensor([[-1.0], [1.0]]))
    assert ends.isfinite().all()
    row = discretisation(model, spec)
    assert (row.levels, row.dequantise) == (256, False)


def test_binary_data_have_2_levels_without_noise():
    row = discretisation(*build("bernoulli", "binary"))
    assert row[0] == 2 and not row.dequantise
    assert "2 levels" in row.how


class Mine(Bernoulli):
    pass


class Other(Likelihood):
    values = ("uint8",)
    log_prob = mean = sample = lambda self, *_: torch.zeros(1)


@pytest.mark.parametrize(
    "name, values, reason",
    [
        ("bernoulli", "uint8", "normalised"),
        ("bernoulli", "unit", "normalised"),
        ("gaussian", "unit", "no levels"),
        ("laplace", "real", "no levels"),
        (Other, "uint8", "Other"),
    ],
)
def test_bits_are_refused_with_the_reason_where_data_have_no_levels(name: Any, values: str, reason: str):
    with pytest.raises(Inapplicable, match=reason):
        discretisation(*build(name, values))


def test_a_likelihood_of_a_known_class_is_read_as_that_class():
    assert discretisation(Mine(DataSpec((1,), "vector", "binary")), DataSpec((1,), "vector", "binary")).levels == 2


@pytest.mark.parametrize("name, scale, gap", [("gaussian", 0.5, 1e-5), ("gaussian", 0.02, 0.3), ("laplace", 0.5, 2e-5)])
def test_the_dequantised_bound_is_just_below_the_exact_mass_of_the_bin(name: str, scale: float, gap: float):
    model, spec = build(name, "uint8", scale)
    row = discretisation(model, spec)
    x = LEVELS[130:155, None]  # -0.02 to 0.21
    noise = (torch.arange(1001).double()[:, None, None] + 0.5) / 1001 - 0.5  # (1001, 1, 1), the mean over U(-1/2, 1/2)
    location = f64([0.1])
    spread, log_volume = dequantise(x.expand(1001, -1, 1).flatten(0, 1), noise.expand(-1, 25, 1).flatten(0, 1), spec)
    bound = (model.log_prob(spread, location) + log_volume).unflatten(0, (1001, 25)).mean(0)
    density = {"gaussian": D.Normal, "laplace": D.Laplace}[name](location, f64(scale))
    mass = density.cdf(x + 1 / 255) - density.cdf(x - 1 / 255)
    short = mass.log()[:, 0] - bound
    assert row.dequantise and row.levels == 256
    assert short.min() > -1e-6
    assert short.max() < gap


def test_dequantised_levels_fill_the_range_without_overlap():
    noise = torch.rand(1000, 256, generator=generator(), dtype=torch.float64) - 0.5
    spread, log_volume = dequantise(LEVELS.expand(1000, -1), noise, DataSpec((256,), "vector"))
    assert (((spread + 1) * 127.5).round() == torch.arange(256)).all()
    assert spread.min() >= -1 - 1.001 / 255 and spread.max() < 1 + 1.001 / 255
    exact(log_volume, torch.full((1000,), -256 * math.log(127.5)).double(), atol=1e-3)


FEW = (0, 15, 100, 255)  # levels of very different cells, whose edges are edges of the 256 as well
FEW_SPEC = DataSpec((1,), "vector", "uint8", levels=FEW)


@pytest.mark.parametrize("name", ["discretized_logistic", "discretized_logistic_mixture"])
@pytest.mark.parametrize("location", [-1.5, -0.9, 0.1, 2.0])
def test_a_level_has_the_mass_of_the_256_levels_nearest_to_it(name: str, location: float):
    """Counted as four levels, the probabilities sum to 1, and each is that of the 256 levels in its cell."""
    model = torch.nn.Module()
    model.likelihood = own = likelihoods.build(name, FEW_SPEC)
    out = torch.full((1, *own.params()), location, dtype=torch.float64)
    masses = own.log_prob(LEVELS[:, None], out).exp()  # (256,)
    nearest = (torch.arange(256)[:, None] - torch.tensor(FEW)).abs().argmin(1)
    expected = torch.zeros(4, dtype=torch.float64).index_add_(0, nearest, masses)
    with counting_levels(model, FEW_SPEC):
        assert model.likelihood is not own
        found = model.likelihood.log_prob(LEVELS[list(FEW), None], out).exp()
    exact(found.sum(), torch.tensor(1.0).double(), atol=1e-6)
    exact(found, expected, atol=1e-6)
    assert model.likelihood is own


def test_all_256_levels_are_counted_as_before():
    model = torch.nn.Module()
    model.likelihood = own = likelihoods.build("discretized_logistic", DataSpec((1,), "vector", "uint8"))
    with counting_levels(model, DataSpec((1,), "vector", "uint8")):
        assert model.likelihood is own
    model.likelihood = likelihoods.build("discretized_logistic", FEW_SPEC)
    every = FEW_SPEC._replace(levels=tuple(range(256)))
    with counting_levels(model, every):
        x, out = LEVELS[:, None], torch.full((256, 1), 0.3, dtype=torch.float64)
        torch.testing.assert_close(model.likelihood.log_prob(x, out), own.log_prob(x, out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_a_density_bounds_the_mass_of_few_uneven_levels(name: str):
    model = likelihoods.build(name, FEW_SPEC, 0.5)
    steps = 4001
    noise = (torch.arange(steps).double()[:, None] + 0.5) / steps - 0.5
    edges = torch.cat([f64([-1 - 7.5 / 127.5]), level_edges(FEW).double(), f64([1 + 77.5 / 127.5])])
    density = {"gaussian": D.Normal, "laplace": D.Laplace}[name](f64(0.1), f64(0.5))
    for k, level in enumerate(FEW):
        spread, log_volume = dequantise(LEVELS[[level], None].expand(steps, 1), noise, FEW_SPEC)
        bound = (model.log_prob(spread, f64([0.1])) + log_volume).mean()
        mass = (density.cdf(edges[k + 1]) - density.cdf(edges[k])).log()
        assert spread.min() > edges[k] - 1e-6 and spread.max() < edges[k + 1] + 1e-6
        assert -1e-6 < mass - bound < 0.8  # the wider the cell, the larger


def test_digits_are_counted_in_the_17_levels_that_they_have():
    data = Digits()
    data.setup()
    assert discretisation(likelihoods.build("gaussian", data.spec), data.spec).levels == 17
    stored = (data.examples("train", torch.arange(1300))["x"] + 1) * 127.5
    assert stored.round().unique().int().tolist() == list(data.spec.levels)


# Reconstructions ------------------------------------------------------------------------------------------------------


def pair(side: int) -> tuple[Tensor, Tensor]:
    x = torch.rand(3, 2, side, side, generator=generator()) * 2 - 1
    return x, (x + 0.3 * normal(*x.shape).float()).clamp(-1, 1)


def test_psnr_is_the_plain_formula_of_each_example():
    x, y = pair(9)
    for n, value in enumerate(images.psnr(x, y)):
        mse = ((x[n] - y[n]).double() ** 2).mean().item()
        assert value.item() == pytest.approx(10 * math.log10(4 / mse), rel=1e-12)
    library = peak_signal_noise_ratio(x, y, 2.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(images.psnr(x, y).float(), library)
    assert images.psnr(torch.zeros(1, 5), torch.full((1, 5), 0.2)).item() == pytest.approx(20, abs=1e-5)


def test_psnr_of_identical_images_is_infinite_and_of_the_mean_error_finite():
    x, y = pair(9)
    y[0] = x[0]
    assert images.psnr(x, y).isinf().tolist() == [True, False, False]
    assert images.decibels(images.mean_squared_error(x, y).mean()).isfinite()


def plain_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Of one channel of intensities >= 0, by scipy's filter."""

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=5, mode="mirror")

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, covariance = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return float(((2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


@pytest.mark.parametrize("side", [6, 8, 28])
def test_ssim_is_the_plain_formula_on_intensities(side: int):
    x, y = pair(side)
    grey = [((image.double() + 1) * 127.5).numpy() for image in (x, y)]
    expected = [
        np.mean([plain_ssim(*channels, 255) for channels in zip(*two, strict=True)]) for two in zip(*grey, strict=True)
    ]
    torch.testing.assert_close(images.ssim(x, y).double(), torch.tensor(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.ssim(x, x), torch.ones(3))


def test_ssim_orders_reconstructions_of_8x8_digits():
    digits = Digits()
    digits.setup("fit")
    x = next(iter(digits.splits().values())).fetch(torch.arange(50))["x"].float() / 127.5 - 1
    slightly, badly = (x + s * normal(*x.shape).float() for s in (0.1, 0.5))
    assert images.ssim(x, slightly).mean() > 0.9 > 0.8 > images.ssim(x, badly).mean()


@pytest.mark.parametrize("shape", [(1, 5, 28), (1, 28, 5), (7,)])
def test_ssim_refuses_what_its_window_does_not_fit(shape: tuple[int, ...]):
    with pytest.raises(Inapplicable, match="6 x 6"):
        images.ssim(torch.zeros(2, *shape), torch.zeros(2, *shape))


# Latents --------------------------------------------------------------------------------------------------------------


def posterior_draw(mean: Tensor, log_var: Tensor) -> Tensor:
    return reparameterise(mean, log_var, normal(*mean.shape, seed=9))


def both_informations(mean: Tensor, log_var: Tensor) -> tuple[float, list[float]]:
    z = posterior_draw(mean, log_var)
    every = latents.dimension_information(z, mean, log_var)
    return latents.mutual_information(z, mean, log_var).item(), every.tolist()


def test_information_of_a_posterior_that_ignores_x_is_zero():
    same = f64([0.3, -2.0]).expand(500, -1)
    total, every = both_informations(same, -same)
    assert abs(total) < 1e-12
    assert max(map(abs, every)) < 1e-12


def test_information_of_well_separated_posteriors_is_log_n():
    mean = torch.stack([torch.arange(300).double(), torch.zeros(300).double()], 1)
    total, every = both_informations(mean, f64([-9.0, 0]).expand(300, -1))
    assert total == pytest.approx(math.log(300), abs=1e-12)
    assert every == pytest.approx([math.log(300), 0], abs=1e-12)


def test_information_of_a_gaussian_channel_is_half_log_one_plus_its_signal_to_noise_ratio():
    mean = normal(4000, 2, seed=5) * f64([1.0, 2.0])
    total, every = both_informations(mean, torch.zeros(4000, 2).double())
    expected = [0.5 * math.log(2), 0.5 * math.log(5)]
    assert every == pytest.approx(expected, abs=0.06)  # 1,000 draws
    assert total == pytest.approx(sum(expected), abs=0.03)


@pytest.mark.parametrize("log_var, atol", [(-2.0, 1e-12), (-14.0, 1e-9), (-20.0, 1e-7)])
def test_information_by_matrix_products_is_that_of_the_direct_form(log_var: float, atol: float, monkeypatch):
    mean = 3 + normal(200, 5, seed=6)
    mean[100:] = mean[:100] + math.exp(log_var / 2) * normal(100, 5, seed=7)  # near twins, where rounding would show
    log_vars = log_var + 0.3 * normal(200, 5, seed=8)
    z = posterior_draw(mean, log_vars)
    log_q = gaussian_log_density(z[:, None], mean, log_vars)  # (200, 200)
    direct = (log_q.diagonal() - torch.logsumexp(log_q, 1)).mean() + math.log(200)
    assert direct < math.log(200) - 0.005
    exact(latents.mutual_information(z, mean, log_vars), direct, atol)
    monkeypatch.setattr(latents, "PAIRS", 999)
    exact(latents.mutual_information(z, mean, log_vars), direct, atol)


def test_information_of_a_single_latent_is_that_of_its_dimension():
    total, every = both_informations(normal(400, 1, seed=6), -2 + normal(400, 1, seed=7))
    assert every == pytest.approx([total], abs=1e-12)


@pytest.mark.parametrize(
    "kl, variance, active, collapsed, verdict",
    [
        ([2, 1, 3], [0.9, 0.5, 1], 3, 0, "healthy: all 3"),
        ([2, 0, 3, 0.001], [0.9, 0, 1, 0], 2, 2, "healthy: 2 of 4"),
        ([3, *[0] * 19], [0.9, *[0] * 19], 1, 19, "few: 1 of 20"),
        ([0.3, 0.001], [0.2, 0.001], 1, 1, "nearly collapsed"),
        ([0.005, 0], [0.001, 0], 0, 2, "collapsed: none of the 2"),
        ([2, 3], [0.001, 0], 0, 0, "collapsed: none of the 2"),
    ],
)
def test_collapse_report(kl: list[float], variance: list[float], active: int, collapsed: int, verdict: str):
    report = latents.collapse_report(f64(kl), f64(variance))
    assert report["verdict"].startswith(verdict)
    assert ("--model.terms.kl" in report["verdict"]) == (not verdict.startswith("healthy"))
    assert (report["latents"], report["active"], report["collapsed"]) == (len(kl), active, collapsed)
    assert report["collapsed_share"] == collapsed / len(kl)
    assert report["kl"] == pytest.approx(sum(kl))
    assert report["kl_sorted"] == sorted(kl, reverse=True)
    assert {type(v) for v in report["kl_sorted"]} == {float}


# Disentanglement ------------------------------------------------------------------------------------------------------

VALUES = (3, 6, 8, 5, 10)
FACTORS = torch.stack([torch.randint(v, (3000,), generator=generator(v)) for v in VALUES], 1)
PERFECT = (FACTORS - FACTORS.double().mean(0)) / FACTORS.double().std(0)
UNRELATED = normal(3000, 8, seed=1)
UNUSED = 0.001 * normal(3000, 2, seed=2)


def scores(codes: Tensor, log_var: Tensor | float = -8.0, factors: Tensor = FACTORS) -> dict[str, float]:
    log_vars = torch.as_tensor(log_var).double().expand_as(codes)
    trees = disentanglement.dci(codes, factors, seed=0)
    return {
        "mig_chen": disentanglement.mig_chen(codes, log_vars, factors, seed=0)["mig"],
        "mig_histogram": disentanglement.mig_histogram(codes, factors)["mig"],
        "factor_vae": disentanglement.factor_vae_score(codes, factors, seed=0),
        **{name: trees[name] for name in ("disentanglement", "completeness", "informativeness")},
    }


def test_codes_that_are_the_factors_score_1():
    perfect = torch.cat([PERFECT, UNUSED], 1)
    log_var = torch.tensor([-8.0] * 5 + [0.0] * 2).double()
    result = scores(perfect, log_var)
    assert min(result.values()) >= 0.95, result
    order = torch.tensor([5, 3, 0, 6, 1, 4, 2])
    permuted = scores(perfect[:, order], log_var[order])
    assert permuted == pytest.approx(result, abs=0.02)
    for name in ("mig_histogram", "factor_vae"):
        assert permuted[name] == pytest.approx(result[name], abs=1e-12)


def test_codes_that_know_nothing_score_what_a_guess_gets():
    result = scores(UNRELATED, 0.0)
    for name in ("mig_chen", "mig_histogram", "disentanglement", "completeness"):
        assert abs(result[name]) <= 0.05, result
    assert result["factor_vae"] == pytest.approx(1 / 5, abs=0.06)
    guess = disentanglement.dci(UNRELATED, FACTORS, seed=0)["chance"]
    assert result["informativeness"] == pytest.approx(guess, abs=0.05)
    assert guess == pytest.approx(np.mean([1 / v for v in VALUES]), abs=0.03)


def test_mixed_codes_are_informative_but_not_disentangled():
    turned = PERFECT @ torch.linalg.qr(normal(5, 5, seed=3))[0]
    result = scores(turned)
    assert result["informativeness"] > 0.3
    assert max(result["mig_chen"], result["mig_histogram"], result["disentanglement"], result["completeness"]) < 0.5


def test_a_factor_in_two_latents_is_disentangled_but_not_complete_and_has_no_gap():
    twice = torch.cat([PERFECT, PERFECT], 1) + 0.01 * normal(3000, 10, seed=4)
    result = scores(twice)
    assert result["disentanglement"] > 0.95
    assert result["completeness"] < 0.8
    assert max(result["mig_chen"], result["mig_histogram"]) < 0.05


def test_scores_of_codes_do_not_depend_on_their_scales():
    codes = PERFECT + 0.2 * normal(3000, 5, seed=4)
    scaled = codes * f64([1, 20, 3, 0.4, 7])
    score = disentanglement.factor_vae_score(codes, FACTORS, seed=0)
    assert score > 0.95
    assert disentanglement.factor_vae_score(scaled, FACTORS, seed=0) == score
    expected = disentanglement.mig_histogram(codes, FACTORS)["mig"]
    assert disentanglement.mig_histogram(scaled, FACTORS)["mig"] == pytest.approx(expected, abs=1e-3)


def test_mig_equals_its_closed_form_for_a_noisy_binary_factor():
    factor = torch.arange(2000)[:, None] % 2
    mean, log_var = torch.cat([factor * 2.0, torch.zeros(2000, 1)], 1), torch.zeros(2000, 2)
    result = disentanglement.mig_chen(mean, log_var, factor, seed=0, draws=2000)
    x = torch.linspace(-8, 10, 20001).double()
    low, high = (D.Normal(f64(m), 1).log_prob(x).exp() for m in (0.0, 2.0))
    mixture = (low + high) / 2
    information = torch.trapezoid((low * (low / mixture).log() + high * (high / mixture).log()) / 2, x).item()
    assert result["information"][0][0] == pytest.approx(information, abs=0.03)
    assert result["gap"][0] == pytest.approx(information / math.log(2), abs=0.04)
    assert result["entropy"] == pytest.approx([math.log(2)])
    assert (result["best"], result["factors"]) == ([0], [0])


def test_a_factor_of_one_value_is_left_out_and_none_is_refused():
    with_constant = torch.cat([torch.zeros(3000, 1, dtype=torch.long), FACTORS[:, :2]], 1)
    codes = PERFECT[:, :2]
    assert scores(codes, factors=with_constant) == scores(codes, factors=FACTORS[:, :2])
    assert disentanglement.mig_histogram(codes, with_constant)["factors"] == [1, 2]
    constant = with_constant[:, :1]
    for call in (
        lambda: disentanglement.mig_chen(codes, codes, constant, 0),
        lambda: disentanglement.mig_histogram(codes, constant),
        lambda: disentanglement.factor_vae_score(codes, constant, 0),
        lambda: disentanglement.dci(codes, constant, 0),
    ):
        with pytest.raises(Inapplicable, match="no known factor varies"):
            call()


def test_factor_vae_score_of_collapsed_codes_is_chance_and_of_single_examples_refused():
    assert disentanglement.factor_vae_score(UNUSED, FACTORS, seed=0) == 1 / 5
    few = torch.arange(4)[:, None]
    with pytest.raises(Inapplicable, match="share a value"):
        disentanglement.factor_vae_score(few.double(), few, seed=0)
    pairs = torch.arange(40)[:, None] // 2  # two examples of each value
    assert disentanglement.factor_vae_score(pairs.double(), pairs, seed=0) == 1


def test_factor_vae_score_counts_votes_that_it_has_not_learned_from():
    many = normal(3000, 200, seed=5)  # hardly ever is a latent named twice
    assert disentanglement.factor_vae_score(many, FACTORS, seed=0, votes=40) < 0.5


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(Inapplicable, match="at least 100"):
        disentanglement.dci(PERFECT[:49], FACTORS[:49], seed=0)
    with pytest.raises(Inapplicable, match="not finite"):
        disentanglement.mig_histogram(PERFECT / 0, FACTORS)


def test_scores_depend_on_the_seed_alone_and_leave_the_global_generators_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]
    first = [scores(UNRELATED[:300, :3], 0.0, FACTORS[:300]) for _ in range(2)]
    assert first[0] == first[1]
    assert disentanglement.factor_vae_score(UNRELATED, FACTORS, 1) != disentanglement.factor_vae_score(
        UNRELATED, FACTORS, 2
    )
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()
