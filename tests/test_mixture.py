"""The mixture of discretised logistics is a distribution over 256 levels, channel by channel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics.likelihood import discretisation
from lightning_gen.objectives import likelihoods
from lightning_gen.objectives.mixture import DiscretizedLogisticMixture as Mixture

LEVELS = torch.arange(256).double() / 127.5 - 1


def spec(*shape: int, values: str = "uint8") -> DataSpec:
    return DataSpec(shape, "image" if len(shape) == 3 else "vector", values)


def raw(log_scale: float) -> float:
    """The output of the decoder that is read as this log-scale."""
    return math.log(math.expm1(log_scale + 8)) - 7


def out_of(model: Mixture, *lead: int, size: float = 1.0, log_scale: float | None = None) -> Tensor:
    """A random output of the decoder."""
    out = size * torch.randn(*lead, *model.params()).double()
    if log_scale is not None:
        one, channels, *_ = model.sizes
        shaped = out.unflatten(-len(model.shape), (model.components, sum(model.sizes), -1))
        shaped.narrow(-len(model.shape) - 1, one + channels, channels).fill_(raw(log_scale))
    return out


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "shape, params", [((1, 4, 5), (15, 4, 5)), ((3, 4, 5), (50, 4, 5)), ((6,), (90,)), ((2, 7), (30, 7))]
)
def test_outputs_for_each_pixel_and_component(shape: tuple[int, ...], params: tuple[int, ...]):
    model = likelihoods.build("discretized_logistic_mixture", spec(*shape))
    assert type(model) is Mixture and model.components == 5
    assert model.params() == params
    out = torch.randn(2, *params)
    assert model.mean(out).shape == model.sample(out).shape == (2, *shape)


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 2.0])
def test_the_mass_of_the_256_levels_is_one(log_scale: float):
    model = Mixture(spec(1, 1, 1))
    out = out_of(model, 20, log_scale=log_scale)
    log_mass = model.log_prob(LEVELS.view(256, 1, 1, 1, 1), out)
    assert log_mass.shape == (256, 20)
    torch.testing.assert_close(log_mass.logsumexp(0), torch.zeros(20).double(), rtol=0, atol=1e-5)


def test_the_mass_of_a_channel_given_those_before_is_one():
    """The last channel of a pixel: sum over its levels of P(r, g, b), divided by P(r, g) of the first two channels."""
    colour, first_two = Mixture(spec(3, 1, 1), components=4), Mixture(spec(2, 1, 1), components=4)
    out = out_of(colour, 20, size=0.5)
    logit, location, scale, mixing = out.unflatten(-3, (4, 10)).split((1, 3, 3, 3), 2)
    kept = torch.cat([logit, location[:, :, :2], scale[:, :, :2], mixing[:, :, :1]], 2).flatten(1, 2)
    before = LEVELS[torch.randint(256, (20, 2, 1, 1))]
    x = torch.cat([before.expand(256, 20, 2, 1, 1), LEVELS.view(256, 1, 1, 1, 1).expand(256, 20, 1, 1, 1)], 2)
    torch.testing.assert_close(
        colour.log_prob(x, out).logsumexp(0), first_two.log_prob(before, kept), rtol=0, atol=1e-5
    )


def test_the_log_probability_is_that_of_the_formula():
    model = Mixture(spec(3, 2, 2), components=2)
    x, out = LEVELS[torch.randint(256, (3, 2, 2))], out_of(model, size=0.5)
    total = 0.0
    for h in range(2):
        for w in range(2):
            rows = out[:, h, w].view(2, 10)
            weights, mass = torch.softmax(rows[:, 0], 0), torch.ones(2).double()
            for k in range(2):
                _, *location, s0, s1, s2, a10, a20, a21 = rows[k]
                r, g, b = x[:, h, w]
                location[1] = location[1] + a10.tanh() * r
                location[2] = location[2] + a20.tanh() * r + a21.tanh() * g
                for value, at, s in zip((r, g, b), location, (s0, s1, s2), strict=True):
                    scale = torch.exp(torch.log1p(torch.exp(s + 7)) - 8)
                    above, below = (
                        torch.sigmoid((value - at + 1 / 255) / scale),
                        torch.sigmoid((value - at - 1 / 255) / scale),
                    )
                    mass[k] *= (1 if value == 1 else above) - (0 if value == -1 else below)
            total += (weights * mass).sum().log().item()
    assert model.log_prob(x, out).item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 5), (6,)])
def test_one_component_of_one_channel_is_the_discretised_logistic(shape: tuple[int, ...]):
    one, plain = Mixture(spec(*shape), components=1), likelihoods.build("discretized_logistic", spec(*shape), "pixel")
    x, out = LEVELS[torch.randint(256, (8, *shape))], torch.randn(8, *plain.params()).double()
    with_logit = torch.cat([torch.randn(8, *shape).double(), out], 1)
    torch.testing.assert_close(one.log_prob(x, with_logit), plain.log_prob(x, out))
    torch.testing.assert_close(one.mean(with_logit), plain.mean(out))


@pytest.mark.parametrize("factor", [-1e4, 80.0])
def test_extreme_scales_are_finite_with_their_gradients(factor: float):
    model = Mixture(spec(3, 4, 4))
    out = torch.randn(6, *model.params())
    out.unflatten(1, (5, 10))[:, :, 4:7] = factor
    out.requires_grad_()
    x = LEVELS[torch.randint(256, (6, 3, 4, 4))].float()
    log_prob = model.log_prob(x, out)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert out.grad is not None and out.grad.isfinite().all()
    assert out.grad.unflatten(1, (5, 10))[:, :, :4].any()


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 2, 2), (4,)])
def test_samples_have_the_mean_and_repeat_by_generator(shape: tuple[int, ...]):
    model = Mixture(spec(*shape), components=3)
    out = out_of(model, size=0.2, log_scale=-4.0).expand(40_000, *model.params())  # far from the ends of the range
    draws = model.sample(out, torch.Generator().manual_seed(1))
    assert torch.equal(draws, model.sample(out, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(draws.mean(0), model.mean(out[0]), rtol=0, atol=0.005)


def test_the_channels_of_a_sample_share_their_component_and_depend_on_each_other():
    model = Mixture(spec(3, 1, 1), components=2)
    out = torch.zeros(20_000, 2, 10)
    out[:, :, 4:7] = raw(-5.0)
    out[:, 0, 1:3], out[:, 1, 1:3] = -0.5, 0.5  # two modes in two channels
    out[:, :, 8] = math.atanh(0.8)  # and the third is 0.8 times the first
    x = model.sample(out.view(20_000, 20, 1, 1), torch.Generator().manual_seed(0)).view(20_000, 3)
    assert (x[:, 0].sign() == x[:, 1].sign()).all()
    assert 0.48 < (x[:, 0] > 0).double().mean() < 0.52
    assert (x[:, 2] - 0.8 * x[:, 0]).abs().max() < 0.15
    assert (x[:, 2] - 0.8 * x[:, 0]).mean().abs() < 1e-3
    assert model.mean(out[:1].view(1, 20, 1, 1)).abs().max() < 1e-6


def test_samples_are_levels_and_reach_both_ends():
    model = Mixture(spec(3, 8, 8))
    draws = model.sample(3 * torch.randn(20, *model.params()))
    levels = 127.5 * draws + 127.5
    assert (levels - levels.round()).abs().max() < 1e-3
    assert draws.min() == -1 and draws.max() == 1 and levels.round().unique().numel() > 200
    assert model.mean(10 * torch.randn(20, *model.params())).abs().max() <= 1


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (6,)])
def test_leading_dimensions_broadcast(shape: tuple[int, ...]):
    model = Mixture(spec(*shape))
    x, out = LEVELS[torch.randint(256, (2, *shape))], out_of(model, 5, 2)
    log_prob = model.log_prob(x, out)
    assert log_prob.shape == (5, 2)
    torch.testing.assert_close(log_prob[3, 1:], model.log_prob(x[1:], out[3, 1:]))
    torch.testing.assert_close(model.log_prob(x.unsqueeze(1), out[0])[1, 0], model.log_prob(x[1], out[0, 0]))
    assert model.log_prob(x[0], out[0, 0]).shape == ()
    assert model.mean(out).shape == model.sample(out).shape == (5, 2, *shape)


def test_two_modes_are_fitted_where_one_logistic_cannot():
    """Half the pixels black, half of them grey: entropy log 2, which one logistic misses by nats."""
    x = torch.where(torch.arange(400) % 2 == 0, LEVELS[20], LEVELS[150]).float().view(400, 1)
    losses = {}
    torch.manual_seed(0)
    for model in (Mixture(spec(1), components=2), likelihoods.build("discretized_logistic", spec(1), "pixel")):
        out = (0.1 * torch.randn(model.params())).requires_grad_()
        optimizer = torch.optim.Adam([out], lr=0.1)
        for _ in range(1000):  # after 300 some starts are still on their way
            optimizer.zero_grad()
            loss = -model.log_prob(x, out).mean()
            loss.backward()
            optimizer.step()
        losses[type(model)] = loss.item()
    assert losses[Mixture] < math.log(2) + 0.2
    assert losses[likelihoods.DiscretizedLogistic] > 4


@pytest.mark.parametrize("values, others", [("unit", "bernoulli, gaussian, laplace"), ("real", "gaussian, laplace")])
def test_data_that_are_no_levels_are_refused(values: str, others: str):
    with pytest.raises(UserError, match=f"does not fit data of values '{values}'.*one of: {others}$"):
        likelihoods.build("discretized_logistic_mixture", spec(1, 4, 4, values=values))


def test_no_components_and_a_scale_are_refused():
    with pytest.raises(UserError, match="components"):
        Mixture(spec(1, 4, 4), components=0)
    with pytest.raises(UserError, match="takes no scale"):
        likelihoods.build("discretized_logistic_mixture", spec(1, 4, 4), 0.1)


def test_its_nats_are_exact_bits_of_256_levels():
    row = discretisation(Mixture(spec(3, 4, 4)), spec(3, 4, 4))
    assert (row.levels, row.dequantise) == (256, False)
