"""Two processes with gloo: equal weights on both ranks, and the run of one process within float tolerance."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.order import Order
from lightning_gen.storage.checkpoints import read_checkpoint

OPTIONS = ["--model", "vae", "--steps", 40, "--seed", 3, "--trainer.accelerator", "cpu", "--model.terms.kl.weight", 1]
OPTIONS += ["--model.terms.kl.free_bits", 0.05, "--model.ema.vae", 1000, "--val_every", 15]
OPTIONS += [word for name in ("mi", "tc", "dkl", "dip", "mmd") for word in (f"--model.terms.{name}", 1)]
DUEL = ["--model", "helpers.Duel", "--data", "toy", "--steps", 20, "--model.clip", 1.0, "--trainer.accelerator", "cpu"]
UNEVEN = ["--model", "vae", "--data", "points.npy", "--data.batch_size", 100, "--steps", 6, "--val_every", 3]
UNEVEN += ["--model.terms.kl.free_bits", 0.1, "--trainer.accelerator", "cpu"]
FEW = ["--model", "vae", "--data", "few.npy", "--data.batch_size", 4, "--steps", 2, "--trainer.accelerator", "cpu"]
CHECK = ["--trainer.callbacks", "[helpers.SameOnAllRanks]"]


def final(folder, name):
    return read_checkpoint(folder / f"tb_logs/vae-digits-{name}/version_0/checkpoints/last.ckpt")


def broken_folder(folder):
    """Options of a run on pictures of which one is broken that only the second rank reads, in the first batch."""
    for k in range(40):
        (folder / "pics").mkdir(exist_ok=True)
        Image.new("L", (8, 8), k).save(folder / "pics" / f"{k}.png")
    options = {"size": 8, "channels": 1, "memory": 0.0, "num_workers": 0}
    names = Folder(str(folder / "pics"), **options).parts["train"]
    (folder / "pics" / names[Order(len(names), 4, 0).batch(0, 1, 2)[0]]).write_bytes(b"no picture")
    return [
        *("--model", "vae", "--data", "./pics", "--steps", 2, "--data.batch_size", 4, "--trainer.accelerator", "cpu"),
        *(word for name, value in options.items() for word in (f"--data.{name}", value)),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, nursery):
    """The same command on one and on two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    np.save(folder / "points.npy", np.random.default_rng(0).normal(size=(1010, 6)).astype(np.float32))
    two = {"ranks": 2, "cwd": folder}
    np.save(folder / "few.npy", np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32))
    output = {
        "one": nursery.fit(*OPTIONS, "--name", "one", cwd=folder).output,
        "two": nursery.fit(*OPTIONS, "--name", "two", *CHECK, **two).output,
        "uneven": nursery.fit(*UNEVEN, **two).output,
        "broken": nursery.fit(*broken_folder(folder), **two).output,
        "few1": nursery.fit(*FEW, "--name", "one", cwd=folder).output,
        "few2": nursery.fit(*FEW, "--name", "two", **two).output,
        "duel1": nursery.fit(*DUEL, "--name", "one", cwd=folder).output,
        "duel2": nursery.fit(*DUEL, "--name", "two", *CHECK, **two).output,
    }
    return folder, output


def test_two_ranks_equal_one(runs):
    folder, _ = runs
    one, two = final(folder, "one"), final(folder, "two")
    for name, value in one["state_dict"].items():
        assert torch.allclose(value, two["state_dict"][name], atol=2e-4), name
    assert one["lightning_gen"] == two["lightning_gen"]


def test_the_tolerance_is_far_below_what_training_moves(runs):
    folder, _ = runs
    before = read_checkpoint(folder / "tb_logs/vae-digits-one/version_0/checkpoints/previous.ckpt")["state_dict"]
    after = final(folder, "one")["state_dict"]  # ten iterations later
    assert max((after[name] - before[name]).abs().max() for name in after if "kl_per" not in name) > 20 * 2e-4


def test_validation_of_two_ranks_equals_one(runs):
    folder, _ = runs
    values = [
        json.loads((folder / f"tb_logs/vae-digits-{name}/version_0/summary.json").read_text(encoding="utf-8"))["final"]
        for name in ("one", "two")
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_both_ranks_hold_the_same_weights(runs):
    _, output = runs
    assert "ranks agree: 0.0" in output["two"]


def test_the_batch_is_split_and_said(runs):
    _, output = runs
    assert "batch 128 = 2 devices x 64" in output["two"]


def test_two_players_on_two_ranks_equal_one(runs):
    """Frozen players and several moves a turn under DDP."""
    folder, output = runs
    assert "ranks agree: 0.0" in output["duel2"]
    one, two = (
        read_checkpoint(folder / f"tb_logs/duel-toy-{n}/version_0/checkpoints/last.ckpt") for n in ("one", "two")
    )
    for name, value in one["state_dict"].items():
        assert torch.allclose(value, two["state_dict"][name], atol=2e-4), name


def test_ranks_with_unequal_numbers_of_validation_batches(runs):
    """One rank has a batch more; nothing in validation may wait for the other."""
    assert "validation: loss" in runs[1]["uneven"]


def test_a_file_that_only_the_second_rank_meets_is_counted(runs):
    assert "1 of 40 images in pics could not be read: pics/" in runs[1]["broken"]


def test_fewer_validation_examples_than_ranks(runs):
    """One of two ranks gets none, and the values are those of one process."""
    folder, output = runs
    paths = (folder / f"tb_logs/vae-few-{name}/version_0/summary.json" for name in ("one", "two"))
    one, two = (json.loads(path.read_text(encoding="utf-8"))["final"] for path in paths)
    assert "batch 4 = 2 devices x 2" in output["few2"]
    assert "val/loss" in one and two == pytest.approx(one, rel=1e-3)
