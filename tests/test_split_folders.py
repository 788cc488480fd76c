"""Folders train, val and test of data of two sides: what is held out is not trained on, whatever holds it."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.datamodules import UserError
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.unpaired import Unpaired


def fill(folder, count, first=0, size=(16, 16)):
    """Pictures of one grey each."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        Image.fromarray(np.full((*size, 3), k, np.uint8)).save(folder / f"{k}.png")


def greys(side, split):
    return sorted(side.examples(split, torch.arange(side.size(split)))["x"][:, 0, 0, 0].mul(127.5).add(127.5).tolist())


def test_each_of_two_folders_may_hold_its_splits(tmp_path):
    for side, start in (("a", 0), ("b", 100)):
        for split, count in (("train", 6), ("val", 2), ("test", 3)):
            fill(tmp_path / side / split, count, start)
            start += count
    data = Unpaired(str(tmp_path / "a"), str(tmp_path / "b"), size=16)
    assert greys(data.side("a"), "train") == pytest.approx(range(6), abs=1e-3)
    assert greys(data.side("b"), "test") == pytest.approx(range(108, 111), abs=1e-3)


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_pictures_without_a_training_folder_are_refused(tmp_path, split):
    for side in ("a", "b"):
        fill(tmp_path / side, 5)
        fill(tmp_path / side / split, 3, 5)
    text = f"has a folder {split}, but no folder train"
    for make in (Unpaired, Paired):
        with pytest.raises(UserError, match=text):
            _ = make(str(tmp_path / "a"), str(tmp_path / "b"), size=16).spec
    fill(tmp_path / "rows", 5, size=(16, 32))
    fill(tmp_path / "rows" / split, 3, size=(16, 32))
    with pytest.raises(UserError, match=text):
        _ = Paired(root=str(tmp_path / "rows"), size=16).spec


def test_a_side_that_can_spare_nothing_costs_the_other_one_nothing(tmp_path):
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 20)
    data = Unpaired(str(tmp_path / "a"), str(tmp_path / "b"), size=16)
    with pytest.warns(UserWarning, match="training examples stand in"):
        data.setup()
    assert data.side("b").size("train") == 20


def test_one_folder_for_both_sides_is_refused(tmp_path):
    fill(tmp_path / "a", 5)
    with pytest.raises(UserError, match="are one folder"):
        Unpaired(str(tmp_path / "a"), str(tmp_path / "a" / "." / ""), size=16)
