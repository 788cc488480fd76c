"""Identities of the objectives: closed forms, Monte Carlo, exact models, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.objectives import latent, likelihood, likelihoods
from lightning_gen.objectives.latent import Step, kl, kl_normal
from lightning_gen.objectives.likelihood import LocationScale
from lightning_gen.objectives.likelihoods import LIKELIHOODS
from lightning_gen.objectives.terms import TERMS, WeightedTerm, parse_terms

SHAPE = (3, 4, 5)
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
SCALED = sorted(name for name, cls in LIKELIHOODS.items() if issubclass(cls, LocationScale))


def spec(values: str = "uint8", shape: tuple[int, ...] = SHAPE) -> DataSpec:
    return DataSpec(shape, "image" if len(shape) == 3 else "vector", values)


def picture(*lead: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return LEVELS[torch.randint(256, (*lead, *shape))]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Likelihoods ----------------------------------------------------------------------------------------------------------


def test_bernoulli_is_the_distribution_of_torch():
    model = likelihoods.build("bernoulli", spec("binary"))
    x, logits = 2.0 * torch.randint(2, (6, *SHAPE), dtype=torch.float64) - 1, 5 * torch.randn(6, *SHAPE).double()
    expected = D.Bernoulli(logits=logits).log_prob((x + 1) / 2).sum((1, 2, 3))
    torch.testing.assert_close(model.log_prob(x, logits), expected, rtol=1e-12, atol=0)


def test_bernoulli_on_grey_is_the_expected_score_of_the_binarised_picture():
    model = likelihoods.build("bernoulli", spec("unit"))
    x, logits = picture(1), torch.randn(1, *SHAPE).double()
    t, ones = (x + 1) / 2, torch.ones_like(x)
    per_pixel = t * F.logsigmoid(logits) + (1 - t) * F.logsigmoid(-logits)
    torch.testing.assert_close(model.log_prob(x, logits), per_pixel.sum((1, 2, 3)))
    assert model.log_prob(ones, 1000 * ones).item() == 0
    assert model.log_prob(ones, -1000 * ones).item() == -1000 * math.prod(SHAPE)


@pytest.mark.parametrize("name, expected", [("gaussian", D.Normal), ("laplace", D.Laplace)])
@pytest.mark.parametrize("values", ["unit", "real"])
def test_densities_are_the_distributions_of_torch(name: str, expected: Callable[..., D.Distribution], values: str):
    model = likelihoods.build(name, spec(values), 0.3)
    x, location = torch.randn(6, *SHAPE).double(), torch.randn(6, *SHAPE).double()
    exact = expected(location, torch.tensor(0.3).double()).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(model.log_prob(x, location), exact, rtol=1e-7, atol=0)


def all_levels(log_scale: float, locations: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N,) locations -> (256, N) log-probabilities of the levels."""
    model = likelihoods.build("discretized_logistic", spec(shape=(1,)), math.exp(log_scale))
    return model.log_prob(LEVELS[:, None, None].to(dtype), locations[None, :, None].to(dtype))


