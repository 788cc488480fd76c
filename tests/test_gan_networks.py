"""Networks of the adversarial family: residual ones, conditions that work on pictures, spectral norm, projection."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks import r3gan, resnet
from lightning_gen.networks.condition import ConditionSpec
from lightning_gen.networks.layers import Attention, ClassNorm
from lightning_gen.networks.projection import Projection
from lightning_gen.networks.spectral import NORMALISED, spectral_norm_

TINY = {"dcgan": {"width": 4, "norm": "none"}, "resnet": {"width": 4}, "r3gan": {"width": 4, "group_size": 4}}
RESIDUAL = ["resnet", "r3gan"]
SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 17, 40), (1, 64, 64), (5, 9, 256)]


def pair(name: str, shape: tuple[int, ...], out: int = 2, **options) -> tuple[nn.Module, nn.Module]:
    options = {**TINY[name], **options}
    params = (2 * shape[0], *shape[1:])
    encoder = networks.encoder(name, DataSpec(shape), out, **options)
    return encoder, networks.decoder(name, DataSpec(shape), 3, params, **options)


def step(network: nn.Module, *given: Tensor) -> Tensor:
    """One step of an optimiser on a random linear function of the output, which is returned."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    out = network(*given)
    (out * torch.randn_like(out)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    return out


def norms_of(network: nn.Module) -> Iterator[tuple[str, float]]:
    """The largest singular value of each weight, as a matrix of (outputs, the rest)."""
    for key, layer in network.named_modules():
        if isinstance(layer, NORMALISED):
            weight = layer.weight.detach()
            weight = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
            yield key, torch.linalg.svdvals(weight.flatten(1))[0].item()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Shapes and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RESIDUAL)
def test_shapes(name: str, shape: tuple[int, ...]):
    encoder, decoder = pair(name, shape)
    x = torch.randn(2, *shape)
    assert encoder(x).shape == (2, 2)
    assert encoder.features(x).shape == (2, encoder.num_features)
    assert torch.equal(encoder(x), encoder.head(encoder.features(x)))
    assert decoder(torch.randn(2, 3)).shape == (2, 2 * shape[0], *shape[1:])


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet", {}),
        ("resnet", {"norm": "none"}),
        ("resnet", {"norm": "layer"}),
        ("resnet", {"norm": "batch", "attention": 1}),
        ("r3gan", {"patch": 2}),
        ("r3gan", {}),
        ("r3gan", {"blocks": 2, "expansion": 3, "group_size": 6}),
    ],
)
def test_a_gradient_reaches_every_parameter(name: str, options, classes: int):
    shape = (1, 18, 20) if "patch" in options else (1, 17, 20)
    condition = ConditionSpec("class", classes) if classes else None
    for network, given in zip(pair(name, shape, condition=condition, **options), (shape, (3,)), strict=True):
        told = [torch.arange(6) % 3] if classes else []
        step(network, torch.randn(6, *given), *told)  # some weights begin at 0, and those before them have no gradient
        out = network(torch.randn(6, *given), *told)
        (out * torch.randn_like(out)).sum().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 1e-7, key


@pytest.mark.parametrize(("shape", "patch"), [((1, 28, 28), 2), ((3, 16, 20), 2), ((1, 17, 28), 1), ((1, 8, 8), 1)])
def test_patches_of_two_where_they_fit(shape, patch: int):
    automatic, given = (pair("r3gan", shape, patch=p) for p in (0, patch))
    for one, two in zip(automatic, given, strict=True):
        assert [p.shape for p in one.parameters()] == [p.shape for p in two.parameters()]


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_pixel_counts(name: str):
    encoder, _ = pair(name, (1, 17, 23))
    x = torch.randn(1, 1, 17, 23, requires_grad=True)
    (slope,) = torch.autograd.grad(encoder(x).sum(), x)
    assert (slope != 0).all()


