"""The game of two players: pairs of losses, penalties on the discriminator, codes that a generator keeps legible."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_gen.datamodules.errors import UserError
from lightning_gen.objectives.adversarial import ADVERSARIAL, NEEDS_CONSTRAINT, smoothed
from lightning_gen.objectives.codes import InfoGANCodes
from lightning_gen.objectives.penalties import (
    NEEDS_GRADIENT,
    PENALTIES,
    DiscriminatorStep,
    auto_gamma,
    check_penalisable,
    dragan,
    gp,
    lecam,
    r1,
    r2,
)
from lightning_gen.objectives.terms import parse_terms

EVERY_PAIR = pytest.mark.parametrize("name", ADVERSARIAL)
GRADIENTS = sorted(penalty.__name__ for penalty in NEEDS_GRADIENT)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype).expand_as(actual)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def game(critic: Any, shape: tuple[int, ...] = (3,), size: int = 6, **parts: Any) -> DiscriminatorStep:
    real, fake = normal(size, *shape, seed=1), normal(size, *shape, seed=2) - 1
    noise, anchors = normal(size, 1 + math.prod(shape), seed=3), torch.tensor([0.5, -0.5])
    given = {"real": real, "fake": fake, "noise": noise, "anchors": anchors} | parts
    return DiscriminatorStep(critic, real_logits=critic(given["real"]), fake_logits=critic(given["fake"]), **given)


# Pairs of losses ------------------------------------------------------------------------------------------------------


@EVERY_PAIR
def test_a_pair_gives_a_loss_per_example(name: str):
    real, fake = normal(7), normal(7, seed=1)
    for loss in ADVERSARIAL[name][:2]:
        assert loss(real, fake).shape == (7,)
        close(loss(real[3:4], fake[3:4]), loss(real, fake)[3:4])


@EVERY_PAIR
def test_players_pull_the_logits_apart_and_up(name: str):
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    pair = ADVERSARIAL[name]
    to_real, to_fake = torch.autograd.grad(pair.discriminator(real, fake).sum(), (real, fake))
    assert bool((to_real < 0).all())
    assert bool((to_fake >= 0).all()) and (name == "least_squares" or bool((to_fake > 0).all()))
    (up,) = torch.autograd.grad(pair.generator(real, fake).sum(), fake)
    assert bool((up < 0).all())


@EVERY_PAIR
def test_only_a_paired_generator_looks_at_the_real(name: str):
    pair, fake = ADVERSARIAL[name], normal(5)
    same = torch.equal(pair.generator(normal(5, seed=1), fake), pair.generator(normal(5, seed=2), fake))
    assert same != pair.needs_real_logits


@EVERY_PAIR
def test_losses_of_sure_discriminators_are_finite(name: str):
    real, fake = torch.tensor([1e4, -1e4], requires_grad=True), torch.tensor([-1e4, 1e4], requires_grad=True)
    for loss in ADVERSARIAL[name][:2]:
        value = loss(real, fake)
        gradients = torch.autograd.grad(value.sum(), (real, fake), allow_unused=True)
        assert all(part.isfinite().all() for part in (value, *gradients) if part is not None)


# the discriminator's best logit where the data have density p and the fakes q
OPTIMA = {
    "non_saturating": lambda p, q: math.log(p / q),
    "minimax": lambda p, q: math.log(p / q),
    "least_squares": lambda p, q: p / (p + q),
    "hinge": lambda p, q: math.copysign(1, p - q),
}


@pytest.mark.parametrize("name", OPTIMA)
@pytest.mark.parametrize("p, q", [(0.7, 0.2), (0.1, 0.4)])
def test_the_best_logit_for_known_densities(name: str, p: float, q: float):
    logits, loss, zero = torch.linspace(-3, 3, 6001), ADVERSARIAL[name].discriminator, torch.zeros(1)
    expected = p * loss(logits, zero) + q * loss(zero, logits)
    assert float(logits[expected.argmin()]) == pytest.approx(OPTIMA[name](p, q), abs=2e-3)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_smoothed_labels_are_a_cross_entropy_and_bound_the_best_discriminator(smoothing: float):
    loss, real, zero = ADVERSARIAL["non_saturating"].discriminator, 3 * normal(8), torch.zeros(1)
    targets = torch.full_like(real, 1 - smoothing)
    expected = F.binary_cross_entropy_with_logits(real, targets) + math.log(2)
    close(smoothed(loss(real, zero).mean(), real, smoothing), expected)
    p, q, logits = 0.7, 0.2, torch.linspace(-3, 3, 6001)
    of_all = torch.stack([p * smoothed(loss(r, zero), r, smoothing) for r in logits]).flatten() + q * F.softplus(logits)
    best = torch.sigmoid(logits[of_all.argmin()]).item()
    assert best == pytest.approx((1 - smoothing) * p / (p + q), abs=1e-3)


def test_minimax_is_one_game_for_both():
    pair, real, fake = ADVERSARIAL["minimax"], normal(4), 3 * normal(4, seed=1)
    close(pair.generator(real, fake), torch.log(1 - torch.sigmoid(fake)), 1e-5)
    close(pair.discriminator(real, fake) + pair.generator(real, fake), F.softplus(-real))


def test_minimax_saturates_where_the_other_does_not():
    fake = torch.full((1,), -20.0, requires_grad=True)
    slopes = {
        name: float(torch.autograd.grad(ADVERSARIAL[name].generator(fake, fake).sum(), fake)[0])
        for name in ("minimax", "non_saturating")
    }
    assert slopes == pytest.approx({"minimax": 0, "non_saturating": -1}, abs=1e-6)


def test_least_squares_by_hand():
    pair, real, fake = ADVERSARIAL["least_squares"], torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])
    close(pair.discriminator(real, fake), [0.0, 4.0])
    close(pair.generator(real, fake), [0.5, 4.5])


def test_hinge_has_nothing_to_say_beyond_the_margins():
    pair = ADVERSARIAL["hinge"]
    real, fake = torch.tensor([1.5, 4.0, 0.0], requires_grad=True), torch.tensor([-1.5, -4.0, 0.5], requires_grad=True)
    loss = pair.discriminator(real, fake)
    close(loss, [0.0, 0.0, 2.5])
    to_real, to_fake = torch.autograd.grad(loss.sum(), (real, fake))
    close(to_real, [0.0, 0.0, -1.0])
    close(to_fake, [0.0, 0.0, 1.0])
    close(pair.generator(real, fake), -fake.detach())


def test_wasserstein_is_the_difference():
    pair, real, fake = ADVERSARIAL["wasserstein"], normal(4), normal(4, seed=1)
    close(pair.discriminator(real, fake), fake - real)
    close(pair.generator(real, fake), -fake)


def test_just_the_unbounded_losses_need_a_constraint():
    high = torch.full((1,), 1e6)
    unbounded = {name for name, pair in ADVERSARIAL.items() if float(pair.discriminator(high, -high)) < -1}
    assert tuple(ADVERSARIAL[name] for name in unbounded) == NEEDS_CONSTRAINT


def test_relativistic_players_mirror_each_other():
    pair, real, fake = ADVERSARIAL["relativistic"], normal(6), normal(6, seed=1)
    close(pair.generator(real, fake), pair.discriminator(fake, real))
    close(pair.discriminator(real, fake) - pair.generator(real, fake), fake - real)
    close(pair.discriminator(real + 5, fake + 5), pair.discriminator(real, fake), 1e-5)
    close(pair.discriminator(real, real), math.log(2))


# Penalties ------------------------------------------------------------------------------------------------------------

W = torch.tensor([2.0, -1.0, 2.0])  # of length 3


def linear(x: Tensor) -> Tensor:
    return x @ W + 0.3


def quadratic(x: Tensor) -> Tensor:
    """Its gradient at x is x."""
    return 0.5 * x.square().flatten(1).sum(1)


def mlp(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    wrap = spectral_norm if norm else lambda layer: layer
    return nn.Sequential(wrap(nn.Linear(3, 8)), nn.Tanh(), wrap(nn.Linear(8, 8)), nn.SiLU(), nn.Linear(8, 1))


def conv() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, groups=4))
    return nn.Sequential(body, nn.SiLU(), nn.Flatten(), nn.Linear(8 * 9, 1))


CRITICS = {"mlp": (mlp, (3,)), "spectral": (lambda: mlp(norm=True), (3,)), "groups": (conv, (4, 5, 5))}


def logits_of(network: nn.Module) -> Any:
    return lambda x: network(x).squeeze(1)


@pytest.mark.parametrize("eager", [False, True])
def test_penalties_of_a_linear_critic(eager: bool):
    s = game(linear)
    close(gp(s, eager=eager), 4.0)
    close(gp(s, target=0.5, eager=eager), 6.25)
    close(dragan(s, k=2.0, eager=eager), 1.0)
    close(r1(s, eager=eager), 9.0)
    close(r2(s, eager=eager), 9.0)


def test_penalties_look_where_they_should():
    s = game(quadratic, (2, 3, 3))
    close(r1(s), s.real.square().sum((1, 2, 3)), 1e-5)
    close(r2(s), s.fake.square().sum((1, 2, 3)), 1e-5)
    u = torch.special.ndtr(s.noise[:, 0]).view(-1, 1, 1, 1)
    close(gp(s, target=0.0), (u * s.real + (1 - u) * s.fake).square().sum((1, 2, 3)), 1e-5)
    v = torch.special.ndtr(s.noise[:, 1:]).view_as(s.real)
    noisy = s.real + u * 2.0 * s.real.flatten().std(correction=0) * v
    close(dragan(s, k=0.0, spread=2.0), noisy.square().sum((1, 2, 3)), 1e-5)


def test_lecam_by_hand():
    s = game(linear)
    s.anchors = torch.tensor([2.0, -1.0])
    s.real_logits, s.fake_logits = torch.tensor([3.0, -2.0, 0.0]), torch.tensor([-2.0, 3.0, 1.0])
    close(lecam(s), [16.0 + 16.0, 0.0, 1.0 + 1.0])


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_gives_a_float32_value_per_example(name: str):
    network = mlp()
    s = game(logits_of(network))
    value = PENALTIES[name](s)
    assert value.shape == (6,) and value.dtype == torch.float32
    assert torch.equal(value, PENALTIES[name](s))
    value.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in list(network.parameters())[:-1])


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", ["gp", "dragan"])
def test_a_gradient_of_zero_has_a_finite_penalty_and_gradient(name: str, eager: bool):
    network = nn.Linear(3, 1)
    nn.init.zeros_(network.weight)
    value = PENALTIES[name](game(logits_of(network)), eager=eager)
    close(value.detach(), 1.0)
    value.sum().backward()
    assert network.weight.grad is not None and network.weight.grad.isfinite().all()


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_both_ways_to_the_gradient_agree(name: str, critic: str):
    make, shape = CRITICS[critic]
    found = []
    for eager in (False, True):
        network = make()
        value = PENALTIES[name](game(logits_of(network), shape), eager=eager)
        value.mean().backward()
        found.append([value.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 3
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-6)
    assert max(float(gradient.abs().max()) for gradient in found[0][1:]) > 1e-4


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", GRADIENTS)
def test_penalties_stay_in_float32_under_autocast(name: str, eager: bool):
    critic = logits_of(conv())
    plain = PENALTIES[name](game(critic, (4, 5, 5)), eager=eager)
    with torch.autocast("cpu", torch.bfloat16):
        s = game(critic, (4, 5, 5))
        assert s.real_logits.dtype == torch.bfloat16
        mixed = PENALTIES[name](s, eager=eager)
    assert torch.equal(plain, mixed)


def test_penalties_take_fakes_of_half_precision():
    s = game(linear)
    half = DiscriminatorStep(linear, s.real, s.fake.bfloat16(), s.noise, s.real_logits, s.fake_logits, s.anchors)
    for name in GRADIENTS:
        close(PENALTIES[name](half), PENALTIES[name](s))
    half.real_logits, half.anchors = s.real_logits.bfloat16(), s.anchors.bfloat16()
    assert lecam(half).dtype == torch.float32


@pytest.mark.parametrize("penalty", ["r1", "dragan"])
def test_a_step_with_a_penalty_is_one_graph(penalty: str):
    network = mlp(norm=True)

    def loss(real: Tensor, fake: Tensor, noise: Tensor) -> Tensor:
        critic = logits_of(network)
        r, f = critic(real), critic(fake)
        s = DiscriminatorStep(critic, real, fake, noise, r, f, torch.zeros(2))
        return (ADVERSARIAL["hinge"].discriminator(r, f) + 5 * PENALTIES[penalty](s)).mean()

    given = normal(6, 3, seed=1), normal(6, 3, seed=2), normal(6, 4, seed=3)
    start, found = copy.deepcopy(network.state_dict()), []
    for function in (loss, torch.compile(loss, backend="eager", fullgraph=True)):
        network.load_state_dict(start)
        network.zero_grad()
        value = function(*given)
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    torch._dynamo.reset()
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-6)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_batch_norm_is_refused_in_one_line(norm: Any):
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(norm(4), nn.ReLU()), nn.Linear(4, 1))
    with pytest.raises(UserError, match=rf"layer '1\.0' is a {norm.__name__}: try --model.critic_args.norm none") as e:
        check_penalisable(network)
    assert "\n" not in str(e.value)


def test_other_norms_are_not_refused():
    check_penalisable(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4)))
    check_penalisable(mlp(norm=True))


def test_gamma_by_size_and_batch():
    assert auto_gamma((3, 256, 256), 16) == pytest.approx(0.8192)
    assert auto_gamma((1, 8, 16), 64) == pytest.approx(0.0004)
    with pytest.raises(UserError, match=r"not data of shape \(2,\): give a number"):
        auto_gamma((2,), 64)
    with pytest.raises(UserError, match="batch 0: it must be at least 1"):
        auto_gamma((3, 8, 8), 0)


def test_penalties_parse_as_terms():
    parsed = parse_terms({"gp": {"weight": 10, "target": 0.0}, "lecam": "0..0.3@100"}, PENALTIES)
    close(parsed["gp"].term(game(linear), **parsed["gp"].arguments), 9.0)
    with pytest.raises(UserError, match="has no option 'spread': its options are target="):
        parse_terms({"gp": {"weight": 10, "spread": 1.0}}, PENALTIES)


# Codes ----------------------------------------------------------------------------------------------------------------


def test_codes_count_their_columns():
    codes = InfoGANCodes([10, 3], 2, start=62)
    assert (codes.dim, codes.draw_dim, codes.num_outputs, codes.start) == (15, 4, 15, 62)
    assert (codes.categorical, codes.continuous) == ((10, 3), 2)


def test_draws_are_uniform():
    codes = InfoGANCodes([4, 3], 2)
    c = codes.draw(normal(20000, codes.draw_dim))
    assert c.shape == (20000, 9) and c.dtype == torch.float32
    for block in c.split([4, 3, 2], dim=1)[:2]:
        assert torch.equal(block.sum(1), torch.ones(20000)) and set(block.unique().tolist()) == {0.0, 1.0}
        close(block.mean(0), 1 / block.shape[1], 0.02)
    assert -1 <= float(c[:, 7:].min()) < -0.99 and 0.99 < float(c[:, 7:].max()) <= 1
    close(c[:, 7:].var(0), 1 / 3, 0.02)
    assert float(torch.corrcoef(c.T)[0, 4:].abs().max()) < 0.03


def test_a_draw_follows_its_noise():
    codes, noise = InfoGANCodes([2, 5], 1), torch.tensor([[-1.0, 0.0, 0.0], [1.0, 40.0, 40.0], [0.5, -40.0, -40.0]])
    one, five = F.one_hot(torch.tensor([0, 1, 1]), 2), F.one_hot(torch.tensor([2, 4, 0]), 5)
    close(codes.draw(noise), torch.cat([one, five, torch.tensor([[0.0], [1.0], [-1.0]])], dim=1))


def test_what_knows_nothing_is_surprised_by_the_entropy():
    codes = InfoGANCodes([10, 3])
    c = codes.draw(normal(5, 2))
    close(codes.negative_log_likelihood(torch.full((5, 13), 0.7), c), math.log(10) + math.log(3))


def test_what_reads_the_codes_is_not_surprised():
    codes = InfoGANCodes([10, 3], 2)
    c = codes.draw(normal(5, 4))
    sure = torch.cat([50 * c[:, :13], c[:, 13:]], dim=1)
    close(codes.negative_log_likelihood(sure, c), math.log(2 * math.pi))
    sure[:, 13] += 2.0
    close(codes.negative_log_likelihood(sure, c), math.log(2 * math.pi) + 2.0)


@pytest.mark.parametrize("codes", [InfoGANCodes([4]), InfoGANCodes([4, 2], 3), InfoGANCodes(continuous=2)])
def test_surprise_is_that_of_the_distributions(codes: InfoGANCodes):
    c, out = codes.draw(normal(6, codes.draw_dim)), normal(6, codes.num_outputs, seed=1)
    sizes = [*codes.categorical, codes.continuous]
    *logits, mean = out.split(sizes, dim=1)
    *one_hot, values = c.split(sizes, dim=1)
    expected = -torch.distributions.Normal(mean, 1.0).log_prob(values).sum(1)
    for row, hot in zip(logits, one_hot, strict=True):
        expected = expected - torch.distributions.Categorical(logits=row).log_prob(hot.argmax(1))
    close(codes.negative_log_likelihood(out, c), expected)
    assert codes.negative_log_likelihood(out.bfloat16(), c).dtype == torch.float32


@pytest.mark.parametrize(
    "options, text",
    [
        ({"categorical": [10, 1]}, r"codes.categorical \[10, 1\]: each takes a whole number from 2 on"),
        ({"categorical": [2.5]}, r"codes.categorical \[2.5\]"),
        ({"continuous": -1}, "codes.continuous -1: possible are whole numbers from 0 on"),
        ({}, "codes without any: give codes.categorical"),
    ],
)
def test_impossible_codes(options: dict[str, Any], text: str):
    with pytest.raises(UserError, match=text):
        InfoGANCodes(**options)