@pytest.mark.parametrize("log_scale", [-7, -5, -3, -1, 1, 5])
def test_the_mass_of_the_256_levels_is_one(log_scale: float):
    locations = torch.tensor([-3.0, -1, -0.998, 0, 0.123, 0.99, 1, 2.5]).double()
    mass = torch.logsumexp(all_levels(log_scale, locations), 0)
    torch.testing.assert_close(mass, torch.zeros(8).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("log_scale", [-3.0, -1.0, 0.0])
def test_discretized_logistic_equals_the_difference_of_sigmoids(log_scale: float):
    location, scale = torch.tensor([0.1]).double(), math.exp(log_scale)
    upper = torch.sigmoid((LEVELS - location + 1 / 255) / scale)
    lower = torch.sigmoid((LEVELS - location - 1 / 255) / scale)
    upper[-1], lower[0] = 1, 0
    is_safe = upper - lower > 1e-10  # beyond, the difference cancels
    assert is_safe.sum() > 100
    exact = torch.log(upper - lower)[is_safe]
    torch.testing.assert_close(all_levels(log_scale, location)[:, 0][is_safe], exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("log_scale", [-7.0, 7.0])
def test_discretized_logistic_is_finite_in_float32_with_its_gradient(log_scale: float):
    locations = torch.tensor([-2.0, -1, 0, 1, 2], requires_grad=True)
    log_mass = all_levels(log_scale, locations, torch.float32)
    log_mass.sum().backward()
    assert log_mass.isfinite().all()
    assert locations.grad is not None and locations.grad.isfinite().all()
    assert locations.grad[0] > 0 > locations.grad[-1]  # pulled towards the data even where the mass is e^-3000


@pytest.mark.parametrize("name", SCALED)
def test_scale_learned_is_one_parameter_per_channel_and_finds_the_scale(name: str):
    model = likelihoods.build(name, spec("uint8"))
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 1, 1)]
    assert [tuple(p.shape) for p in likelihoods.build("laplace", spec("real", (7,))).parameters()] == [(1,)]
    assert model.params() == SHAPE
    wanted = torch.tensor([0.03, 0.1, 0.3])[:, None, None]
    location = torch.zeros(400, *SHAPE)
    x = likelihoods.build(name, spec("uint8"), 1.0)._draw(location, wanted, None).clamp(-1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (-model.log_prob(x, location).mean()).backward()
        optimizer.step()
    found = model.location_and_log_scale(location)[1].exp()
    torch.testing.assert_close(found[:2], wanted[:2], rtol=0.1, atol=0)  # the widest is cut by the range


@pytest.mark.parametrize("name", SCALED)
def test_scale_pixel_doubles_the_channels(name: str):
    model = likelihoods.build(name, spec("uint8"), "pixel")
    assert model.params() == (6, 4, 5) and not list(model.parameters())
    out = torch.randn(2, *model.params()).double()
    x = picture(2)
    one_by_one = 0.0
    for i in range(3):
        for h in range(4):
            for w in range(5):
                scale = math.exp(F.softplus(out[1, 3 + i, h, w] + 7).item() - 8)
                fixed = likelihoods.build(name, spec("uint8", (1,)), scale)
                one_by_one += fixed.log_prob(x[1, i, h, w].view(1), out[1, i, h, w].view(1)).item()
    assert model.log_prob(x, out)[1].item() == pytest.approx(one_by_one, rel=1e-6)
    assert likelihoods.build("gaussian", spec("real", (7,)), "pixel").params() == (14,)


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_scale_is_bounded_where_it_diverges(raw: float):
    model = likelihoods.build("gaussian", spec("unit", (1,)), "pixel")
    out = torch.tensor([[0.5, raw]], requires_grad=True)
    log_prob = model.log_prob(torch.tensor([[0.5]]), out)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and out.grad is not None and out.grad.isfinite().all()
    assert log_prob.item() <= 8 - 0.5 * math.log(2 * math.pi) + 1e-5
    assert raw < 0 or out.grad[0, 1].item() == -1  # back down by a nat per unit


@pytest.mark.parametrize("name", ["bernoulli", *SCALED])
def test_leading_dimensions_broadcast(name: str):
    model = likelihoods.build(name, spec("uint8")).double()
    x, out = picture(2), torch.randn(5, 2, *model.params()).double()
    log_prob = model.log_prob(x, out)
    assert log_prob.shape == (5, 2)
    torch.testing.assert_close(log_prob[3, 1:], model.log_prob(x[1:], out[3, 1:]))
    assert model.log_prob(x[0], out[0, 0]).shape == ()
    assert model.mean(out).shape == model.sample(out).shape == (5, 2, *SHAPE)


@pytest.mark.parametrize("name", ["bernoulli", *SCALED])
def test_samples_have_the_mean_and_repeat_by_generator(name: str):
    model = likelihoods.build(name, spec("uint8", (6,)), None if name == "bernoulli" else 0.05)
    out = torch.tensor([-0.8, -0.4, 0.0, 0.1, 0.5, 0.8])
    draws = model.sample(out.expand(20_000, 6), torch.Generator().manual_seed(1))
    again = model.sample(out.expand(20_000, 6), torch.Generator().manual_seed(1))
    assert torch.equal(draws, again)
    torch.testing.assert_close(draws.mean(0), model.mean(out), rtol=0, atol=0.025 if name == "bernoulli" else 0.005)
    expected = {"bernoulli": 2 * torch.sqrt(torch.sigmoid(out) * torch.sigmoid(-out)), "gaussian": torch.tensor(0.05)}
    expected |= {"laplace": torch.tensor(0.05 * 2**0.5), "discretized_logistic": torch.tensor(0.05 * math.pi / 3**0.5)}
    torch.testing.assert_close(draws.std(0)[1:5], expected[name].expand(6)[1:5], rtol=0.04, atol=0)


@pytest.mark.parametrize("name", ["bernoulli", *SCALED])
def test_pictures_stay_in_range_and_real_values_do_not(name: str):
    model = likelihoods.build(name, spec("uint8"))
    out = 10 * torch.randn(50, *model.params())
    for x in (model.mean(out), model.sample(out)):
        assert x.min() >= -1 and x.max() <= 1
    if "real" in model.values:
        assert likelihoods.build(name, spec("real")).mean(out).max() == out.max() > 1
        assert likelihoods.build(name, spec("real")).sample(out).max() > 1


def test_discretized_samples_are_levels():
    sharp = likelihoods.build("discretized_logistic", spec("uint8", (256,)), 1e-6)
    torch.testing.assert_close(sharp.sample(LEVELS + 0.8 / 255), LEVELS)  # within half a bin
    torch.testing.assert_close(sharp.sample(LEVELS - 0.8 / 255), LEVELS)
    x = likelihoods.build("discretized_logistic", spec("uint8")).sample(torch.randn(20, *SHAPE))
    levels = 127.5 * x + 127.5
    assert (levels - levels.round()).abs().max() < 1e-3 and levels.unique().numel() > 100


@pytest.mark.parametrize(
    "values, name",
    [("binary", "bernoulli"), ("unit", "gaussian"), ("uint8", "discretized_logistic"), ("real", "gaussian")],
)
def test_auto_fits_the_data(values: str, name: str):
    assert likelihoods.auto(spec(values)) == name
    assert type(likelihoods.build("auto", spec(values))) is LIKELIHOODS[name]


def test_build_takes_a_class_an_instance_or_a_path():
    ready = likelihood.Laplace(spec("real"), scale=2.0)
    assert likelihoods.build(ready, spec("real")) is ready
    assert likelihoods.build(likelihood.Laplace, spec("real"), 3).scale == 3
    path = "lightning_gen.objectives.likelihood.Gaussian"
    assert type(likelihoods.build(path, spec("real"))) is likelihood.Gaussian


@pytest.mark.parametrize(
    "name, values, scale, said",
    [
        ("bernoulli", "real", None, "one of: gaussian, laplace"),
        ("discretized_logistic", "unit", None, "one of: bernoulli, gaussian, laplace"),
        ("gaussian", "binary", None, "one of: bernoulli"),
        ("auto", "tokens", None, "without a vocabulary"),
        ("auto", "int16", None, "no likelihood fits"),
        ("gauss", "real", None, "did you mean 'gaussian'"),
        ("bernoulli", "unit", 0.1, "takes no scale"),
        ("gaussian", "unit", "pixels", "'learned', 'pixel' or a number"),
        ("gaussian", "unit", 0, "'learned', 'pixel' or a number"),
        ("laplace", "unit", math.inf, "'learned', 'pixel' or a number"),
    ],
)
def test_misfits_are_refused(name: str, values: str, scale: float | str | None, said: str):
    with pytest.raises(UserError, match=said):
        likelihoods.build(name, spec(values), scale)


# Latents --------------------------------------------------------------------------------------------------------------


def posterior(n: int, dims: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, dims).double(), torch.randn(n, dims).double()


def step(mean: Tensor, log_var: Tensor) -> Step:
    return Step(x=mean, y=None, out=mean, z=mean, mean=mean, log_var=log_var, kl=kl_normal(mean, log_var))


def test_kl_is_that_of_torch_and_of_monte_carlo():
    mean, log_var = posterior(4, 3)
    q, p = D.Normal(mean, torch.exp(0.5 * log_var)), D.Normal(torch.zeros(4, 3).double(), torch.ones(4, 3).double())
    torch.testing.assert_close(kl_normal(mean, log_var), D.kl_divergence(q, p), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kl(step(mean, log_var)), D.kl_divergence(q, p).sum(1))
    z = latent.reparameterise(mean, log_var, torch.randn(50_000, 4, 3).double())
    zeros = torch.zeros_like(mean)
    log_ratio = latent.gaussian_log_density(z, mean, log_var) - latent.gaussian_log_density(z, zeros, zeros)
    torch.testing.assert_close(log_ratio.mean(0), kl(step(mean, log_var)), rtol=0.03, atol=0.01)


def test_kl_is_zero_at_the_prior_and_positive_close_to_it_in_float32():
    assert kl_normal(torch.zeros(1), torch.zeros(1)).item() == 0
    assert kl_normal(torch.zeros(1), torch.tensor([1e-3])).item() == pytest.approx(1e-6 / 4, rel=0.01)


def test_gaussian_log_density_is_that_of_torch():
    mean, log_var = posterior(4, 3)
    z = torch.randn(7, 4, 3).double()
    expected = D.Normal(mean, torch.exp(0.5 * log_var)).log_prob(z).sum(-1)
    torch.testing.assert_close(latent.gaussian_log_density(z, mean, log_var), expected)


@pytest.mark.parametrize("free_bits", [0.0, 0.3, 100.0])
def test_free_bits_have_the_mean_and_the_gradient_of_equation_15(free_bits: float):
    mean, log_var = (p.requires_grad_() for p in posterior(16, 6))
    size = torch.tensor([0.01, 0.1, 0.2, 1.0, 2.0, 3.0]).double()
    per_example = kl(step(size * mean, size * log_var), free_bits=free_bits)
    per_dimension = kl_normal(size * mean, size * log_var).mean(0)
    expected = per_dimension.clamp(min=free_bits).sum()
    assert per_example.shape == (16,)
    torch.testing.assert_close(per_example.mean(), expected)
    assert free_bits != 0.3 or 0 < (per_dimension < free_bits).sum() < 6  # the test sees both sides
    inputs = (mean, log_var)
    ours, theirs = torch.autograd.grad(per_example.mean(), inputs), torch.autograd.grad(expected, inputs)
    torch.testing.assert_close(ours, theirs)


def free_bits_of_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mean, log_var = torch.full((4, 1), 2.0 * rank), torch.zeros(4, 1)  # KL 0 on rank 0, 2 on rank 1: mean 1
    print([kl(step(mean, log_var), free_bits=f).mean().item() for f in (0.9, 1.1)])
    torch.distributed.destroy_process_group()


def test_free_bits_take_the_mean_over_all_ranks(tmp_path, nursery):
    above, below = zip(*map(json.loads, nursery.on_ranks(free_bits_of_rank, tmp_path)), strict=True)
    assert above == (0, 2)  # the mean of both, 1, is above 0.9: neither rank is clamped
    assert below == pytest.approx((1.1, 1.1))  # and below 1.1: both are


def linear_gaussian(data: int, latents: int, live: int, n: int) -> dict[str, Tensor]:
    """x = W z + s e, z ~ N(0, I): probabilistic PCA with a diagonal posterior, since W has orthogonal columns."""
    basis = torch.linalg.qr(torch.randn(data, latents).double()).Q
    weight = basis * torch.where(torch.arange(latents) < live, torch.linspace(1, 3, latents), 0.0)
    noise = torch.tensor(0.5).double()
    x = torch.randn(n, latents).double() @ weight.T + noise * torch.randn(n, data).double()
    precision = 1 + (weight.square() / noise**2).sum(0)
    mean, log_var = x @ weight / noise**2 / precision, -precision.log().expand(n, latents)
    covariance = weight @ weight.T + noise**2 * torch.eye(data).double()
    log_p = D.MultivariateNormal(torch.zeros(data).double(), covariance).log_prob(x)
    return {"x": x, "weight": weight, "mean": mean, "log_var": log_var, "log_p": log_p}


def log_weights(m: dict[str, Tensor], mean: Tensor, log_var: Tensor, k: int) -> Tensor:
    model = likelihoods.build("gaussian", spec("real", (m["x"].shape[1],)), 0.5)
    z = latent.reparameterise(mean, log_var, torch.randn(k, *mean.shape).double())
    zeros = torch.zeros_like(z)
    prior, posterior = latent.gaussian_log_density(z, zeros, zeros), latent.gaussian_log_density(z, mean, log_var)
    return model.log_prob(m["x"], z @ m["weight"].T) + prior - posterior


def test_every_importance_weight_is_the_likelihood_under_the_exact_posterior():
    m = linear_gaussian(data=8, latents=3, live=3, n=20)
    log_w = log_weights(m, m["mean"], m["log_var"], k=5)
    torch.testing.assert_close(log_w, m["log_p"].expand(5, 20), rtol=0, atol=1e-9)
    torch.testing.assert_close(latent.importance_bound(log_w), m["log_p"], rtol=0, atol=1e-9)


def test_importance_bound_tightens_from_below():
    m = linear_gaussian(data=8, latents=3, live=3, n=200)
    log_w = log_weights(m, m["mean"] + 0.2, m["log_var"] + 0.5, k=400)
    gaps = [(m["log_p"] - latent.importance_bound(log_w[:k])).mean().item() for k in (1, 10, 400)]
    assert gaps[0] > gaps[1] > gaps[2] > -0.02 and gaps[2] < 0.05 < gaps[0]
    assert latent.importance_bound(torch.full((7, 2), -1e4)).tolist() == pytest.approx([-1e4, -1e4])


@pytest.mark.parametrize("live", [0, 2, 5])
def test_active_units_of_a_linear_model_are_its_live_dimensions(live: int):
    def active(means: Tensor) -> list[bool]:
        return latent.active_units(means.mean(0), means.square().mean(0)).tolist()

    means = linear_gaussian(data=8, latents=5, live=live, n=500)["mean"]
    assert active(means) == [True] * live + [False] * (5 - live)
    assert active(torch.tensor([[5.0, 0.0], [5.1, 0.3]], dtype=torch.float64)) == [False, True]


# Terms ----------------------------------------------------------------------------------------------------------------


def edges(s: Step, sigma: float, power: int = 2) -> Tensor:
    return sigma * s.x.flatten(1).norm(p=power, dim=1)


def test_terms_are_weights_ramps_and_arguments():
    terms = {"kl": "0..1@10000"}
    assert parse_terms(terms, TERMS) == {"kl": WeightedTerm(kl, "0..1@10000", {})}
    terms = {"kl": {"weight": 4, "free_bits": 0.1}, "mine": {"weight": 1, "function": edges, "sigma": 2.0}}
    parsed = parse_terms(terms, TERMS)
    assert list(parsed.items()) == [("kl", (kl, 4, {"free_bits": 0.1})), ("mine", (edges, 1, {"sigma": 2.0}))]
    assert terms["kl"] == {"weight": 4, "free_bits": 0.1}  # the caller's mapping is left alone
    assert parse_terms({"kl": None}, TERMS) == {} == parse_terms({}, TERMS)


@pytest.mark.parametrize(
    "terms",
    [
        {"my_terms.edges": {"weight": 0.1, "sigma": 1}},
        {"my_terms": {"edges": {"weight": 0.1, "sigma": 1}}},
    ],
)
def test_terms_of_an_import_path_arrive_dotted_or_nested(terms, tmp_path, monkeypatch):
    (tmp_path / "my_terms.py").write_text("def edges(s, sigma):\n    return sigma * s.x.sum(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    parsed = parse_terms({"kl": 1, **terms}, TERMS)
    assert list(parsed) == ["kl", "my_terms.edges"]
    term, weight, arguments = parsed["my_terms.edges"]
    s = step(*posterior(3, 2))
    assert weight == 0.1 and torch.equal(term(s, **arguments), s.x.sum(1))
    assert parse_terms({"my_terms": {"edges": None}}, TERMS) == {}


@pytest.mark.parametrize(
    "terms, said",
    [
        ({"kll": 1}, "unknown term 'kll': did you mean 'kl'"),
        ({"tcc": {}}, "unknown term 'tcc'"),
        ({"no_such.edges": 1}, "cannot import term 'no_such.edges'.*one of: .*kl"),
        ({"kl": {"weight": 1, "free_bit": 1}}, r"term 'kl' has no option 'free_bit': its options are free_bits=0\.0"),
        ({"kl": {"weight": 1, "free_bits": "some"}}, r"free_bits='some' is not of the type of its default 0\.0"),
        ({"kl": {"free_bits": 0.1}}, "term 'kl' needs a weight"),
        ({"kl": [1]}, r"needs a weight, not \[1\]"),
        ({"kl": True}, "needs a weight, not True"),
        ({"mine": {"weight": 1, "function": 3}}, "give a function"),
        ({"mine": {"weight": 1, "function": edges}}, "'mine' needs sigma: its options are sigma, power=2"),
    ],
)
def test_wrong_terms_are_refused(terms, said: str):
    with pytest.raises(UserError, match=said):
        parse_terms(terms, TERMS)
