"""Stacked MNIST: its classes, its splits, and the modes that an evaluation finds in it."""

import math
import re
from pathlib import Path

import pytest
import torch
from helpers import Painter

from lightning_gen.datamodules import resolve_dataset
from lightning_gen.datamodules.mnist import MNIST
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.stacked_mnist import SIZES, StackedData, StackedMNIST, StackedSource, joint_class
from lightning_gen.evaluation import quality
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.metrics.modes import smooth_noise

ROOT = Path(__file__).parents[2] / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no {ROOT}")


@pytest.fixture
def small(monkeypatch):
    """A few digits, none of them twice: their first pixels are the split and their number there."""

    def splits(self):
        sources = {}
        for number, (name, n) in enumerate({"train": 200, "val": 20, "test": 50}.items()):
            x = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
            x[:, 0, 0, 0], x[:, 0, 0, 1] = number, torch.arange(n)
            sources[name] = Tensors(x=x, y=torch.arange(n) % 10)
        return sources

    monkeypatch.setattr(MNIST, "splits", splits)


class Copies:
    """What an evaluation needs of a model: gives the training examples in their order.

    Args:
        data: whose training examples are given.
        only: the number of examples after which it begins anew.
    """

    device = torch.device("cpu")

    def __init__(self, data, only=None):
        self.data, self.spec, self.only = data, data.spec, only or data.size("train")

    def sample(self, n, y=None, seed=0, start=0):
        return self.data.examples("train", torch.arange(start, start + n) % self.only)["x"]


@pytest.fixture(scope="module")
def real():
    data = StackedMNIST(str(ROOT), batch_size=64)
    data.setup()
    return data


def modes_of(model, data, n):
    return dict(quality.modes(EvaluationRun(model, data, "none fits", n=n)))


# Data -------------------------------------------------------------------------------------------------------------


def test_a_class_has_the_digits_of_the_channels():
    assert joint_class(torch.tensor([[0, 0, 7], [1, 2, 3], [9, 9, 9]]), 10).tolist() == [7, 123, 999]
    assert joint_class(torch.tensor([[1, 0]]), 3).tolist() == [3]


def test_the_spec_and_the_name():
    assert resolve_dataset("stacked-mnist") == ("lightning_gen.datamodules.stacked_mnist.StackedMNIST", {})
    data = StackedMNIST()
    names = tuple(f"{k:03d}" for k in range(1000))
    assert data.spec == DataSpec((3, 28, 28), size=128_000, num_classes=1000, class_names=names)
    assert isinstance(data, StackedData) and not isinstance(MNIST(), StackedData)
    assert data.channel_dataset() == ("mnist", MNIST().spec)


def test_channels_are_digits_of_the_same_split_and_give_the_class(small):
    data = StackedMNIST()
    assert {name: data.size(name) for name in SIZES} == SIZES
    for number, split in enumerate(SIZES):
        batch = data._splits[split].fetch(torch.arange(2000))
        assert batch["x"].dtype == torch.uint8 and (batch["x"][:, :, 0, 0] == number).all()
        digits = batch["x"][:, :, 0, 1].long() % 10  # (B, 3)
        assert torch.equal(batch["y"], 100 * digits[:, 0] + 10 * digits[:, 1] + digits[:, 2])
        assert batch["y"].dtype == torch.int64 and torch.equal(batch["index"], torch.arange(2000))


def test_every_digit_and_every_class_occurs(small):
    data = StackedMNIST()
    data.setup()
    source = data._splits["train"]
    assert len(source.rows.unique()) == 200
    labels = joint_class(source.rows % 10, 10)
    assert len(labels.unique()) == 1000
    shares = labels.bincount(minlength=1000) / len(labels)
    assert (shares * (shares * 1000).log()).sum() < 0.01


def test_all_constructions_hold_the_same_examples(small):
    one, two = StackedMNIST(seed=0, batch_size=8), StackedMNIST("elsewhere", seed=5)
    for split in SIZES:
        rows = torch.arange(500)
        assert torch.equal(one.examples(split, rows)["x"], two.examples(split, rows)["x"])
        assert torch.equal(one.examples(split, rows)["y"], two.examples(split, rows)["y"])
    assert one._splits["train"].rows[0].tolist() == [144, 179, 192]  # also in the next version


