"""Flows against what is known exactly: paths by autograd, conversions by inversion, Gaussian data by closed forms."""

from __future__ import annotations

import math
import os
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_gen.commands import evaluate, fit, sample
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.evaluation import code_flow, report
from lightning_gen.models.coupling import optimal
from lightning_gen.models.exact_likelihood import log_prob
from lightning_gen.models.flow import Flow, Sampling
from lightning_gen.models.solvers import SOLVERS, ancestral, find_solver, integrate, one_step, time_grid, velocity
from lightning_gen.networks.denoisers import denoiser
from lightning_gen.networks.dit import DiT
from lightning_gen.objectives.flow_times import TIMES, log_normal, shifted
from lightning_gen.objectives.paths import (
    PATHS,
    PREDICTIONS,
    WEIGHTS,
    denoising_error,
    over,
    preconditioning,
    time_of_edm_sigma,
)
from lightning_gen.pictures.captions import caption
from lightning_gen.training.noise import indexed_noise

MEAN, STD = 0.7, 0.4  # of Gaussian data
INSIDE = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(name: str):
    """The optimal denoiser of data N(MEAN, STD^2): E[x | x_t]."""
    path = PATHS[name]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = over(path.alpha(t), x), over(path.sigma(t), x)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise, path


# Paths