@pytest.mark.parametrize("options", [{"name": "resnet", "attention": 2}, {"name": "r3gan"}])
def test_penalties_can_be_taken(options):
    encoder, _ = pair(shape=(1, 28, 28), out=1, **options)
    step(encoder, torch.randn(2, 1, 28, 28))
    x = torch.randn(2, 1, 28, 28, requires_grad=True)
    (slope,) = torch.autograd.grad(encoder(x).sum(), x, create_graph=True)
    functional = grad(lambda seen: encoder(seen).sum())(x)
    torch.testing.assert_close(slope, functional)
    slope.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert next(encoder.body.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name, shape, options, said",
    [
        ("resnet", (1, 7, 20), {}, "network 'resnet' takes images with sides of 8 to 256 pixels, not 7x20"),
        ("r3gan", (1, 20, 257), {}, "network 'r3gan' takes images with sides of 8 to 256 pixels, not 20x257"),
        ("r3gan", (2,), {}, "network 'r3gan' takes images .* not 2: "),
        (
            "resnet",
            (1, 28, 28),
            {"attention": 3},
            r"attention 3: possible are 0 \(none\) and the maps 1 \(14x14\), 2 \(7x7\)",
        ),
        ("r3gan", (1, 28, 28), {"patch": 4}, "patch 4 for images of 28x28: it must divide both sides into at least 8"),
        ("r3gan", (3, 17, 40), {"patch": 2}, "patch 2 for images of 17x40"),
        ("resnet", (1, 28, 28), {"attention": -1}, "attention -1: possible are"),
        ("resnet", (1, 28, 28), {"width": 0}, "width 0"),
        ("resnet", (1, 28, 28), {"norm": "bach"}, "did you mean 'batch'"),
        ("r3gan", (1, 28, 28), {"width": -1}, "width -1"),
        ("r3gan", (1, 28, 28), {"blocks": 0}, "blocks 0"),
        ("r3gan", (1, 28, 28), {"group_size": 0}, "group_size 0"),
        (
            "r3gan",
            (1, 28, 28),
            {"width": 12, "group_size": 16},
            "group_size 16 does not divide the 24 channels .* such as 8",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name: str, shape: tuple[int, ...], options, said: str):
    for side in (0, 1):
        build = (networks.encoder, networks.decoder)[side]
        sizes = ((1,), (3, shape))[side]
        with pytest.raises(UserError, match=said) as error:
            build(name, DataSpec(shape), *sizes, **options)
        assert "\n" not in str(error.value)


# Conditions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_class_and_picture_act_together_in_a_conditional_encoder(name: str):
    encoder, _ = pair(name, (3, 16, 16), out=1, condition=ConditionSpec("class", 4))
    step(encoder, torch.randn(4, 3, 16, 16), torch.arange(4))  # until then the residual branches of r3gan are 0
    assert encoder.num_features == pair(name, (3, 16, 16))[0].num_features
    x, a, b = torch.randn(2, 3, 16, 16), torch.tensor([1, 1]), torch.tensor([3, 3])
    difference = encoder(x, a) - encoder(x, b)
    assert difference.abs().min() > 1e-5
    assert (difference[0] - difference[1]).abs() > 1e-3 * difference.abs().max()
    with pytest.raises(ValueError, match=r"for ConditionSpec.*was called without one"):
        encoder(x)


@pytest.mark.parametrize("norm", ["auto", "none", "layer"])
@pytest.mark.parametrize("name", RESIDUAL)
def test_a_class_changes_what_a_decoder_makes(name: str, norm: str):
    options = {"norm": norm} if name == "resnet" else {}
    _, decoder = pair(name, (1, 16, 16), condition=ConditionSpec("class", 4), **options)
    step(decoder, torch.randn(8, 3), torch.arange(8) % 4)  # all classes of a norm begin equal
    out = decoder.eval()(torch.randn(1, 3).expand(3, 3), torch.tensor([0, 1, 1]))
    assert (out[0] - out[1]).abs().max() > 1e-3
    torch.testing.assert_close(out[1], out[2])
    with pytest.raises(ValueError, match=r"for ConditionSpec.*was called without one"):
        decoder(torch.randn(2, 3))
    with pytest.raises(ValueError, match="without a condition was called with one"):
        pair(name, (1, 16, 16))[1](torch.randn(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_class_norm_is_its_formula(norm: str):
    layer = ClassNorm(norm, 3, condition=ConditionSpec("class", 2))
    with torch.no_grad():
        layer.gain.normal_()
        layer.bias.normal_()
    h, c = torch.randn(4, 3, 5, 6), torch.tensor([0, 1, 1, 0])
    plain = F.batch_norm(h, None, None, training=True) if norm == "batch" else F.group_norm(h, 1)
    expected = torch.stack(
        [layer.gain[k, :, None, None] * one + layer.bias[k, :, None, None] for k, one in zip(c, plain, strict=True)]
    )
    torch.testing.assert_close(layer(h, c), expected)
    assert {key for key, _ in layer.named_parameters()} == {"gain", "bias"}
    plain_layer = ClassNorm(norm, 3)
    torch.testing.assert_close(plain_layer(h), plain)


# Blocks ---------------------------------------------------------------------------------------------------------------


def test_attention_is_its_formula_and_begins_as_nothing():
    layer = Attention(8)
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(layer(x), x)
    layer.gamma.data.fill_(0.7)
    f, g, h = (conv.weight[:, :, 0, 0] for conv in (layer.f, layer.g, layer.h))
    keys = F.max_pool2d(torch.einsum("kc,bcij->bkij", f, x), 2).flatten(2)
    values = F.max_pool2d(torch.einsum("kc,bcij->bkij", h, x), 2).flatten(2)
    queries = torch.einsum("kc,bcij->bkij", g, x).flatten(2)
    expected = x.clone().flatten(2)
    for j in range(30):
        beta = torch.einsum("bki,bk->bi", keys, queries[:, :, j]).softmax(1)
        o = torch.einsum("bvi,bi->bv", values, beta)
        expected[:, :, j] += 0.7 * o @ layer.v.weight[:, :, 0, 0].T
    torch.testing.assert_close(layer(x), expected.unflatten(2, (5, 6)))


@pytest.mark.parametrize("attention, side, channels", [(1, 16, 8), (2, 8, 16), (3, 4, 16)])
def test_attention_stands_at_the_size_that_was_asked_for(attention: int, side: int, channels: int):
    seen = []
    for network, given in zip(pair("resnet", (3, 32, 40), attention=attention), ((3, 32, 40), (3,)), strict=True):
        (layer,) = [m for m in network.modules() if isinstance(m, Attention)]
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1:]))
        network(torch.randn(2, *given))
    assert [min(size[1:]) for size in seen] == [side, side]
    assert seen[1][0] == channels


@pytest.mark.parametrize("up, down, size", [(None, False, (6, 7)), ((13, 14), False, (13, 14)), (None, True, (3, 3))])
@pytest.mark.parametrize("first", [False, True])
def test_a_block_is_shortcut_and_branch(first: bool, up, down: bool, size: tuple[int, int]):
    block = resnet.Block(3, 5, norm="none", up=up, down=down, first=first)
    h = torch.randn(2, 3, 6, 7)
    upsampled = (lambda h: F.interpolate(h, up)) if up else (lambda h: h)
    pooled = (lambda h: F.avg_pool2d(h, 2)) if down else (lambda h: h)
    branch = pooled(block.two(F.relu(block.one(upsampled(h if first else F.relu(h))))))
    expected = branch + pooled(block.shortcut(upsampled(h)))  # the order in the paper
    assert block(h).shape == (2, 5, *size)
    torch.testing.assert_close(block(h), expected)


def test_features_are_sums_over_positions_after_a_relu():
    encoder, _ = pair("resnet", (1, 16, 16))
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(encoder.features(x), encoder.body(x).sum((2, 3)))
    assert encoder.body(x).min() == 0
    assert 0.01 < encoder(x).square().mean() < 10


def test_resampling_is_bilinear():
    h = torch.randn(2, 3, 8, 6)
    up = F.interpolate(h, (17, 13), mode="bilinear")
    torch.testing.assert_close(r3gan.Resample(3, 3, (17, 13))(h), up)
    torch.testing.assert_close(r3gan.Resample(3, 3, (4, 3))(h), F.interpolate(h, (4, 3), mode="bilinear"))
    layer = r3gan.Resample(3, 5, (16, 12))
    torch.testing.assert_close(layer(h), layer.project(F.interpolate(h, (16, 12), mode="bilinear")))


# The start of r3gan ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 4])
def test_r3gan_begins_as_the_identity_with_outputs_of_order_1(depth: int):
    encoder, decoder = pair("r3gan", (3, 64, 64), out=8, width=16, group_size=16, blocks=depth)
    smooth = F.interpolate(torch.randn(64, 3, 4, 4), (64, 64), mode="bilinear")  # as pictures are
    for network, given in ((encoder, smooth), (decoder, torch.randn(64, 3))):
        blocks = [m for m in network.modules() if isinstance(m, r3gan.Block)]
        assert len(blocks) == 5 * depth
        h = torch.randn(2, blocks[0].branch[0].in_channels, 8, 8)
        assert torch.equal(blocks[0](h), h)
        assert 0.1 < network(given).var().item() < 4


@pytest.mark.parametrize("depth", [1, 4])
def test_weights_in_a_branch_follow_fixup(depth: int):
    encoder, _ = pair("r3gan", (1, 16, 16), width=32, group_size=16, blocks=depth)
    blocks = [m for m in encoder.modules() if isinstance(m, r3gan.Block)]
    one, two, three = (m for m in blocks[-1].branch if isinstance(m, nn.Conv2d))
    expected = math.sqrt(2 / (1 + 0.2**2)) * (3 * depth) ** -0.25
    assert one.weight.std().item() * math.sqrt(128) == pytest.approx(expected, rel=0.05)
    assert two.weight.std().item() * math.sqrt(16 * 9) == pytest.approx(expected, rel=0.05)
    assert two.groups == 256 // 16
    assert three.weight.abs().max() == 0


# Spectral norm --------------------------------------------------------------------------------------------------------

ALL = {"mlp": {"hidden": [12, 8]}, **TINY}
CASES = [(name, side) for name in ALL for side in (0, 1)]


def normalised(name: str, side: int) -> tuple[nn.Module, Tensor]:
    """The encoder or the decoder under spectral norm, and what goes in."""
    spec = DataSpec((1, 16, 16))
    encoder = networks.encoder(name, spec, 2, **ALL[name])
    decoder = networks.decoder(name, spec, 3, spec.shape, **ALL[name])
    return spectral_norm_((encoder, decoder)[side]), torch.randn(8, *(spec.shape, (3,))[side])


@pytest.mark.parametrize("name, side", CASES)
def test_spectral_norm_holds_the_largest_singular_values_at_1(name: str, side: int):
    network, x = normalised(name, side)
    step(network, x)
    for _ in range(30):
        network(x)
    values = dict(norms_of(network.eval()))
    assert len(values) > 2
    for key, value in values.items():
        assert value == pytest.approx(1, abs=0.02), key


@pytest.mark.parametrize("name, side", CASES)
def test_spectral_norm_survives_copies_and_checkpoints_and_stands_still_in_eval_mode(name: str, side: int):
    network, x = normalised(name, side)
    names = [key for key, _ in network.named_parameters()]
    assert spectral_norm_(network) is network and [key for key, _ in network.named_parameters()] == names
    step(network, x)
    before = [value.clone() for value in network.state_dict().values()]
    clone = copy.deepcopy(network).eval()
    out = clone(x)
    assert torch.equal(out, clone(x))
    fresh, _ = normalised(name, side)
    assert not torch.allclose(fresh.eval()(x), out)
    fresh.load_state_dict(network.state_dict())
    torch.testing.assert_close(fresh.eval()(x), out)
    step(clone.train(), x)
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


def test_spectral_norm_takes_one_power_iteration_per_training_pass():
    layer = spectral_norm_(nn.Linear(5, 4))
    spectral = layer.parametrizations.weight[0]
    weight, u = layer.parametrizations.weight.original.detach(), spectral._u.clone()
    layer(torch.randn(2, 5))
    torch.testing.assert_close(spectral._u, F.normalize(weight @ F.normalize(weight.T @ u, dim=0), dim=0))
    u = spectral._u.clone()
    layer.eval()(torch.randn(2, 5))
    assert torch.equal(spectral._u, u)


def test_spectral_norm_of_a_conditional_network_reaches_the_embedding_and_spares_gains():
    plain, _ = pair("resnet", (1, 16, 16))
    _, decoder = pair("resnet", (1, 16, 16), condition=ConditionSpec("class", 3))
    projection = spectral_norm_(Projection(plain, ConditionSpec("class", 3)))
    assert dict(norms_of(projection.eval()))["embed"] == pytest.approx(1, abs=0.05)
    spectral_norm_(decoder)
    assert (decoder.norm.gain - 1).abs().max() < 0.2  # not divided by its size


# Projection -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_projection_is_its_formula_on_the_first_output(name: str):
    encoder = networks.encoder(name, DataSpec((1, 16, 16)), 3, **ALL[name])
    projection = Projection(encoder, ConditionSpec("class", 4))
    x, c = torch.randn(5, 1, 16, 16), torch.tensor([0, 3, 2, 1, 3])
    f, out = encoder.features(x), projection(x, c)
    inner = torch.stack([projection.embed.weight[k] @ row for k, row in zip(c, f, strict=True)])
    torch.testing.assert_close(out[:, 0], encoder(x)[:, 0] + inner)
    assert torch.equal(out[:, 1:], encoder(x)[:, 1:])
    assert torch.equal(projection.features(x, c), f) and projection.num_features == f.shape[1]
    assert projection.embed.weight.square().mean().item() * f.shape[1] == pytest.approx(0.01, rel=0.8)
    other = projection(x, (c + 1) % 4)[:, 0] - out[:, 0]
    assert (other[:, None] - other[None, :]).abs().max() > 1e-4
    step(projection, x, c)


def test_projection_needs_an_encoder_with_features():
    with pytest.raises(UserError, match=r"^Linear has no \.features, \.num_features, \.head, which a projection"):
        Projection(nn.Linear(3, 1), ConditionSpec("class", 2))


@pytest.mark.parametrize("name", ALL)
def test_under_spectral_norm_no_bias_drowns_z(name: str):
    spec = DataSpec((1, 16, 16))
    decoder = networks.decoder(name, spec, 3, spec.shape, **ALL[name])
    before = {key for key, _ in decoder.named_parameters()}
    spectral_norm_(decoder, first_bias=False)
    first, *others = (layer for layer in decoder.modules() if isinstance(layer, NORMALISED))
    assert first.bias is None and 3 in first.weight.shape
    gone = before - {key.replace("parametrizations.weight.original", "weight") for key, _ in decoder.named_parameters()}
    assert all(key.endswith("bias") for key in gone) and len(gone) <= 1
    assert any(layer.bias is not None for layer in others)
