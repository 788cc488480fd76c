"""Terms of a loss: the parts of the KL, moments, distances to the prior, capacities, the critic's total correlation."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributions as D
from torch import Tensor

from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder import Autoencoder
from lightning_gen.models.factor import FactorVAE
from lightning_gen.models.vae import VAE
from lightning_gen.objectives.coupled import aggregate_densities, dip, dkl, mi, mmd, tc
from lightning_gen.objectives.groups import GROUP, couples_examples, grouped_steps
from lightning_gen.objectives.latent import Step, capacity, gaussian_log_density, kl, kl_normal, reparameterise
from lightning_gen.objectives.terms import CODE_TERMS, TERMS, parse_terms
from lightning_gen.training.noise import BatchNoise

POINTS = DataSpec((5,), "vector", "real", size=100)
SMALL: dict[str, Any] = {"latent_dim": 3, "network": "mlp", "network_args": {"hidden": [8]}}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(mean: Tensor, log_var: Tensor, size: int = 0, noise: Tensor | None = None) -> Step:
    z = reparameterise(mean, log_var, normal(*mean.shape, seed=7) if noise is None else noise)
    kl = kl_normal(mean, log_var)
    prior = normal(*mean.shape, seed=8)
    return Step(mean, None, mean, z, mean, log_var, kl, size=size, prior=lambda: prior)


def some(n: int, dims: int, size: int = 0) -> Step:
    return step(2 * normal(n, dims, seed=1), normal(n, dims, seed=2) - 1, size)


def bare(z: Tensor) -> Step:
    """The step of an autoencoder."""
    return Step(z, None, z, z, z)


def exact(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# The parts of the KL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 12, 5000])
def test_the_three_parts_sum_to_the_kl_at_each_draw(size: int):
    s = some(12, 4, size)
    assert s.log_var is not None
    zeros = torch.zeros_like(s.z)
    log_ratio = gaussian_log_density(s.z, s.mean, s.log_var) - gaussian_log_density(s.z, zeros, zeros)
    exact(mi(s) + tc(s) + dkl(s), log_ratio)


def mixture(mean: Tensor, log_var: Tensor) -> D.MixtureSameFamily:
    """q(z) = 1/N sum_n q(z|x_n), of all dimensions or of one."""
    each = D.Independent(D.Normal(mean, torch.exp(0.5 * log_var)), 1)
    return D.MixtureSameFamily(D.Categorical(torch.ones(len(mean)).double()), each)


def test_a_batch_of_all_examples_gives_the_exact_aggregate_posterior():
    s = some(9, 3, size=9)
    assert s.log_var is not None
    own, joint, product = aggregate_densities(s)
    exact(own, gaussian_log_density(s.z, s.mean, s.log_var))
    exact(joint, mixture(s.mean, s.log_var).log_prob(s.z))
    columns = [mixture(s.mean[:, [j]], s.log_var[:, [j]]).log_prob(s.z[:, [j]]) for j in range(3)]
    exact(product, torch.stack(columns).sum(0))


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_the_density_of_a_draw_is_right_on_average_over_all_batches(batch: int):
    """Enumerated: all batches in which an example can find itself."""
    size = 6
    whole = some(size, 1, size)
    assert whole.log_var is not None
    sums, counts = torch.zeros(2, size).double(), torch.zeros(size)
    for rows in map(list, combinations(range(size), batch)):
        part = Step(whole.x, None, whole.out, whole.z[rows], whole.mean[rows], whole.log_var[rows], size=size)
        sums[:, rows] += torch.stack(aggregate_densities(part)[1:]).exp()
        counts[rows] += 1
    exact(sums / counts, torch.stack(aggregate_densities(whole)[1:]).exp())


def test_the_total_correlation_of_a_grid_is_zero_and_that_of_a_line_is_not():
    grid = torch.cartesian_prod(*[torch.tensor([-2.0, 0.3, 1.0]).double()] * 3)  # (27, 3), all combinations
    spread = torch.tensor([-3.0, 0.0, 1.0]).double().expand(27, 3)
    exact(tc(step(grid, spread, size=27)), torch.zeros(27).double())
    line = torch.linspace(-3, 3, 27).double().unsqueeze(1).expand(27, 3)
    assert tc(step(line, spread - 2, size=27)).mean() > 1


# Capacity -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nats", [0.5, 500.0])
def test_capacity_is_the_distance_of_the_batchs_kl_with_its_gradient(nats: float):
    mean, log_var = normal(16, 3, seed=1).requires_grad_(), normal(16, 3, seed=2).requires_grad_()
    value = capacity(step(mean, log_var), nats)
    expected = (kl_normal(mean, log_var).sum(1).mean() - nats).abs()
    assert value.shape == (16,)
    exact(value.mean(), expected)
    for ours, theirs in zip(*(torch.autograd.grad(v, (mean, log_var)) for v in (value.mean(), expected)), strict=True):
        exact(ours, theirs)
    with torch.no_grad():
        exact(capacity(step(mean, log_var), nats), kl_normal(mean, log_var).sum(1) - nats)


def test_an_argument_may_be_a_ramp_which_the_model_follows():
    terms = {"capacity": {"weight": 10, "nats": "0..25@100"}}
    ramp = parse_terms(terms, TERMS)["capacity"].arguments["nats"]
    assert (ramp(0), ramp(40), ramp(1000)) == (0, 10, 25)
    model = VAE(POINTS, terms=terms, **SMALL)
    assert model.schedules["terms.capacity.nats"] == ramp
    x, noise = normal(8, 5).float(), torch.zeros(8, 3)
    for iteration, nats in ((0, 0.0), (40, 10.0)):
        model.iteration = iteration
        s = model.infer(x, None, noise)
        assert s.kl is not None
        distance = (s.kl.sum(1).mean() - nats).abs()
        torch.testing.assert_close(model.term_values(s)["capacity"].mean(), distance)
        values = model.per_example_losses(s)
        torch.testing.assert_close(model.weighted_loss(values)[0], values["reconstruction"].mean() + 10 * distance)
    with torch.no_grad():
        end = model.eval().term_values(s)["capacity"]
    torch.testing.assert_close(end, s.kl.sum(1) - 25)


# Moments and distances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, diagonal", [(1, 10.0), (2, 1.0)])
def test_dip_is_the_covariance_of_means_or_codes_against_the_identity(kind: int, diagonal: float):
    s = some(7, 3)
    assert s.log_var is not None
    expected = 0.0
    for i in range(3):
        for j in range(3):
            a, b = s.mean[:, i] - s.mean[:, i].mean(), s.mean[:, j] - s.mean[:, j].mean()
            c = sum(float(a[n] * b[n]) for n in range(7)) / 7
            if i != j:
                expected += c**2
                continue
            c += sum(math.exp(s.log_var[n, i]) for n in range(7)) / 7 if kind == 2 else 0.0
            expected += diagonal * (c - 1) ** 2
    value = dip(s, kind=kind, diagonal=diagonal)
    exact(value, torch.full((7,), expected, dtype=torch.float64), atol=1e-9)


def imq(a: Tensor, b: Tensor) -> float:
    square, dims = float((a - b).square().sum()), len(a)
    return sum(2 * dims * s / (2 * dims * s + square) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))


def rbf(a: Tensor, b: Tensor) -> float:
    return math.exp(-float((a - b).square().sum()) / len(a))


@pytest.mark.parametrize("kernel", [imq, rbf])
def test_mmd_is_the_double_sum_over_kernels(kernel: Any):
    s = some(6, 3)
    assert s.prior is not None
    z, p = s.z, s.prior()
    pairs = [(i, j) for i in range(6) for j in range(6)]
    within = sum(kernel(z[i], z[j]) + kernel(p[i], p[j]) for i, j in pairs if i != j) / 30
    between = sum(kernel(z[i], p[j]) for i, j in pairs) / 36
    exact(mmd(s, kernel.__name__), torch.full((6,), within - 2 * between, dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_is_zero_on_average_for_equal_distributions_and_positive_for_others(kernel: str):
    def values(shift: float) -> Tensor:
        drawn = []
        for seed in range(400):
            z, p = normal(2, 8, 2, seed=seed)
            s = bare(z + shift)
            s.prior = lambda p=p: p
            drawn.append(mmd(s, kernel)[0])
        return torch.stack(drawn)

    equal, other = values(0.0), values(1.0)
    error = equal.std() / 20
    assert equal.mean().abs() < 4 * error
    assert other.mean() > 20 * error


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [kl, capacity, mi, tc, dkl, lambda s: dip(s, kind=2)])
def test_terms_of_a_random_code_are_refused_for_a_code_that_is_not(term: Any):
    with pytest.raises(UserError, match="needs a random code"):
        term(bare(normal(4, 2)))
    assert dip(bare(normal(4, 2))).isfinite().all()  # kind 1 needs the code alone


def test_unknown_kinds_and_kernels_are_refused():
    with pytest.raises(UserError, match="kernel 'rbg': did you mean 'rbf'"):
        mmd(some(4, 2), "rbg")
    with pytest.raises(UserError, match=r"kind 3: possible are 1 .* and 2"):
        dip(some(4, 2), kind=3)


# Two processes --------------------------------------------------------------------------------------------------------

COUPLED: dict[str, tuple[Any, dict[str, Any]]] = {
    "mi": (mi, {}),
    "tc": (tc, {}),
    "dkl": (dkl, {}),
    "dip 1": (dip, {"kind": 1}),
    "dip 2": (dip, {"kind": 2}),
    "imq": (mmd, {"kernel": "imq"}),
    "rbf": (mmd, {"kernel": "rbf"}),
}


def gradients(rows: slice) -> dict[str, Tensor]:
    """Gradient of each term's mean over these rows of the batch, by the weights of a linear encoder."""
    x, noise, prior = normal(8, 5, seed=1)[rows], normal(8, 3, seed=2)[rows], normal(8, 3, seed=3)[rows]
    found = {}
    for name, (term, options) in COUPLED.items():
        weight = normal(5, 6, seed=4).requires_grad_()
        mean, log_var = (x @ weight).chunk(2, 1)
        s = step(mean, log_var, 100, noise)
        s.prior = lambda: prior
        found[name] = torch.autograd.grad(term(s, **options).mean(), weight)[0]
    return found