@pytest.mark.parametrize("name", PATHS)
def test_the_derivatives_of_a_path_are_those_of_autograd(name: str):
    path, t = PATHS[name], INSIDE.clone().requires_grad_()
    for value, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        made = value(t)
        expected = torch.autograd.grad(made.sum(), t)[0] if made.requires_grad else torch.zeros_like(t)
        torch.testing.assert_close(slope(INSIDE), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_goes_from_noise_to_data(name: str):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    signal = PATHS[name].alpha(ends) / PATHS[name].sigma(ends)
    assert signal[0] <= 1 / 80 + 1e-9 and signal[1] >= 499
    assert (PATHS[name].alpha(INSIDE) / PATHS[name].sigma(INSIDE)).diff().min() > 0


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("predict", PREDICTIONS)
def test_every_prediction_of_the_truth_gives_back_the_example(name: str, predict: str):
    path, t = PATHS[name], INSIDE
    x, e = normal(19, 3), normal(19, 3, seed=1)
    x_t, size = path.at(x, e, t), 0.5
    skip, scale, _ = preconditioning(path, t, size)
    truth = {"x": x, "e": e, "v": path.velocity(x, e, t), "f": (x - over(skip, x) * x_t) / over(scale, x)}[predict]
    torch.testing.assert_close(PREDICTIONS[predict].denoised(path, truth, x_t, t, size), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(path.noise(x, x_t, t), e, rtol=1e-6, atol=1e-6)
    for weight in WEIGHTS:
        assert denoising_error(path, predict, weight, truth, x, e, t, size).abs().max() < 1e-8


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("weight", ["x", "v", "e", "f"])
def test_a_weight_makes_the_error_that_of_what_it_is_named_for(name: str, weight: str):
    """Of any prediction: |v^ - v|^2 where v^ follows from x^, and so on."""
    path, x, e = PATHS[name], normal(19, 4), normal(19, 4, seed=1)
    guess, size = x + 0.1 * normal(19, 4, seed=2), 0.5
    found = denoising_error(path, "x", weight, guess, x, e, INSIDE, size)
    x_t = path.at(x, e, INSIDE)
    noise = path.noise(guess, x_t, INSIDE)
    other = {
        "x": (guess, x),
        "e": (noise, e),
        "v": (path.velocity(guess, noise, INSIDE), path.velocity(x, e, INSIDE)),
    }
    if weight in other:
        expected = (other[weight][0] - other[weight][1]).square().mean(1)
        apart = path.sigma(INSIDE) >= 0.05  # nearer to the data the weight is bounded
        torch.testing.assert_close(found[apart], expected[apart], rtol=1e-6, atol=1e-12)
    else:
        skip, scale = (over(part, x) for part in preconditioning(path, INSIDE, size)[:2])
        expected = ((guess - skip * x_t) / scale - (x - skip * x_t) / scale).square().mean(1)
        apart = path.sigma(INSIDE) >= 0.05
        torch.testing.assert_close(found[apart], expected[apart], rtol=1e-6, atol=1e-12)


def test_the_loss_is_bounded_at_the_data_in_half_precision_too():
    t = torch.tensor([1.0, 1 - 1e-7, 0.0])
    for name, path in PATHS.items():
        for predict in PREDICTIONS:
            out = torch.ones(3, 2, dtype=torch.float16).float()
            for weight in WEIGHTS:
                error = denoising_error(path, predict, weight, out, torch.zeros(3, 2), torch.ones(3, 2), t, 0.5)
                assert error.isfinite().all(), (name, predict, weight, error)


# Times


def test_times_are_functions_of_uniform_numbers():
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    for name, times in TIMES.items():
        t = times(u)
        assert t.min() >= 0 and t.max() <= 1 and (t.diff().sign().unique().numel() == 1), name
    t = TIMES["logit_normal"](u, mean=0.3, std=0.7)
    odds = (t / (1 - t)).log()
    assert odds.mean().item() == pytest.approx(0.3, abs=1e-3) and odds.std().item() == pytest.approx(0.7, abs=0.01)
    sigma = PATHS["edm"].sigma(log_normal(u, -1.2, 1.2)).log()
    assert sigma.mean().item() == pytest.approx(-1.2, abs=0.01) and sigma.std().item() == pytest.approx(1.2, abs=0.02)
    assert torch.equal(shifted(u, 1.0), u) and (shifted(u, 0.25) > u).all()
    torch.testing.assert_close(time_of_edm_sigma(PATHS["edm"].sigma(INSIDE)), INSIDE)


# Solvers


def moments(name: str, path_name: str, nfe: int, n: int = 4000) -> tuple[float, float]:
    """Mean and standard deviation of the samples of the optimal denoiser, from noise with exact moments."""
    denoise, path = gaussian(path_name)
    solver = find_solver(name, nfe)
    times = time_grid(solver.steps(nfe), 1.0).double()
    z = normal(n, 1)
    z = (z - z.mean()) / z.std(correction=0)
    x = solver.run(denoise, path, z * path.sigma(times[0]), times, lambda k: _unit(n, k))
    return float(x.mean()), float(x.std(correction=0))


def _unit(n: int, k: int) -> Tensor:
    z = normal(n, 1, seed=1000 + k)
    return (z - z.mean()) / z.std(correction=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name, solver in SOLVERS.items() if not solver.draws])
def test_deterministic_solvers_reach_the_moments_of_gaussian_data(name: str, path: str):
    mean, std = moments(name, path, 400)
    tolerance = 0.03 if path == "edm" else 0.005  # at its start the mean of the data is 1 / 100 of the noise
    assert mean == pytest.approx(MEAN, abs=tolerance) and std == pytest.approx(STD, abs=tolerance)


@pytest.mark.parametrize("name", [name for name, solver in SOLVERS.items() if solver.draws])
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_stochastic_solvers_reach_the_moments_of_gaussian_data(name: str, path: str):
    mean, std = moments(name, path, 400, n=20_000)
    assert mean == pytest.approx(MEAN, abs=0.02) and std == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize("name, order", [("euler", 1), ("midpoint", 2), ("heun", 2), ("ddim", 1), ("dpmpp2m", 2)])
def test_the_error_of_a_solver_falls_with_its_order(name: str, order: int):
    """Between two inner times of the cosine path, where the flow of a Gaussian is known: halved steps."""
    denoise, path = gaussian("cosine")
    start, end = torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    x = normal(50, 1)

    def spread(t: Tensor) -> Tensor:
        return (path.alpha(t) ** 2 * STD**2 + path.sigma(t) ** 2).sqrt()

    exact = path.alpha(end) * MEAN + (x - path.alpha(start) * MEAN) * spread(end) / spread(start)
    errors = []
    for steps in (32, 64, 128):
        times = start + (end - start) * torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        made = SOLVERS[name].run(denoise, path, x, times, lambda k: x)
        errors.append(float((made - exact).abs().max()))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(rate == pytest.approx(order, abs=0.25) for rate in rates), (errors, rates)


def test_on_straight_paths_ddim_is_euler():
    denoise, path = gaussian("linear")
    times, x = time_grid(7, 1.0).double(), normal(9, 2)
    one, two = (SOLVERS[name].run(denoise, path, x, times, lambda k: x) for name in ("euler", "ddim"))
    torch.testing.assert_close(one, two)


def test_ddim_with_all_its_noise_is_the_posterior_of_ddpm():
    """q(x_s | x_t, x) by conditioning the joint normal distribution of x_s and x_t."""
    path, x, x_t = PATHS["cosine"], normal(5, 2), normal(5, 2, seed=1)
    times = torch.tensor([0.3, 0.6], dtype=torch.float64)
    (alpha_t, alpha_s), (sigma_t, sigma_s) = path.alpha(times), path.sigma(times)
    ratio = alpha_t / alpha_s  # x_t = ratio x_s + noise of variance sigma_t^2 - ratio^2 sigma_s^2
    precision = 1 / sigma_s**2 + ratio**2 / (sigma_t**2 - ratio**2 * sigma_s**2)
    mean = (alpha_s * x / sigma_s**2 + ratio * x_t / (sigma_t**2 - ratio**2 * sigma_s**2)) / precision
    run = ancestral(1.0)
    zero = run(lambda *_: x, path, x_t, times, lambda k: torch.zeros_like(x))
    one = run(lambda *_: x, path, x_t, times, lambda k: torch.ones_like(x))
    torch.testing.assert_close(zero, mean)
    torch.testing.assert_close(one - zero, torch.full_like(x, float(precision**-0.5)))


def test_the_adaptive_solver_keeps_its_tolerance_and_each_example_its_own_step():
    def field(x: Tensor, t: Tensor) -> Tensor:
        return x * torch.tensor([[0.5], [-6.0], [3.0]], dtype=torch.float64)[: len(x)]

    x = torch.ones(3, 1, dtype=torch.float64)
    made, used = integrate(field, x, 0.0, 1.0)
    torch.testing.assert_close(made[:, 0].log(), torch.tensor([0.5, -6.0, 3.0]).double(), rtol=1e-3, atol=1e-3)
    alone, fewer = integrate(field, x[:1], 0.0, 1.0)
    assert torch.equal(alone, made[:1]) and fewer < used
    back, _ = integrate(field, made, 1.0, 0.0)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)


