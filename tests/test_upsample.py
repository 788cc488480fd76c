"""The two ways of doubling a map's sides: shapes, gradients, and what tells them apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.gan import GAN
from lightning_gen.models.hierarchical import HierarchicalVAE
from lightning_gen.models.pix2pix import Pix2Pix
from lightning_gen.models.vae import VAE
from lightning_gen.models.vaegan import VAEGAN
from lightning_gen.models.vqvae import VQVAE
from lightning_gen.networks.code_map import MapDecoder
from lightning_gen.networks.layers import UPSAMPLING, ResizeConv2d, upsampling
from lightning_gen.networks.spectral import spectral_norm_
from lightning_gen.networks.topdown import TopDown

PAIR = DataSpec((3, 16, 16), size=100, shape_b=(3, 16, 16), pairs="all")
ODD = (2, 13, 19)  # 13 -> 6, 19 -> 9


def dcgan(**how):
    return networks.decoder("dcgan", DataSpec(ODD), 3, ODD, width=4, extra=1, norm="layer", **how), torch.randn(2, 3)


def code_map(**how):
    return MapDecoder(DataSpec(ODD), 3, ODD, width=8, **how), torch.randn(2, 3, 6, 9)


def topdown(blocks, **how):
    made = TopDown([(6, 9), (13, 19)], blocks, 4, 2, 2, "silu", **how)
    return made, torch.randn(2, sum(made.dims))


def translator(name, **how):
    return networks.translator(name, (3, 16, 32), 2, width=4, norm="layer", **how), torch.randn(2, 3, 32, 16)


NETWORKS = {
    "dcgan": (dcgan, ODD),
    "code_map": (code_map, ODD),
    "topdown, all sizes": (lambda **how: topdown([1, 1], **how), ODD),
    "topdown, the smallest": (lambda **how: topdown([1], **how), ODD),
    "resnet": (lambda **how: translator("resnet", **how), (2, 32, 16)),
    "unet": (lambda **how: translator("unet", **how), (2, 32, 16)),
}


def output(network, given):
    made = network(given)
    return made[0] if isinstance(made, tuple) else made  # the groups of a top-down network


def doublings(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d | ResizeConv2d)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("upsample", UPSAMPLING)
def test_every_network_has_the_same_shapes_both_ways_and_every_weight_learns(name, upsample):
    build, shape = NETWORKS[name]
    network, given = build(upsample=upsample)
    out = output(network, given)
    assert out.shape == (2, *shape)
    out.square().sum().backward()
    learned = {n: p for n, p in network.named_parameters() if "posterior" not in n}  # which samples do not see
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in learned.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_is_transposed_and_both_have_the_same_names(name):
    build, _ = NETWORKS[name]
    torch.manual_seed(0)
    default, given = build()
    torch.manual_seed(0)
    named, _ = build(upsample="transposed")
    resized, _ = build(upsample="resize")
    assert all(torch.equal(a, b) for a, b in zip(default.parameters(), named.parameters(), strict=True))
    assert torch.equal(output(default.eval(), given), output(named.eval(), given))
    assert list(default.state_dict()) == list(resized.state_dict())
    assert {type(layer) for layer in doublings(default)} == {nn.ConvTranspose2d}
    assert {type(layer) for layer in doublings(resized)} == {ResizeConv2d}
    assert len(doublings(default)) == len(doublings(resized)) > 0


@pytest.mark.parametrize("upsample", UPSAMPLING)
@pytest.mark.parametrize("size", [(4, 6), (5, 6), (5, 7), (4, 7)])
def test_a_side_is_doubled_with_one_more_where_it_is_odd(upsample, size):
    smaller = (size[0] // 2, size[1] // 2)
    x = torch.randn(2, 3, *smaller, requires_grad=True)
    layer = upsampling(upsample, 3, 4, size=size)
    assert layer(x).shape == (2, 4, *size)
    layer(x).sum().backward()
    assert (x.grad != 0).all()
    free = upsampling(upsample, 3, 4, bias=False)
    assert free(x).shape == (2, 4, 2 * smaller[0], 2 * smaller[1]) and free.bias is None


def interior(layer):
    """What a doubling makes of ones, away from the border, (b, 8, 8); without its bias."""
    layer.bias = None
    with torch.no_grad():
        layer.size = None  # of any size
        return layer(torch.ones(1, layer.in_channels, 8, 8))[0, :, 4:12, 4:12]


def test_equal_weights_on_a_constant_are_constant_unless_the_stride_does_not_divide_the_kernel():
    made = {}
    for name, how, kernel in (("resize", "resize", 4), ("four", "transposed", 4), ("three", "transposed", 3)):
        layer = upsampling(how, 1, 1, kernel=kernel)
        nn.init.ones_(layer.weight)
        made[name] = interior(layer)[0]
    assert (made["resize"] == 9).all()
    assert (made["four"] == 4).all()  # of 4x4 weights every place sees 2x2
    assert torch.equal(made["three"], torch.tensor([[1.0, 2.0], [2.0, 4.0]]).repeat(4, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_any_weights_lay_a_pattern_of_period_2_over_a_constant_or_none(name):
    build, _ = NETWORKS[name]
    for layer in doublings(build(upsample="resize")[0]):
        flat = interior(layer)
        torch.testing.assert_close(flat, flat[:, :1, :1].expand_as(flat))
    for layer in doublings(build()[0]):
        layer.output_padding = (layer.kernel_size[0] % 2, layer.kernel_size[1] % 2)
        pattern = interior(layer)
        torch.testing.assert_close(pattern, pattern[:, :2, :2].repeat(1, 4, 4))
        kernel = layer.weight.sum(0)  # of row and column i the weights i, i + 2 meet
        taps = torch.stack([kernel[:, i::2, j::2].sum((1, 2)) for i in (1, 0) for j in (1, 0)], 1)
        torch.testing.assert_close(pattern[:, :2, :2].flatten(1), taps.detach())
        assert pattern[:, :2, :2].flatten(1).std(1).max() > 0.02 * pattern.std()


def test_resizing_is_the_transposed_convolution_whose_weights_are_shared():
    """Nearest-neighbour doubling is one with weights of 2x2 ones; w comes after it: together w spread over 4x4."""
    layer = ResizeConv2d(3, 2, size=None, bias=True).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    each = layer.weight.flatten(0, 1)[:, None]  # (2 * 3, 1, 3, 3)
    spread = F.conv2d(each, each.new_ones(1, 1, 2, 2), padding=1).flip(2, 3)
    shared = spread[:, 0].unflatten(0, (2, 3)).transpose(0, 1)  # (3, 2, 4, 4), as a transposed convolution has them
    torch.testing.assert_close(layer(x), F.conv_transpose2d(x, shared, layer.bias, stride=2, padding=1))


def test_spectral_norm_bounds_a_resized_doubling():
    network = spectral_norm_(translator("resnet", upsample="resize")[0])
    (layer, *_) = doublings(network)
    for _ in range(20):
        network(torch.randn(1, 3, 16, 16))
    assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, rel=0.05)


def test_the_models_take_it():
    how = {"network_args": {"upsample": "resize"}}
    image = DataSpec((1, 16, 16), size=100)
    models = [
        VAE(image, network="dcgan", **how).decoder,
        GAN(image, network="dcgan", **how).generator,
        VAEGAN(image, network="dcgan", critic="dcgan", **how).decoder,
        VQVAE(image, **how).decoder,
        Pix2Pix(PAIR, critic_args={"layers": 1}, **how).generator,
        HierarchicalVAE(image, upsample="resize").top_down,
    ]
    for network in models:
        assert {type(layer) for layer in doublings(network)} == {ResizeConv2d}


IMAGE = DataSpec((1, 16, 16), size=100)
RESIZE = {"upsample": "resize"}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        *[
            (lambda build=build: build(upsample="resise"), "unknown upsample 'resise': did you mean 'resize'")
            for build, _ in NETWORKS.values()
        ],
        (lambda: networks.encoder("dcgan", IMAGE, 3, upsample="nearest"), "known: resize, transposed"),
        (lambda: HierarchicalVAE(IMAGE, upsample="up"), "unknown upsample 'up'"),
        (lambda: VQVAE(IMAGE, network_args={"upsample": "up"}), "unknown upsample 'up'"),
        (lambda: VAE(IMAGE, network="dcgan", network_args={"upsample": 2}), "not of the type of its default"),
        (lambda: VAE(IMAGE, network="resnet", network_args=RESIZE), "'resnet' has no option 'upsample'"),
        (lambda: VAE(IMAGE, network="r3gan", network_args=RESIZE), "'r3gan' has no option 'upsample'"),
        (lambda: VAE(IMAGE, network="mlp", network_args=RESIZE), "'mlp' has no option 'upsample'"),
        (lambda: Pix2Pix(PAIR, critic_args=RESIZE), "'patch' has no option 'upsample'"),
        (lambda: Pix2Pix(PAIR, critic="dcgan", critic_args=RESIZE), "'dcgan' has no use for 'upsample'"),
        (
            lambda: GAN(IMAGE, network="dcgan", critic_args=RESIZE),
            "discriminator: .*--model.network_args.upsample",
        ),
        (lambda: VAEGAN(IMAGE, critic="dcgan", critic_args=RESIZE), "'dcgan' has no use for 'upsample'"),
    ],
)
def test_what_cannot_be_is_one_line(build, text):
    with pytest.raises(UserError, match=text) as caught:
        build()
    assert "\n" not in str(caught.value)