def gradients_of_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = gradients(slice(4 * rank, 4 * rank + 4))
    for gradient in found.values():  # the mean over ranks, as DDP takes it
        dist.all_reduce(gradient)
    print(json.dumps({name: (gradient / 2).tolist() for name, gradient in found.items()}))
    dist.destroy_process_group()


def test_two_ranks_have_the_gradient_of_one_with_the_whole_batch(tmp_path, nursery):
    whole, half = gradients(slice(None)), gradients(slice(4))
    for found in map(json.loads, nursery.on_ranks(gradients_of_rank, tmp_path)):
        for name, gradient in whole.items():
            exact(torch.tensor(found[name], dtype=torch.float64), gradient, atol=1e-6)
            assert (gradient - half[name]).abs().max() > 1e-3  # a rank alone has another


# The critic of FactorVAE ----------------------------------------------------------------------------------------------


def training(model: FactorVAE) -> FactorVAE:
    model._noise = BatchNoise(seed=0)
    return model


def test_the_critic_finds_the_total_correlation_of_a_gaussian():
    torch.manual_seed(0)
    model = training(FactorVAE(POINTS, **(SMALL | {"latent_dim": 2}), critic_args={"hidden": [32, 32]}))
    optimizer = torch.optim.Adam(model.critic.parameters(), lr=5e-3)
    mixing = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    for i in range(400):
        model._noise.seek(i, 1, 0, 1)
        loss, logs = model.loss_critic({}, {"z": normal(256, 2, seed=i).float() @ mixing.T})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = normal(20_000, 2, seed=1000).float() @ mixing.T
    assert model.total_correlation(z).mean().item() == pytest.approx(-0.5 * math.log(1 - 0.8**2), abs=0.06)
    assert 0.55 < logs["accuracy"] < 0.8