def test_a_field_that_does_not_end_is_told():
    with pytest.raises(UserError, match="has not arrived"):
        integrate(lambda x, t: x * torch.nan, torch.ones(1, 1), 0.0, 1.0)


@pytest.mark.parametrize("nfe", [0, 1001, -3])
def test_impossible_numbers_of_evaluations_are_refused(nfe: int):
    with pytest.raises(UserError, match="possible are 1 to 1,000"):
        find_solver("heun", nfe)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "dopri5"])
@pytest.mark.parametrize("nfe", [2, 7, 8])
def test_a_solver_takes_as_many_evaluations_as_it_is_allowed(name: str, nfe: int):
    calls = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert float(t.max()) < 1  # where sigma is 0
        calls.append(1)
        return x

    solver = find_solver(name, nfe)
    times = time_grid(solver.steps(nfe), 1.0)
    solver.run(denoise, PATHS["linear"], torch.ones(1, 1), times, lambda k: torch.ones(1, 1))
    assert nfe - 1 <= len(calls) <= nfe


# Likelihood


@pytest.mark.parametrize("dims", [1, 3, 9])
def test_the_likelihood_of_a_flow_of_gaussian_data_is_their_density(dims: int):
    """Above seven dimensions the trace is estimated; of this field, a multiple of x, the estimate is exact, too."""
    denoise, path = gaussian("linear")
    x = MEAN + STD * normal(6, dims)
    found = log_prob(velocity(denoise, path), x, path, 1 - 1e-3, list(range(6)), 0)
    exact = torch.distributions.Normal(MEAN, STD).log_prob(x).sum(1)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4 * dims)


# Coupling


def test_the_optimal_coupling_is_the_best_of_all_orders():
    x, e = normal(6, 2), normal(6, 2, seed=1)
    found = (optimal(x, e) - x).square().sum()
    least = min(float((e[list(order)] - x).square().sum()) for order in permutations(range(6)))
    assert float(found) == pytest.approx(least)
    assert sorted(optimal(x, e)[:, 0].tolist()) == sorted(e[:, 0].tolist())


# The model