def test_the_loader_gives_floats(small):
    data = StackedMNIST(batch_size=16)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = data.on_after_batch_transfer(next(iter(loader)), 0)
        assert batch["x"].shape == (16, 3, 28, 28) and batch["x"].dtype == torch.float32
        assert batch["x"].min() == -1 and batch["x"].max() <= 1
        assert batch["y"].shape == (16,)


def test_stacks_of_colour_images_and_of_any_number():
    source = Tensors(x=torch.arange(5 * 3 * 4).view(5, 3, 2, 2), y=torch.arange(5))
    batch = StackedSource(source, torch.tensor([[0, 4], [3, 3], [1, 2]]), base=5).fetch(torch.tensor([2, 0]))
    assert torch.equal(batch["x"][0], torch.cat([source.columns["x"][1], source.columns["x"][2]]))
    assert batch["y"].tolist() == [7, 4]


@needs_mnist
def test_the_channels_are_the_digits_of_mnist(real):
    digits = MNIST(str(ROOT))
    digits.setup()
    for split in SIZES:
        rows = real._splits[split].rows[:100]
        stacked, plain = real.examples(split, torch.arange(100)), digits.examples(split, rows.flatten())
        assert torch.equal(stacked["x"].view(300, 1, 28, 28), plain["x"])
        assert torch.equal(stacked["y"], joint_class(plain["y"].view(100, 3), 10))


# Modes ------------------------------------------------------------------------------------------------------------


@needs_mnist
def test_real_examples_reach_the_modes(real):
    found = modes_of(Copies(real), real, n=2000)
    assert list(found) == ["modes_mnist_v1", "recognised_mnist_v1", "reverse_kl_mnist_v1"]
    modes, recognised, kl = found.values()
    assert min(recognised.value, recognised.floor) > 0.85 and "smooth noise" in modes.note
    assert modes.n == 2000 and modes.extractor.startswith("mnist_v1 ")
    # a perfect sampler: 1000 (1 - e^-r) modes of the r = 2 recognised samples for each
    for share, count in ((recognised.value, modes.value), (recognised.floor, modes.floor)):
        assert abs(count - 1000 * (1 - math.exp(-2 * share))) < 30
    assert 0.2 < kl.value < 0.37 and abs(kl.value - kl.floor) < 0.06


@needs_mnist
def test_the_classifier_sees_the_classes_that_the_data_have(real):
    n = 1000
    labels = real.examples("train", torch.arange(n))["y"]
    found = modes_of(Copies(real), real, n=n)
    unseen = n * (1 - found["recognised_mnist_v1"].value)
    assert 0 <= len(labels.unique()) - found["modes_mnist_v1"].value < unseen < 0.1 * n


@needs_mnist
def test_a_collapsed_model_is_seen(real):
    modes, _, kl = modes_of(Copies(real, only=1), real, n=256).values()
    assert modes.value == 1 and kl.value == pytest.approx(math.log(1000))
    assert modes.floor > 200


@needs_mnist
def test_a_conditional_model_is_asked_for_all_classes(real):
    part = StackedMNIST(str(ROOT))
    part.setup()
    part._splits["train"].rows = part._splits["train"].rows[:20_000]
    assert (
        modes_of(Painter(part, only=range(1000)), real, n=1000)["modes_mnist_v1"].value > 920
    )  # a few of each thousand are not recognised


@needs_mnist
def test_noise_that_any_classification_counts_as_modes_is_not_recognised(real):
    class Noise:
        spec, device, classes = real.spec, torch.device("cpu"), 0

        def sample(self, n, *, seed, start=0, **_):
            generator = torch.Generator().manual_seed(start)
            return smooth_noise(3 * n, 28, generator).view(n, 3, 28, 28)

    modes, recognised, _ = modes_of(Noise(), real, n=2048).values()
    assert modes.value < 30 and recognised.value < 0.05 and recognised.floor > 0.85
    assert int(re.search(r"reaches (\d+)", modes.note)[1]) < 30  # the floor beside it, of other numbers of this kind
