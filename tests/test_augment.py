"""Differentiable augmentation: what each policy does, how often, and that it hides nothing from the gradient."""

import pytest
import torch

from lightning_gen.adversarial.augment import AUGMENTATIONS, Augment, Augmentation, color, cutout, translation
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.toy import Toy

ALL = {"color": 1.0, "translation": 1.0, "cutout": 1.0}
SIZES = [(1, 8, 8), (3, 9, 9), (1, 28, 28), (3, 17, 40), (4, 64, 33), (3, 256, 256)]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(*shape, seed=1, dtype=torch.float32):
    return normal(*shape, seed=seed, dtype=dtype).tanh()


def chances(augment, iteration=0):
    return {name: ramp(iteration) for name, ramp in augment.schedules.items()}


def applied(given, x, seed=0, iteration=0):
    augment = Augment(given)
    return augment(x, normal(len(x), augment.numbers, seed=seed), chances(augment, iteration))


def negative(x, u):
    """An augmentation of the user's own."""
    return -x


shifted = Augmentation(lambda x, u: x + u.view(-1, 1, 1, 1), 1)


# All policies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_shapes_and_dtypes_stay(shape):
    x = images(3, *shape)
    out = applied(ALL, x)
    assert out.shape == x.shape and out.dtype == x.dtype and out.isfinite().all()
    assert applied(ALL, x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_0_changes_no_bit(name):
    x = images(64, 3, 8, 8)
    assert torch.equal(applied({name: 0.0}, x), x)
    assert not torch.equal(applied({name: 1.0}, x), x)


def test_without_policies_images_stay():
    augment, x = Augment({}), images(2, 1, 8, 8)
    assert augment.numbers == 0
    assert augment(x, torch.empty(2, 0), {}) is x


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_gradient_is_exact(name):
    x = images(2, 3, 5, 4, dtype=torch.float64).requires_grad_()
    augment = Augment({name: 1.0})
    noise = normal(2, augment.numbers, seed=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: augment(x, noise, {name: 1.0}), x)


def test_the_gradient_reaches_every_image():
    x = images(16, 3, 8, 8).requires_grad_()
    applied(ALL, x).square().sum().backward()
    assert (x.grad.abs().flatten(1).sum(1) > 0).all()


def test_the_gradient_has_a_gradient():
    """As a penalty on the gradient needs it."""
    x = images(4, 3, 8, 8).requires_grad_()
    (first,) = torch.autograd.grad(applied(ALL, x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.isfinite().all() and second.abs().sum() > 0


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_is_changed_in_its_own_way(name):
    x = images(1, 1, 16, 16).expand(32, -1, -1, -1)
    out = applied({name: 1.0}, x)
    assert len(out.flatten(1).unique(dim=0)) > 16


def test_an_image_does_not_depend_on_the_others():
    x, augment = images(8, 3, 12, 12), Augment(ALL)
    noise = normal(8, augment.numbers)
    together = augment(x, noise, ALL)
    alone = torch.cat([augment(x[i : i + 1], noise[i : i + 1], ALL) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_noise_changes_real_and_fake_alike(name):
    """Each policy is affine in the image, by a map that the noise alone decides."""
    real, fake = images(16, 3, 8, 8, seed=1), images(16, 3, 8, 8, seed=2)
    of_mean = applied({name: 0.7}, (real + fake) / 2)
    mean = (applied({name: 0.7}, real) + applied({name: 0.7}, fake)) / 2
    torch.testing.assert_close(of_mean, mean, rtol=0, atol=1e-6)


def test_a_probability_is_the_share_of_changed_images():
    x = torch.zeros(4000, 1, 4, 4)
    out = applied({"color": 0.5}, x)
    assert 0.47 < (out != x).flatten(1).any(1).float().mean() < 0.53


def test_policies_are_applied_independently():
    x = torch.full((8000, 1, 8, 8), 0.9)
    out = applied({"color": 0.5, "cutout": 0.5}, x)
    cut, coloured = (out == 0).flatten(1).any(1), ((out != 0) & (out != 0.9)).flatten(1).any(1)
    assert 0.23 < (cut & coloured).float().mean() < 0.27


def test_chances_come_from_ramps_or_from_elsewhere():
    x, given = torch.zeros(2000, 1, 4, 4), {"color": "0..1@100"}
    assert torch.equal(applied(given, x, iteration=0), x)
    assert 0.46 < (applied(given, x, iteration=50) != x).flatten(1).any(1).float().mean() < 0.54
    augment = Augment(given)
    out = augment(x, normal(2000, augment.numbers), {"color": torch.tensor(0.25)})
    assert 0.22 < (out != x).flatten(1).any(1).float().mean() < 0.28


def test_extreme_noise_stays_in_range():
    x, augment = images(2, 3, 9, 8), Augment(ALL)
    noise = torch.tensor([[-40.0], [40.0]]).expand(2, augment.numbers)
    assert augment(x, noise, dict.fromkeys(ALL, 2.0)).isfinite().all()


def test_torch_generators_are_untouched():
    before = torch.get_rng_state()
    applied(ALL, images(2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


# Color ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_adds_at_most_a_half(channels):
    x = torch.zeros(500, channels, 4, 4)  # of no contrast and no saturation
    out = applied({"color": 1.0}, x)
    value = out[:, 0, 0, 0]
    torch.testing.assert_close(out, value.view(-1, 1, 1, 1).expand_as(out), rtol=0, atol=1e-6)
    assert -0.5 <= value.min() < -0.45 and 0.45 < value.max() <= 0.5


def test_contrast_keeps_the_mean_and_stretches_by_a_half_to_one_and_a_half():
    x = images(1, 1, 6, 6).expand(500, -1, -1, -1)
    stretch = color(x, torch.rand(500, 3, generator=torch.Generator().manual_seed(0))).flatten(1).std(1) / x[0].std()
    assert 0.5 <= stretch.min() + 1e-5 < 0.52 and 1.48 < stretch.max() <= 1.5 + 1e-5


def test_saturation_from_grey_to_double():
    x = images(2, 3, 6, 6)
    u = torch.tensor([[0.5, 0.0, 0.5], [0.5, 1.0, 0.5]])  # neither brightness nor contrast
    out, mean = color(x, u), x.mean(1, keepdim=True)
    torch.testing.assert_close(out[0], mean[0].expand(3, -1, -1))
    torch.testing.assert_close(out[1], mean[1] + 2 * (x[1] - mean[1]))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_only_rgb_has_saturation(channels):
    x = images(2, channels, 6, 6)
    torch.testing.assert_close(color(x, torch.tensor([[0.5, 0.0, 0.5], [0.5, 1.0, 0.5]])), x)


def test_the_middle_of_all_numbers_changes_nothing():
    x = images(2, 3, 9, 10)
    torch.testing.assert_close(color(x, torch.full((2, 3), 0.5)), x)
    assert torch.equal(translation(x, torch.full((2, 2), 0.5)), x)


# Translation ------------------------------------------------------------------------------------------------------


def test_known_pixels_move_down_and_right_and_0_follows():
    x = torch.arange(1.0, 129.0).view(1, 1, 8, 16) / 128
    out = translation(x, torch.tensor([[0.99, 0.0]]))  # 1 down, 2 to the left
    assert torch.equal(out[..., 1:, :-2], x[..., :-1, 2:])
    assert (out[..., 0, :] == 0).all() and (out[..., -2:] == 0).all()


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (9, 1), (28, 4), (33, 4), (64, 8)])
def test_every_shift_up_to_an_eighth_is_equally_frequent(side, reach):
    x = torch.zeros(1, 1, side, side)
    x[..., side // 2, side // 2] = 1
    out = applied({"translation": 1.0}, x.expand(4000, -1, -1, -1))
    for dim in (2, 3):
        counts = out.sum((1, 5 - dim)).sum(0)  # of the places of the white pixel along this axis
        places = range(side // 2 - reach, side // 2 + reach + 1)
        assert counts.nonzero().squeeze(1).tolist() == list(places)
        expected = 4000 / len(places)
        assert ((counts[list(places)] - expected).abs() < 5 * expected**0.5).all()


# Cutout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (11, 16), (28, 28)])
def test_a_rectangle_of_half_the_sides_is_cut_out(height, width):
    x = torch.ones(3000, 2, height, width)
    out = applied({"cutout": 1.0}, x)
    hole = out[:, 0] == 0  # (B, H, W)
    assert torch.equal(out, torch.where(hole, 0.0, 1.0).unsqueeze(1).expand_as(x))  # all channels, and whole pixels
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows.unsqueeze(2) & columns.unsqueeze(1))
    for taken, side in ((rows, height), (columns, width)):
        size = (side + 1) // 2
        assert taken.sum(1).max() == size and taken.sum(1).min() >= size // 2
        assert (taken[:, 1:] != taken[:, :-1]).sum(1).max() <= 2  # without a gap
        assert taken.any(0).all()
    full = hole.flatten(1).sum(1) == ((height + 1) // 2) * ((width + 1) // 2)
    assert 0.2 < full.float().mean() < 0.5  # a centre far enough from the border, on both axes


def test_cutout_reaches_the_border_from_both_sides():
    x = torch.ones(2, 1, 8, 8)
    first, last = (cutout(x, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))[:, 0] == 0).nonzero()[:, 1:].split([4, 4])
    assert first.max() == 1 and last.min() == 6


# Names and errors -------------------------------------------------------------------------------------------------


def test_names_are_open():
    x = images(4, 1, 4, 4)
    assert torch.equal(applied({"mine": {"probability": 1, "function": negative, "numbers": 0}}, x), -x)
    nested = {"torch": {"nn": {"functional": {"dropout": None}}}, "test_augment": {"shifted": 1.0}}
    augment = Augment(nested)  # as a command line delivers paths
    assert list(augment.schedules) == ["test_augment.shifted"] and augment.numbers == 2
    path = {"mine": {"probability": 1, "function": "test_augment.negative", "numbers": 0}}
    assert torch.equal(applied(path, x), -x)


def test_none_removes_a_policy():
    assert Augment({"color": None, "cutout": 1}).numbers == 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"colour": 1}, "unknown augmentation 'colour': did you mean 'color'"),
        ({"color": 1.5}, "'color' has the probability 1.5: possible is 0 to 1"),
        ({"color": -0.1}, "possible is 0 to 1"),
        ({"color": float("nan")}, "possible is 0 to 1"),
        ({"color": "0..2@100"}, "possible is 0 to 1"),
        ({"color": True}, "neither a number nor a ramp"),
        ({"color": "often"}, "neither a number nor a ramp"),
        ({"color": {}}, "needs a probability"),
        ({"color": {"probability": 1, "strength": 2}}, "no option 'strength'"),
        ({"mine": {"probability": 1, "function": negative}}, "how many random numbers"),
        ({"mine": {"probability": 1, "function": 3}}, "give an Augmentation"),
        ({"nowhere.flip": 1}, "cannot import augmentation"),
        (["color"], "give names with probabilities"),
    ],
)
def test_mistakes_are_named(given, text):
    with pytest.raises(UserError, match=text):
        Augment(given)


def test_another_shape_is_refused():
    with pytest.raises(UserError, match="'mine' makes"):
        applied({"mine": {"probability": 1, "function": lambda x, u: x[..., 1:], "numbers": 0}}, images(2, 1, 4, 4))


def test_only_images_are_augmented():
    Augment(ALL).check(Digits().spec)
    Augment({}).check(Toy().spec)
    for spec in (Toy().spec, DataSpec((1, 8, 8), values="real")):
        with pytest.raises(UserError, match="color, translation, cutout is for images"):
            Augment(ALL).check(spec)


def test_pictures_beside_each_other_have_saturation_each():
    """As a discriminator sees them that is told the source: the mean over three channels, not over six."""
    x = images(1, 6, 8, 8)
    grey = color(x, torch.tensor([[0.5, 0.0, 0.5]])).view(2, 3, 8, 8)
    torch.testing.assert_close(grey, x.view(2, 3, 8, 8).mean(1, keepdim=True).expand(-1, 3, -1, -1))