def flow(**options) -> Flow:
    spec = options.pop("spec", DataSpec((1, 8, 8), num_classes=3))
    torch.manual_seed(0)
    model = Flow(spec, network_args=options.pop("network_args", {"width": 8}), seed=1, **options)
    for parameter in model.parameters():  # of which the last layer starts at 0
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.eval()


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_do_not_depend_on_the_batch(name: str):
    model = flow(solver=name, nfe=6)
    every = model.sample(5, seed=3)
    parts = torch.cat([model.sample(2, seed=3), model.sample(3, y=torch.tensor([2, 0, 1]), seed=3, start=2)])
    torch.testing.assert_close(every, parts, rtol=0, atol=2e-3)
    assert not torch.allclose(every, model.sample(5, seed=4), atol=0.1)


def test_guidance_of_1_is_none_and_costs_no_second_evaluation():
    model, calls = flow(), []
    model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    plain = model.sample(2)
    once = len(calls)
    model.sampling = model.sampling._replace(guidance=1.0, guidance_from=0.2)
    assert torch.equal(model.sample(2), plain) and len(calls) == 2 * once
    model.sampling = model.sampling._replace(guidance=2.0, guidance_from=0.0)
    guided = model.sample(2)
    assert len(calls) == 4 * once and not torch.allclose(guided, plain)
    model.sampling = model.sampling._replace(guidance_from=0.5)
    model.sample(2)
    assert len(calls) < 6 * once


def test_guidance_goes_on_from_the_estimate_without_a_class():
    model = flow()
    x, t, y = torch.randn(2, 1, 8, 8), torch.full((2,), 0.4), torch.tensor([1, 2])
    with torch.no_grad():
        told, untold = model.denoised(x, t, y), model.denoised(x, t, torch.tensor([3, 3]))
        model.sampling = model.sampling._replace(guidance=3.0)
        torch.testing.assert_close(model._guided(y)(x, t), untold + 3 * (told - untold))
        model.weak = flow(network_args={"width": 16})
        weak = model.weak.denoised(x, t, y)
        torch.testing.assert_close(model._guided(y)(x, t), weak + 3 * (told - weak))


def test_guidance_without_classes_is_refused():
    with pytest.raises(UserError, match="takes no classes"):
        flow(spec=DataSpec((1, 8, 8)), guidance=2.0)


def test_the_way_to_the_noise_and_back_gives_the_example():
    model = flow(spec=DataSpec((2,), "vector", "real"), network_args={"width": 16}, nfe=101, solver="ddpm")
    x = normal(4, 2).float()
    with torch.no_grad():
        torch.testing.assert_close(model.reconstruct(x), x, atol=2e-2, rtol=0)


def test_the_caption_of_interpolations_says_that_their_ends_are_examples():
    assert "first and last column: two held-out examples" in caption("interpolations", flow())
    assert "arc between their noises" in caption("interpolations", flow())
    assert "from one drawn code to another" in caption("drawn_interpolations", flow())


def test_likelihoods_are_in_the_units_of_the_data():
    plain = flow(spec=DataSpec((2,), "vector", "real"), network_args={"width": 16})
    twice = flow(spec=DataSpec((2,), "vector", "real"), network_args={"width": 16}, scale=2.0)
    own = flow(spec=DataSpec((2,), "vector", "real", mean=(1.0, 2.0), scale=(3.0, 5.0)), network_args={"width": 16})
    x = normal(4, 2).float()
    nats = plain.log_prob(x)
    torch.testing.assert_close(twice.log_prob(2 * x), nats - 2 * math.log(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(own.log_prob(x), nats - math.log(15), atol=1e-3, rtol=0)


def test_the_times_of_training_are_one_in_each_part(trainer):
    data = Digits(batch_size=16)
    model = Flow(data.spec, network_args={"width": 8})
    seen = []
    model.errors = lambda x, e, t, y: seen.append(t) or (model.denoiser.head.bias.sum() + x.flatten(1).mean(1))
    trainer(max_steps=2, limit_val_batches=0).fit(model, data)
    assert all(torch.equal((t * 16).floor(), torch.arange(16.0)) for t in seen) and not torch.equal(*seen[:2])


def test_a_flow_of_digits_learns(trainer):
    data = Digits(batch_size=128)
    torch.manual_seed(0)
    model = Flow(data.spec, network_args={"width": 16}, lr=2e-3)
    first = trainer(max_steps=1, limit_val_batches=1.0).fit(model, data)
    del first
    run = trainer(max_steps=150)
    run.fit(model, data)
    assert float(run.callback_metrics["val/loss"]) < 0.6  # 1.2 at the start: of the noise 1, of the data 0.3
    assert model.loss_by_time.min() > 0 and model.loss_by_time.isfinite().all()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"path": "straight"}, "straight"),
        ({"predict": "y"}, "possible|known|did you mean"),
        ({"solver": "euler2"}, "euler"),
        ({"times": "gaussian"}, "times"),
        ({"times_args": {"mean": 1}}, "mean"),
        ({"no_class": 1.0}, "no_class"),
        ({"scale": 0.0}, "scale"),
        ({"network": "dit", "network_args": {"patch": 3}}, "multiple"),
        ({"network_args": {"patch": 5}}, "multiple"),
    ],
)
def test_impossible_options_are_one_line(options: dict, text: str):
    with pytest.raises(UserError, match=text) as caught:
        Flow(DataSpec((1, 8, 8)), **options)
    assert "\n" not in str(caught.value)


