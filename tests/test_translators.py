"""Networks, objectives and the pool of translation."""

import math

import pytest
import torch
from torch import nn

from lightning_gen import networks
from lightning_gen.adversarial.image_pool import ImagePool
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics import images
from lightning_gen.networks.projector import Projector
from lightning_gen.objectives.contrastive import patch_nce
from lightning_gen.objectives.terms import parse_terms
from lightning_gen.objectives.translation import (
    TRANSLATION_TERMS,
    TranslationStep,
    check_translation_terms,
    cycle,
    identity,
    l1,
    psnr,
)

SHAPES = [(3, 32, 32), (1, 16, 48), (3, 64, 32)]


# Networks


@pytest.mark.parametrize("name", networks.TRANSLATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_translator_keeps_the_size_and_every_weight_learns(name, shape):
    network = networks.translator(name, shape, 3)
    x = torch.randn(2, *shape)
    out = network(x)
    assert out.shape == (2, 3, *shape[1:])
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())
    larger = (2, shape[0], 2 * shape[1], shape[2] + network.stride)
    assert network(torch.randn(larger)).shape == (2, 3, *larger[2:])


def test_the_published_networks_have_their_sizes():
    """Of 256 pixels: 11.4, 54.4 and 2.8 million weights."""
    sizes = [
        sum(p.numel() for p in network.parameters())
        for network in (
            networks.translator("resnet", (3, 256, 256), 3),
            networks.translator("unet", (3, 256, 256), 3),
            networks.critic("patch", DataSpec((3, 256, 256))),
        )
    ]
    assert [round(size / 1e6, 1) for size in sizes] == [11.4, 54.4, 2.8]


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_sees_so_many_pixels(layers, field):
    """The gradient of one logit reaches a square of that side."""
    critic = networks.critic("patch", DataSpec((1, 128, 128)), width=4, layers=layers, norm="none")
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    logits = critic(x)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    rows, columns = x.grad[0, 0].nonzero().T
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == field


def test_a_picture_far_away_does_not_matter_to_a_norm_of_one():
    network = networks.translator("resnet", (3, 32, 32), 3, width=4, blocks=1).eval()
    x = torch.randn(3, 3, 32, 32)
    assert torch.allclose(network(x)[:1], network(x[:1]), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: networks.translator("resnet", (3, 30, 32), 3), "multiples of 4, not 30x32: the nearest is 32x32"),
        (lambda: networks.translator("unet", (3, 64, 48), 3, depth=6), "multiples of 64, not 64x48"),
        (lambda: networks.translator("unet", (3, 31, 32), 3), "multiples of 4, not 31x32"),
        (lambda: networks.translator("unet", (3, 32, 32), 3, depth=9), "possible are 2 to 8 halvings"),
        (lambda: networks.translator("resnett", (3, 32, 32), 3), "did you mean 'resnet'"),
        (lambda: networks.translator("resnet", (3, 32, 32), 3, width="a"), "not of the type"),
        (lambda: networks.translator("unet", (3, 32, 32), 3, wide=3), "has no option 'wide'"),
        (lambda: networks.translator(nn.Identity, (3, 32, 32), 3), "has no .stride"),
        (lambda: networks.critic("patch", DataSpec((3, 16, 16))), "at least 24 pixels, these pictures have 16"),
        (lambda: networks.critic("patsch", DataSpec((3, 32, 32))), "did you mean 'patch'"),
    ],
)
def test_an_impossible_network_is_one_line(build, text):
    with pytest.raises(UserError, match=text) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_features_are_of_five_places_in_the_network():
    network = networks.translator("resnet", (3, 32, 32), 3, width=8)
    features = network.features(torch.randn(2, 3, 32, 32))
    assert [f.shape[1] for f in features] == network.feature_channels
    assert [f.shape[2] for f in features] == [32, 16, 8, 8, 8]


def test_a_projector_gives_unit_vectors_of_the_chosen_places():
    torch.manual_seed(0)
    project, h = Projector(6, 64), torch.randn(2, 6, 5, 5)  # of 4 features all may be silent at a place
    places = torch.tensor([[0, 7], [24, 3]])
    out = project(h, places)
    assert torch.allclose(out.norm(dim=2), torch.ones(2, 2))
    assert torch.allclose(out[1, 0], nn.functional.normalize(project.layers(h[1, :, 4, 4]), dim=0), atol=1e-6)


# Objectives


def exchange(to_b, to_a):
    a, b = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    return TranslationStep(a, b, to_b(a), to_b, to_a(b), to_a)


