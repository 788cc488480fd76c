"""The embedded translations: their truth is one, the same in every run, and training does not see it."""

import pytest
import torch

from lightning_gen.datamodules import UserError
from lightning_gen.datamodules.coloured_digits import COLOURS, ColouredDigits
from lightning_gen.datamodules.outline_shapes import OutlineShapes, draw, paint

SPLITS = ("train", "val", "test")
EMBEDDED = (OutlineShapes, ColouredDigits)


def whole(data, split):
    """All examples of a split, as a validation sees them."""
    return data.examples(split, torch.arange(data.size(split)))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("make", EMBEDDED)
def test_embedded_sets(make):
    data, again = make(batch_size=16), make(batch_size=16, seed=9)
    assert data.spec.pairs == "held_out" and data.spec.shape == data.spec.shape_b == (3, 32, 32)
    assert [data.has_pairs(split) for split in SPLITS] == [False, True, True]
    assert data.spec.size == data.size("train") == {OutlineShapes: 4000, ColouredDigits: 3900}[make]
    assert [data.size("val"), data.size("test")] == [200, {OutlineShapes: 200, ColouredDigits: 297}[make]]
    for split in SPLITS:
        assert equal(whole(data, split), whole(again, split)), "the pictures depend on the run's seed"
    batch = next(iter(data.train_dataloader()))
    assert batch["a"].dtype == torch.uint8 and batch["a"].shape == batch["b"].shape == (16, 3, 32, 32)
    pairs = make(paired=True)
    assert pairs.spec.pairs == "all" and equal(whole(pairs, "val"), whole(data, "val"))
    assert torch.equal(whole(pairs, "train")["a"], whole(data, "train")["a"])
    with pytest.raises(UserError, match="binarize needs images"):
        make(binarize="threshold").setup()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_outlines_lie_on_the_border_of_what_they_outline(size):
    draws = draw(300, seed=1)
    outline, filled = (255 - paint(draws, size, filled, black=True).int()[:, 0] for filled in (False, True))
    assert (outline <= filled).all(), "ink outside the shape"
    assert ((outline == filled) | (filled == 255)).all(), "inside alone do they differ"
    assert (outline.amax((1, 2)) > 100).all()
    inner = torch.tensor([(f - o).sum() for o, f in zip(outline, filled, strict=True)])
    assert (inner > 0).all(), "no ground inside the outline"
    edge = torch.cat([filled[:, [0, -1]].flatten(), filled[:, :, [0, -1]].flatten()])
    assert (edge == 0).all(), "a shape is cut off"
    assert len(draws.shape.unique()) == 3 and len(draws.colour.unique()) == 6


def test_outlines_tell_the_colour_unless_they_are_black():
    for outline, told in (("coloured", True), ("black", False)):
        test = whole(OutlineShapes(outline=outline), "test")
        inks = [test[side].flatten(2).amin(2) for side in "ab"]  # of (200, 3): white is 1
        assert outline == "black" or (test["b"] <= test["a"]).all(), "a filling lacks its outline"
        hues = [len(((ink + 1) * 4).round().unique(dim=0)) for ink in inks]
        assert hues[1] == 6 and (hues[0] >= 6) == told
    with pytest.raises(UserError, match="unknown outline 'blue'"):
        OutlineShapes(outline="blue")
    for make in EMBEDDED:
        with pytest.raises(UserError, match="size 4"):
            make(size=4)


def test_coloured_digits_are_one_to_one():
    for split, paired in (("test", False), ("train", True)):
        data = ColouredDigits(paired=paired)
        a, b = (((whole(data, split)[side] + 1) * 127.5).round().int() for side in "ab")
        ground = (a + b).flatten(2)
        assert (ground == ground[..., :1]).all(), "a and b add up to one colour"
        assert {tuple(colour) for colour in ground[..., 0].tolist()} == set(COLOURS)
    fillings = [whole(ColouredDigits(paired=paired), "train")["b"].flatten(1) for paired in (True, False)]
    assert len(torch.cat(fillings).unique(dim=0)) == 2 * 3900, "unpaired training shows the truth of its side a"
