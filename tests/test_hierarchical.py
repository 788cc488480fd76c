"""The hierarchical VAE: its two networks, its bound, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.hierarchical import HierarchicalVAE
from lightning_gen.networks.topdown import BOUND, Block
from lightning_gen.objectives.latent import Step, gaussian_log_density, importance_bound
from lightning_gen.protocols import Encodes, HasLatentKL, Likelihood, Reconstructs, Samples

SMALL = {"width": 8, "latent_channels": 2}
CASES = [  # shape, values, options, latents of each group
    ((1, 8, 8), "uint8", {"blocks": [2, 1]}, [32, 32, 128]),
    ((1, 28, 28), "binary", {"blocks": [1, 2]}, [98, 392, 392]),
    (
        (3, 32, 32),
        "uint8",
        {"blocks": [1, 1, 1, 1], "likelihood": "discretized_logistic_mixture"},
        [32, 128, 512, 2048],
    ),
    ((3, 24, 40), "unit", {"blocks": [1], "scale": "pixel"}, [120]),
    ((1, 31, 17), "binary", {"blocks": [1, 1, 1]}, [56, 240, 1054]),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data.examples("train", torch.arange(256))["x"]


def made(shape=(1, 8, 8), values="uint8", **options):
    kind = "image" if len(shape) == 3 else "vector"
    return HierarchicalVAE(DataSpec(shape, kind, values, size=100), **{**SMALL, **options})


def pictures(count, shape, values):
    x = torch.rand(count, *shape)
    return 2 * (x if values == "unit" else x.round() if values == "binary" else (255 * x).round() / 255) - 1


def roused(model):
    """The model with p and q far from each other, as training leaves them."""
    with torch.no_grad():
        for block in (m for m in model.modules() if isinstance(m, Block)):
            block.prior[-1].weight.mul_(10)
            block.posterior[-1].weight.mul_(20)
    return model.eval()


# The networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, values, options, dims", CASES)
def test_shapes_of_all_levels(shape, values, options, dims):
    model, x = made(shape, values, **options), pictures(3, shape, values)
    out, levels = model.latent_layers(x, torch.randn(2, 3, model.noise_dim))
    assert out.shape == (2, 3, *model.likelihood.params())
    for level, size in zip(levels, dims, strict=True):
        assert {part.shape for part in (level.z, *level.q, *level.p)} == {(2, 3, size)}
    assert model.noise_dim == model.draw_dim == sum(dims)
    assert model.kl_per_dimension.shape == (len(dims),)
    assert model.reconstruct(x).shape == model.sample(3).shape == x.shape


@pytest.mark.parametrize("shape, values, options, dims", CASES)
def test_a_gradient_reaches_every_parameter_even_without_the_kl(shape, values, options, dims):
    model, x = made(shape, values, **options), pictures(2, shape, values)
    s = model.infer(x, None, torch.randn(2, model.noise_dim))
    model.per_example_losses(s)["reconstruction"].mean().backward()  # as at the start of a warm-up
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_each_draw_of_each_example_is_computed_for_itself():
    model = roused(made(blocks=[1, 2]))
    x, noise = pictures(3, (1, 8, 8), "uint8"), torch.randn(2, 3, model.noise_dim)
    together, levels = model.latent_layers(x, noise)
    for k in range(2):
        for b in range(3):
            alone, own = model.latent_layers(x[b : b + 1], noise[k : k + 1, b : b + 1])
            torch.testing.assert_close(together[k, b], alone[0, 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(levels[-1].q[0][k, b], own[-1].q[0][0, 0], rtol=1e-4, atol=1e-5)


def test_the_features_are_computed_once_for_all_draws():
    model, seen = made(), []
    model.bottom_up.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    model.latent_layers(pictures(3, (1, 8, 8), "uint8"), torch.randn(5, 3, model.noise_dim))
    assert seen == [3]


def test_a_level_depends_on_those_above_and_on_no_other():
    model, x = roused(made(blocks=[1, 1, 1], shape=(1, 16, 16))), pictures(1, (1, 16, 16), "uint8")
    noise = torch.randn(1, 1, model.noise_dim)
    other = noise.clone()
    first, second, _ = model.top_down.dims
    other[..., first : first + second] += 1  # the middle one
    before, after = (model.latent_layers(x, each)[1] for each in (noise, other))
    assert torch.equal(before[0].z, after[0].z) and torch.equal(before[1].p[0], after[1].p[0])
    assert not torch.equal(before[1].z, after[1].z)
    assert not torch.equal(before[2].p[0], after[2].p[0]) and not torch.equal(before[2].q[0], after[2].q[0])


def test_latents_drawn_without_an_image_are_those_of_p():
    model = roused(made())
    _, groups = model.top_down(torch.randn(4, model.noise_dim))
    for group in groups:
        assert group.q is group.p
    _, levels = model.latent_layers(pictures(4, (1, 8, 8), "uint8"), torch.randn(1, 4, model.noise_dim))
    assert all((level.q[0] - level.p[0]).abs().max() > 0.01 for level in levels)


# At the start ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [[2, 1], [8, 8]])
def test_the_kl_starts_small_and_activations_keep_their_size_at_any_depth(blocks):
    model, x = made(blocks=blocks), pictures(16, (1, 8, 8), "uint8")
    s = model.infer(x, None, torch.randn(16, model.noise_dim))
    assert (s.kl.mean(0) / torch.tensor(model.top_down.dims) < 0.02).all()  # nats for each latent
    assert 0.1 < s.out.std() < 2
    assert all(0.1 < features.std() < 4 for features in model.bottom_up(x))


def test_an_odd_example_meets_bounded_variances():
    model = made()
    x = 1e4 * pictures(2, (1, 8, 8), "uint8")
    _, levels = model.latent_layers(x, torch.randn(1, 2, model.noise_dim))
    for level in levels:
        assert level.p[1].abs().max() <= BOUND and (level.q[1] - level.p[1]).abs().max() <= BOUND * (1 + 1e-5)


# The bound ------------------------------------------------------------------------------------------------------------


def test_the_elbo_is_the_mean_log_weight():
    model, x = roused(made(blocks=[1, 1])), pictures(2, (1, 8, 8), "uint8")
    with torch.no_grad():
        draws = model.importance_samples(x, None, torch.randn(1500, 2, model.noise_dim))
        s = model.infer(x.repeat(500, 1, 1, 1), None, torch.randn(1000, model.noise_dim))
        elbos = (model.likelihood.log_prob(s.x, s.out) - s.kl.sum(1)).unflatten(0, (500, 2))
    log_w = draws.log_px + draws.log_ratio
    assert draws.log_ratio.abs().mean() > 2
    for weights, elbo in zip(log_w.unbind(1), elbos.unbind(1), strict=True):
        error = (weights.var() / len(weights) + elbo.var() / len(elbo)).sqrt()
        assert abs(weights.mean() - elbo.mean()) < 4 * error


def test_the_log_weight_is_that_of_all_latents_under_p_and_q():
    model, x = roused(made()), pictures(2, (1, 8, 8), "uint8")
    noise = torch.randn(3, 2, model.noise_dim)
    _, levels = model.latent_layers(x, noise)
    log_q = -0.5 * (noise.square() + torch.tensor(2 * torch.pi).log()).sum(-1)
    log_q = log_q - torch.stack([0.5 * level.q[1].sum(-1) for level in levels]).sum(0)  # by the change of variables
    log_p = torch.stack([gaussian_log_density(level.z, *level.p) for level in levels]).sum(0)
    torch.testing.assert_close(model.importance_samples(x, None, noise).log_ratio, log_p - log_q, rtol=1e-4, atol=1e-2)


def test_the_bound_rises_with_the_number_of_draws():
    model, x = roused(made(blocks=[1])), pictures(16, (1, 8, 8), "uint8")
    with torch.no_grad():
        draws = model.importance_samples(x, None, torch.randn(256, 16, model.noise_dim))
    log_w = draws.log_px + draws.log_ratio
    one, eight, many = (log_w.unflatten(0, (-1, k)).transpose(0, 1) for k in (1, 8, 256))
    bounds = [importance_bound(each.flatten(1)).mean().item() for each in (one, eight, many)]
    assert bounds[0] + 0.5 < bounds[1] and bounds[1] + 0.2 < bounds[2]
    assert model.log_likelihood(x, 1).mean() < model.log_likelihood(x, 64).mean()


def test_free_bits_count_for_each_group():
    model, x = made(terms={"kl": {"weight": 1.0, "free_bits": 0.7}}), pictures(4, (1, 8, 8), "uint8")
    s: Step = model.infer(x, None, torch.randn(4, model.noise_dim))
    s.kl = torch.tensor([[0.1, 2.0, 0.2]]).repeat(4, 1)
    assert torch.allclose(model.per_example_losses(s)["kl"], torch.tensor(0.7 + 2.0 + 0.7))


# What it can do -------------------------------------------------------------------------------------------------------


def test_it_declares_no_code():
    model = made()
    assert all(isinstance(model, ability) for ability in (Samples, Reconstructs, Likelihood, HasLatentKL))
    assert not isinstance(model, Encodes)


def test_samples_do_not_depend_on_the_batch():
    model = roused(made(blocks=[1, 2]))
    with torch.no_grad():
        whole = model.sample(7, seed=3)
        parts = torch.cat([model.sample(2, seed=3), model.sample(5, seed=3, start=2)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert (whole[0] - whole[1]).abs().max() > 0.01


def test_a_reconstruction_is_through_the_means():
    model, x = roused(made()), pictures(2, (1, 8, 8), "uint8")
    out, levels = model.latent_layers(x, torch.zeros(1, 2, model.noise_dim))
    assert all(torch.equal(level.z, level.q[0]) for level in levels)
    assert torch.equal(model.reconstruct(x), model.likelihood.mean(out[0]))


@pytest.mark.parametrize(
    "shape, options, said",
    [
        ((1, 8, 8), {"blocks": [1, 1, 1]}, r"blocks \[1, 1, 1\]: give 1 to 2 numbers .* 4x4, 8x8, such as \[1, 1\]"),
        ((3, 24, 40), {"blocks": [2, 0]}, r"blocks \[2, 0\]: give 1 to 3 numbers of at least 1.* 6x10, 12x20, 24x40"),
        ((1, 8, 8), {"blocks": []}, r"blocks \[\]"),
        ((1, 8, 8), {"blocks": [1.5]}, r"blocks \[1.5\]"),
        ((1, 8, 8), {"blocks": [True]}, r"blocks \[True\]"),
        ((1, 8, 8), {"blocks": 2}, "blocks 2"),
        ((1, 8, 8), {"blocks": "21"}, "blocks '21'"),
        ((2,), {}, "takes images with sides of 8 to 256 pixels, not data of shape 2: .*--model vae"),
        ((1, 300, 300), {}, "not data of shape 1x300x300: resize images with --data.size"),
        ((1, 8, 8), {"width": 0}, "width 0"),
        ((1, 8, 8), {"latent_channels": 0}, "latent_channels 0"),
        ((1, 8, 8), {"activation": "slu"}, "did you mean 'silu'"),
        ((1, 8, 8), {"estimator": "stl"}, "take elbo or iwae"),
        ((1, 8, 8), {"terms": {"tc": 1.0}}, "tc"),
    ],
)
def test_the_impossible_is_refused(shape, options, said):
    with pytest.raises(UserError, match=said):
        made(shape, **options)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"estimator": "iwae", "k": 2}])
def test_training_reduces_the_loss(digits, trainer, options):
    model = made(blocks=[1], width=16, lr=3e-3, clip=200.0, skip=10.0, **options)

    def loss():
        with torch.no_grad():
            log_px, kl = model.elbo(digits)
        return (kl - log_px).mean()

    before = loss()
    trainer(max_steps=200, limit_val_batches=0).fit(model, Digits(batch_size=16))
    assert loss() < 0.75 * before