def test_maps_that_undo_each_other_have_no_cycle_loss():
    s = exchange(lambda x: 2 * x + 1, lambda x: (x - 1) / 2)
    assert torch.allclose(cycle(s), torch.zeros(4), atol=1e-6)
    assert (identity(s) > 0.1).all()


def test_identical_maps_have_neither_cycle_nor_identity_loss():
    s = exchange(lambda x: x, lambda x: x)
    assert torch.equal(cycle(s), torch.zeros(4)) and torch.equal(identity(s), torch.zeros(4))


def test_l1_is_the_mean_difference():
    s = exchange(lambda x: x, lambda x: x)
    s.b = s.fake_b + 0.5
    assert torch.allclose(l1(s), torch.full((4,), 0.5))


def test_what_was_computed_in_one_pass_is_used():
    s = exchange(lambda x: x, lambda x: x)
    s.own_a, s.own_b = s.a + 1, s.b + 2
    assert torch.allclose(identity(s), torch.full((4,), 3.0))


PAIRS = DataSpec((3, 8, 8), shape_b=(3, 8, 8), pairs="all")


@pytest.mark.parametrize(
    ("name", "spec", "has_reverse_translator", "text"),
    [
        ("cycle", PAIRS, False, "way back"),
        ("identity", PAIRS, False, "way back"),
        ("identity", PAIRS._replace(shape_b=(1, 8, 8)), True, "3 and 1 channels"),
        ("l1", PAIRS._replace(pairs="held_out"), True, "no pairs"),
    ],
)
def test_a_term_that_cannot_be_is_refused(name, spec, has_reverse_translator, text):
    terms = parse_terms({name: 1}, TRANSLATION_TERMS)
    with pytest.raises(UserError, match=text):
        check_translation_terms(terms, spec, has_reverse_translator)
    check_translation_terms(terms, PAIRS, True)


def test_psnr_is_that_of_the_metrics():
    x, y = torch.rand(2, 3, 3, 8, 8)
    assert torch.allclose(psnr(x, y), images.psnr(x, y).float(), atol=1e-4)


def test_a_shallow_u_net_is_warned_of():
    with pytest.warns(UserWarning, match="can be halved 2 times only"):
        networks.translator("unet", (3, 100, 100), 3, width=2)


def test_contrast_is_log_p_where_places_are_alike_and_0_where_they_differ():
    alike = nn.functional.normalize(torch.ones(2, 6, 8), dim=2)
    assert torch.allclose(patch_nce(alike, alike), torch.full((2,), math.log(6)))
    apart = torch.eye(8)[None, :6].expand(2, -1, -1)
    assert (patch_nce(apart, apart) < 1e-4).all()
    assert (patch_nce(apart, apart.roll(1, 1)) > 10).all()


def test_contrast_moves_the_query_alone():
    query, key = torch.randn(2, 6, 8, requires_grad=True), torch.randn(2, 6, 8, requires_grad=True)
    patch_nce(query, key).sum().backward()
    assert query.grad.any() and key.grad is None


# The pool


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def test_a_pool_is_filled_first_and_exchanges_half_of_what_follows():
    pool, seen = ImagePool(50, (1, 1, 1)), []
    for k in range(1000):
        (out,) = pool.query(numbers(k + 1), k, 0, k).flatten().tolist()
        seen.append(out == k + 1)
        assert k >= 50 or out == k + 1
    assert 0.42 < sum(not new for new in seen[50:]) / 950 < 0.58
    assert len(set(pool.images.flatten().tolist())) == 50  # never a picture twice
    assert pool.images.min() > 50  # hardly anything stays for ever


def test_a_pool_gives_each_picture_at_most_once():
    pool, out = ImagePool(5, (1, 1, 1)), []
    for k in range(0, 400, 4):
        out += pool.query(numbers(*range(k + 1, k + 5)), k, 0, k).flatten().tolist()
    assert max(out.count(value) for value in set(out)) <= 2  # as it comes, and when it leaves


def test_a_pool_follows_from_its_key():
    pools, keys = [ImagePool(3, (1, 1, 1)) for _ in range(3)], [0, 0, 1]
    outs = [
        torch.cat([pool.query(numbers(k, -k), 2 * k, key, k) for k in range(40)])
        for pool, key in zip(pools, keys, strict=True)
    ]
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    assert torch.equal(pools[0].state_dict()["images"], pools[1].images)


def test_a_pool_of_nothing_lets_everything_through():
    x = torch.randn(3, 1, 2, 2)
    assert ImagePool(0, (1, 2, 2)).query(x, 0, 0) is x