def test_tokens_are_refused():
    with pytest.raises(UserError, match="tokens"):
        Flow(DataSpec((5,), "text", "tokens", vocab=("a", "b")))


# Networks


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 17, 31), (1, 100), (2, 4, 16, 16), (5,)])
@pytest.mark.parametrize("name", ["auto", "dit", "mlp"])
def test_denoisers_take_every_shape(name: str, shape: tuple[int, ...]):
    fits = len(shape) > 1 and all(side % 4 == 0 for side in shape[1:])
    if name == "dit" and not fits:
        with pytest.raises(UserError):
            denoiser(name, DataSpec(shape, "any.Kind"))
        return
    network = denoiser(name, DataSpec(shape, "any.Kind"), width=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    x, t = torch.randn(3, *shape), torch.tensor([0.0, 0.5, 1.0])
    out = network(x, t)
    assert out.shape == x.shape and out.isfinite().all()
    assert not torch.allclose(network(x, t.flip(0))[0], out[0])  # it sees the time
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_patches_are_put_back_in_their_places():
    network = DiT(DataSpec((3, 8, 12)), width=8, patch=4)
    x = torch.randn(2, 3, 8, 12)
    patches = network._patches(x)
    assert patches.shape == (2, 6, 48) and torch.equal(patches[0, 1], x[0, :, :4, 4:8].flatten())
    assert torch.equal(network._from_patches(patches), x)


def test_a_step_to_the_data_is_eulers():
    field = lambda x, t: torch.where((t < 1)[:, None], x, torch.nan)  # noqa: E731
    x, t = torch.ones(2, 1), torch.full((2,), 0.5)
    assert torch.equal(one_step(field, x, t, torch.ones(2), "heun"), x * 1.5)


def test_step_noise_is_numbered():
    model = flow(solver="ddpm", nfe=4)
    drawn = indexed_noise(range(7, 9), (1, 8, 8), 5, "solver", 2)
    assert torch.equal(drawn[1], indexed_noise([8], (1, 8, 8), 5, "solver", 2)[0])
    assert Sampling().check(True, False).solver == "heun" and model.sampling.nfe == 4


# Commands


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs of a few iterations: of digits with classes, of points without."""
    folder, before = tmp_path_factory.mktemp("flows"), os.getcwd()
    os.chdir(folder)
    try:
        for words in (["flow", "--model.network_args.width", "8"], ["flow-toy"], ["vae"]):
            fit.main(["--model", *words, "--steps", "4", "--val_every", "4", "--seed", "0"])
    finally:
        os.chdir(before)
    return {name: folder / "tb_logs" / f"{name}-{data}" / "version_0" for name, data in RUNS.items()}


RUNS = {"flow": "digits", "flow-toy": "toy", "vae": "digits"}


def test_samples_say_by_which_solver_they_were_made(runs, tmp_path, capsys):
    sample.main(
        [str(runs["flow"]), "-n", "4", "--solver", "ddim", "--nfe", "3", "--guidance", "2", "--out", str(tmp_path)]
    )
    assert "by ddim with 3 evaluations" in capsys.readouterr().out
    with Image.open(tmp_path / "00003.png") as picture:
        assert (picture.info["solver"], picture.info["nfe"], picture.info["guidance"]) == ("ddim", "3", "2.0")
    sample.main([str(runs["flow"]), "-n", "4", "--nfe", "3", "--shift", "0.5"])
    assert (runs["flow"] / "samples" / "seed_0_nfe_3_shift_0.5" / "grid.png").exists()


def test_a_weaker_run_guides(runs, tmp_path, capsys):
    sample.main(
        [str(runs["flow-toy"]), "-n", "3", "--guidance", "1.5", "--weak", str(runs["flow-toy"]), "--out", str(tmp_path)]
    )
    guided = np.load(tmp_path / "samples.npy")
    sample.main([str(runs["flow-toy"]), "-n", "3", "--out", str(tmp_path / "plain")])
    assert np.allclose(guided, np.load(tmp_path / "plain" / "samples.npy"), atol=1e-4)  # by itself, it is not moved


@pytest.mark.parametrize(
    "name, words, text",
    [
        ("flow", ["--nfe", "0"], "nfe 0: .* possible are 1 to 1,000"),
        ("flow", ["--nfe", "2000"], "nfe 2000"),
        ("flow", ["--solver", "midpoint", "--nfe", "1"], "at least 2"),
        ("flow", ["--shift", "0"], "shift 0.0: it must be above 0"),
        ("flow", ["--guidance", "-1"], "guidance -1.0"),
        ("flow", ["--guidance_from", "0.9", "--guidance_to", "0.1"], "0 <= from <= to <= 1"),
        ("flow-toy", ["--guidance", "2"], "takes no classes"),
        ("flow", ["--weak", "VAE"], "is a VAE: give a run of a flow"),
        ("flow", ["--weak", "TOY"], "of another shape, path"),
        ("vae", ["--solver", "heun"], "VAE has no solver; flows have"),
        ("flow", ["--sampler", "gmm"], "has none to draw"),
    ],
)
def test_impossible_solvers_are_one_line(runs, name: str, words: list[str], text: str):
    places = {"VAE": str(runs["vae"]), "TOY": str(runs["flow-toy"])}
    with pytest.raises(UserError, match=text) as caught:
        sample.main([str(runs[name]), "-n", "2", *(places.get(word, word) for word in words)])
    assert "\n" not in str(caught.value)


def test_an_evaluation_measures_likelihoods_and_names_the_solver(runs):
    evaluate.main([str(runs["flow"]), "-n", "4", "--metrics", "bits", "reconstruction", "nll", "--nfe", "5"])
    content = report.read(runs["flow"] / report.FILE)
    assert content["setting"]["nfe"] == 5 and content["setting"]["solver"] == "heun"
    assert set(content["values"]) == {"bits_per_dim", "psnr", "ssim"} and "no density" not in content["failed"]
    assert "have none: see bits_per_dim" in content["inapplicable"]["nll"]
    assert content["values"]["bits_per_dim"]["likelihood"] == "17 levels"
    evaluate.main([str(runs["flow-toy"]), "-n", "4", "--metrics", "nll"])
    assert report.read(runs["flow-toy"] / report.FILE)["values"]["nll"]["n"] == 4


def test_a_sampler_of_codes_draws_where_the_codes_are(monkeypatch):
    """Two clusters in one of three dimensions; the second says nothing, and the third is constant."""
    monkeypatch.setattr(code_flow, "STEPS", 300)
    side = torch.where(torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.5, -3.0, 3.0)
    mean = torch.stack(
        [side + 0.1 * normal(500).float(), 0.01 * normal(500, seed=1).float(), torch.full((500,), 2.0)], 1
    )
    noise = normal(2000, 3, seed=2).float()
    exact = code_flow.fit_flow(mean, False, 0)
    drawn = exact.draw(noise)
    assert exact.active.tolist() == [True, True, False] and (drawn[:, 2] == 2).all()
    assert ((drawn[:, 0].abs() - 3).abs() < 1).double().mean() > 0.9
    assert 0.35 < (drawn[:, 0] > 0).double().mean() < 0.65
    random = code_flow.fit_flow(mean * torch.tensor([1.0, 1.0, 0.0]), True, 0)
    drawn = random.draw(noise)
    assert random.active.tolist() == [True, False, False]
    assert torch.equal(drawn[:, 1:], noise[:, 1:])  # as the prior has them
    assert torch.equal(code_flow.fit_flow(mean, False, 0).draw(noise), exact.draw(noise))


def test_codes_that_cannot_be_fitted_are_told():
    with pytest.raises(UserError, match="needs 100 training examples, and there are 7"):
        code_flow.fit_flow(torch.randn(7, 2), False, 0)
    with pytest.raises(UserError, match="none of 2 dimensions"):
        code_flow.fit_flow(torch.zeros(200, 2), True, 0)