def test_the_vae_pays_for_the_total_correlation_on_a_ramp():
    model = training(FactorVAE(POINTS, gamma="0..20@100", terms={"kl": 2.0}, **SMALL))
    assert model.schedules["gamma"].end == 20
    x, shared = normal(16, 5).float(), {}
    for iteration, gamma in ((0, 0.0), (50, 10.0)):
        model.iteration = iteration
        loss, logs = model.loss_vae({"x": x}, shared)
        torch.testing.assert_close(loss, logs["reconstruction"] + 2 * logs["kl"] + gamma * logs["tc"])
    assert logs["tc"] != 0 and not shared["z"].requires_grad
    assert torch.autograd.grad(logs["tc"], model.encoder.head.weight)[0].abs().max() > 0
    model.eval().example_indices = list(range(16))
    with torch.no_grad():
        values = model.validation_values({"x": x})
    assert values["loss"].shape == (16,)  # and without the critic, which moves
    torch.testing.assert_close(values["loss"], values["reconstruction"] + 2 * values["kl"])


def test_factor_vae_refuses_several_draws_and_a_second_total_correlation():
    with pytest.raises(UserError, match="take estimator elbo, not 'iwae'"):
        FactorVAE(POINTS, estimator="iwae", k=5, **SMALL)
    with pytest.raises(UserError, match="unknown term 'tc'"):
        FactorVAE(POINTS, terms={"kl": 1, "tc": 5}, **SMALL)


def test_capacity_in_validation_is_that_of_the_mean(trainer):
    """Not the mean of |KL(x) - C|, which the spread of the examples would dominate."""
    data = Digits()
    model = VAE(data.spec, terms={"capacity": {"weight": 10, "nats": 3.0}}, **SMALL)
    values = trainer().validate(model, data, verbose=False)[0]
    kl_of_all = -values["val/elbo"] - values["val/reconstruction"]
    assert values["val/capacity"] == pytest.approx(abs(kl_of_all - 3.0), abs=1e-4)
    assert values["val/loss"] == pytest.approx(values["val/reconstruction"] + 10 * values["val/capacity"], rel=1e-5)


# Validation: no value depends on the batch ----------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "table"), [(VAE, TERMS), (Autoencoder, CODE_TERMS)])
def test_validation_of_each_term_is_the_same_for_any_batch(trainer, model, table):
    """Two devices: tests/test_distributed.py."""
    torch.manual_seed(0)
    built = model(Digits().spec, terms=dict.fromkeys(table, 2.0), **SMALL)
    few, many = (trainer().validate(built, Digits(batch_size=size), verbose=False)[0] for size in (37, 2000))
    assert {f"val/{name}" for name in table} <= set(many)
    assert few == pytest.approx(many, rel=1e-5, abs=1e-5)
    terms = sum(2 * many[f"val/{name}"] for name in table)
    assert many["val/loss"] == pytest.approx(many["val/reconstruction"] + terms, rel=1e-5)
    assert built.rows is None  # no codes are kept


def test_coupled_terms_see_groups_that_mix_neighbours_and_count_each_example_once():
    assert {name for name, term in parse_terms(dict.fromkeys(TERMS, 1), TERMS).items() if term.couples_examples} == {
        *("mi", "tc", "dkl", "dip", "mmd")
    }
    z = torch.arange(600.0).unsqueeze(1)
    groups = list(grouped_steps({"z": z, "mean": z, "prior": -z}, size=9))
    assert [len(s.z) for s in groups] == [200, 200, 200] and max(len(s.z) for s in groups) <= GROUP
    assert torch.equal(groups[1].z[:, 0], torch.arange(1.0, 600, 3))
    assert groups[1].size == 9 and groups[1].log_var is None and torch.equal(groups[1].prior(), -groups[1].z)
    assert [len(s.z) for s in grouped_steps({"z": z[:257], "mean": z[:257]}, 9)] == [129, 128]


def test_a_term_of_ones_own_may_be_marked(trainer):
    """The variance of the codes in a group; unmarked it would be the mean of those of batches."""

    @couples_examples
    def spread(s: Step) -> Tensor:
        return s.mean.var(0, correction=0).sum().expand(len(s.mean))

    torch.manual_seed(0)
    model = VAE(Digits().spec, terms={"kl": 1, "spread": {"weight": 3, "function": spread}}, **SMALL)
    few, many = (trainer().validate(model, Digits(batch_size=size), verbose=False)[0] for size in (2, 2000))
    assert few["val/spread"] == pytest.approx(many["val/spread"], rel=1e-5) and few["val/spread"] > 1e-4
