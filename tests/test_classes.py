"""Classes: ids 0..K-1 of labels of any kind, their names, their numbers, and an order that draws them equally."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.datamodules import DATASETS
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.classes import describe_classes, find_class
from lightning_gen.datamodules.coloured_digits import ColouredDigits
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.order import BalancedOrder
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.names import resolve

HUGE = 2**63 + 11


def arrays(folder, y, **options):
    """Data whose first pixel is the row."""
    x = np.zeros((len(y), 8, 8), np.uint8)
    x[:, 0, 0] = range(len(y))
    np.savez(folder / "data.npz", x=x, y=y)
    return Arrays(str(folder / "data.npz"), **options)


def labels_by_row(data):
    """Row -> class id, over all splits."""
    found = {}
    for split in ("train", "val", "test"):
        batch = data._splits[split].fetch(torch.arange(data.size(split)))
        found |= dict(zip(batch["x"][:, 0, 0, 0].tolist(), batch["y"].tolist(), strict=True))
    return [found[row] for row in range(len(found))]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.arange(1, 11), tuple(map(str, range(1, 11)))),
        (np.array([5, 7000]), ("5", "7000")),
        (np.array([0, 1]), ("0", "1")),
        (np.array([-3, 30_000_000, 10**12]), ("-3", "30000000", "1000000000000")),
        (np.array([7, HUGE], np.uint64), ("7", str(HUGE))),
        (np.array([2.0, 40.0], np.float32), ("2", "40")),
        (np.array([False, True]), ("False", "True")),
        (np.array(["bird", "cat"]), ("bird", "cat")),
        (np.array([b"bird", b"ca\xe9t"]), ("bird", "ca\udce9t")),
        (np.array([9]), ("9",)),
    ],
)
def test_the_values_of_labels_are_the_classes(tmp_path, values, names):
    order = np.arange(40)[::-1] % len(values)
    data = arrays(tmp_path, values[order])
    assert (data.spec.num_classes, data.spec.class_names) == (len(names), names)
    data.setup()
    assert labels_by_row(data) == order.tolist()


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (
            np.array([1.0, 2.0, 1.5, 0.5]),
            r"data\.npz holds the label 1\.5 in row 2, and 1 more like it: a class is a whole",
        ),
        (np.array([1.0, np.nan]), "the label nan in row 1: a class is"),
        (np.array([np.inf, 1.0]), "the label inf in row 0"),
        (np.zeros((3, 1), int), r"labels of type int64 and shape \(3, 1\): expected the classes of 3 examples"),
        (np.zeros(3, complex), "labels of type complex128"),
    ],
)
def test_labels_that_are_no_classes_are_one_line(tmp_path, y, text):
    with pytest.raises(UserError, match=text) as error:
        _ = arrays(tmp_path, y).spec
    assert "\n" not in str(error.value)


SPEC = DataSpec((1, 8, 8), num_classes=3, class_names=("bird", "2", "cat"))


def test_a_class_is_found_by_its_name_and_then_by_its_number():
    assert [find_class(given, SPEC) for given in ("bird", "cat", "2", 2, "0", 1)] == [0, 2, 1, 1, 0, 1]
    assert find_class("2", DataSpec((2,), "vector", num_classes=3)) == 2, "a checkpoint from before holds no names"
    for given in ("ct", "3", "-1", "1.0", "", "²", "9" * 5000):
        with pytest.raises(UserError, match=r"^unknown class .*known: bird, 2, cat, or 0 to 2$") as error:
            find_class(given, SPEC)
        assert len(str(error.value)) < 160
    with pytest.raises(UserError, match="did you mean 'cat'"):
        find_class("ct", SPEC)
    many = DataSpec((2,), "vector", num_classes=5000, class_names=tuple(f"{'name' * 40}{k}" for k in range(5000)))
    with pytest.raises(UserError, match="4,990 more, or 0 to 4,999") as error:
        find_class("x", many)
    assert len(str(error.value)) < 600


def test_the_classes_are_told_with_their_numbers():
    counts = torch.tensor([120, 80, 8])
    spec = DataSpec((2,), "vector", num_classes=3, class_names=("bird", "cat", "dog"))
    assert describe_classes(spec, counts) == [
        "3 classes: bird (120), cat (80), dog (8)",
        "fewer than 10 training examples in 1 of them: dog (8); --data.balance true draws all classes equally",
    ]
    assert describe_classes(spec, counts[:2].repeat(2)[:3]) == ["3 classes: bird (120), cat (80), dog (120)"]
    assert describe_classes(spec, None) == ["3 classes: bird, cat, dog"]
    assert describe_classes(DataSpec((2,), "vector"), None) == []
    lines = describe_classes(DataSpec((2,), "vector", num_classes=10**6), torch.zeros(10**6, dtype=torch.int64))
    assert lines[0] == "1,000,000 classes: " + ", ".join(f"{k} (0)" for k in range(10)) + ", 999,990 more"
    assert max(map(len, lines)) < 250


def test_a_class_without_training_examples_is_told(tmp_path):
    """The held-out examples of a class that training does not see keep their class."""
    split = arrays(tmp_path, np.zeros(30, int))
    split.setup()
    held_out = [int(row) for row in split._splits["test"].fetch(torch.arange(3))["x"][:, 0, 0, 0]]
    y = np.full(30, 4)
    y[held_out] = 9
    data = arrays(tmp_path, y)
    assert data.spec.class_names == ("4", "9")
    assert data.notices()[0] == "2 classes: 4 (24), 9 (0)" and "in 1 of them: 9 (0);" in data.notices()[1]
    data = arrays(tmp_path, np.full(30, 7))
    assert data.notices()[0] == "1 class: 7 (24)" and "fewer than" not in str(data.notices()), "one class is one"


def test_embedded_sets_have_names():
    for name, row in DATASETS.items():
        if name in ("folder", "paired", "unpaired"):
            continue
        spec = resolve(row.target, {}, "data set")().spec
        assert len(spec.class_names) in (0, spec.num_classes)
        assert bool(spec.class_names) == (name in ("digits", "mnist", "fashion-mnist", "cifar10", "stacked-mnist")), (
            name
        )
    assert Digits().notices()[0].startswith("10 classes: 0 (")


# Datasets


class Labelled:
    """Pictures 8x8, the first pixel of which is their number."""

    def __init__(self, items, **more):
        self.items = items
        self.__dict__ |= more

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        return Image.new("L", (8, 8), k), self.items[k]


@pytest.mark.parametrize(
    ("dataset", "options", "names", "ids"),
    [
        (Labelled([1, 0] * 20, classes=["cat", "dog"]), {}, ("cat", "dog"), [1, 0] * 20),
        (Labelled(["b", "a"] * 20), {}, ("a", "b"), [1, 0] * 20),
        (Labelled(["b", "a"] * 20, classes=["b", "x", "a"]), {}, ("b", "x", "a"), [0, 2] * 20),
        (Labelled([7000, 5] * 20, targets=[7000, 5] * 20), {}, ("5", "7000"), [1, 0] * 20),
        (Labelled([7000, 5] * 20, labels=np.array([7000, 5] * 20)), {}, ("5", "7000"), [1, 0] * 20),
        (Labelled([1, 0] * 20), {"class_names": ["cat", "dog"]}, ("cat", "dog"), [1, 0] * 20),
        (Labelled([torch.tensor(1), torch.tensor(0)] * 20), {"num_classes": 3}, (), [1, 0] * 20),
        (torch.utils.data.Subset(Labelled([1, 0] * 20, classes=["c", "d"]), range(40)), {}, ("c", "d"), [1, 0] * 20),
    ],
)
def test_the_classes_of_a_dataset(dataset, options, names, ids):
    data = Custom(dataset, batch_size=4, **options)
    assert data.spec.class_names == names and data.spec.num_classes == (len(names) or 3)
    data.setup()
    assert labels_by_row(data) == ids
    assert data.notices()[0].startswith(f"{data.spec.num_classes} classes: ")


def test_labels_of_a_dataset_that_nobody_explains_are_left_out_aloud():
    data = Custom(Labelled([3.5] * 40), batch_size=4)
    assert data.spec.num_classes == 0 and "y" not in next(iter(data.train_dataloader()))
    said = "left out: the labels of the Dataset, whose classes are not known"
    assert data.notices() == [f"{said}; num_classes= or class_names= says what they are"]
    assert Custom([Image.new("L", (8, 8))] * 10).notices() == []


@pytest.mark.parametrize("label", [1.5, float("nan"), 2, -1, "dog", torch.tensor([0, 1]), None, 10**400])
def test_a_label_that_is_none_of_the_classes(label):
    data = Custom(Labelled([0] * 9 + [label]), num_classes=2, batch_size=10)
    with pytest.raises(UserError, match="example 9") as error:
        for split in ("train", "val", "test"):
            data.examples(split, torch.arange(data.size(split)))
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_names_and_numbers_of_classes_agree():
    with pytest.raises(UserError, match="num_classes 3 and the names of 2 classes"):
        _ = Custom(Labelled([0] * 9), num_classes=3, class_names=["a", "b"]).spec
    with pytest.raises(UserError, match="names of classes must differ: a, a"):
        _ = Custom(Labelled([0] * 9), class_names=["a", "a"]).spec


# Balance


def test_each_round_holds_each_class_once_and_each_class_all_of_its_examples():
    y = torch.tensor([2] * 50 + [0] * 3 + [5] * 7)
    order = BalancedOrder(y, batch_size=7, seed=1)
    stream = torch.cat([order.batch(n) for n in range(3 * 50)])
    rounds = y[stream][: len(stream) // 3 * 3].view(-1, 3)
    assert (rounds.sort(1).values == torch.tensor([0, 2, 5])).all() and len(rounds) == 350
    assert len(rounds.unique(dim=0)) == 6, "in all orders"
    for c, count in ((0, 3), (2, 50), (5, 7)):
        own = stream[y[stream] == c]
        passes = own[: len(own) // count * count].view(-1, count)
        assert (passes.sort(1).values == (y == c).nonzero().flatten()).all() and len(passes) >= 7
        assert len(passes.unique(dim=0)) > 1, "each pass in another order"
    assert not torch.equal(stream[:70], torch.cat([BalancedOrder(y, 7, 2).batch(n) for n in range(10)]))


def test_a_balanced_batch_is_a_function_of_its_number_alone():
    y = torch.arange(100) % 7 % 3
    whole = [BalancedOrder(y, 12, 0).batch(n) for n in range(30)]
    assert torch.equal(BalancedOrder(y, 12, 0).batch(20, batches_per_fetch=4), torch.cat(whole[20:24]))
    ranks = [BalancedOrder(y, 12, 0) for _ in range(3)]
    for n in (29, 3):
        assert torch.equal(torch.cat([order.batch(n, rank, 3) for rank, order in enumerate(ranks)]), whole[n])


def test_balanced_data_resume_and_keep_their_held_out_examples(tmp_path):
    y = np.array([0] * 100 + [1] * 12 + [2] * 8)
    data = arrays(tmp_path, y, batch_size=6, balance=True)
    stream = iter(data.train_dataloader())
    batches = [next(stream) for _ in range(12)]
    assert all(batch["y"].bincount().tolist() == [2, 2, 2] for batch in batches)
    again = arrays(tmp_path, y, batch_size=6, balance=True)
    again.load_state_dict({"batches": 7})
    for before, after in zip(batches[7:], again.train_dataloader(), strict=False):
        assert torch.equal(before["x"], after["x"]) and torch.equal(before["y"], after["y"])
    plain = arrays(tmp_path, y, batch_size=6)
    for mine, theirs in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        assert torch.equal(mine["x"], theirs["x"])
    assert plain.train_dataloader().order.size == 96


def test_balance_of_all_kinds_of_sources(tmp_path):
    for k in range(40):
        (tmp_path / "pics" / "ab"[k % 8 == 0]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), k).save(tmp_path / "pics" / "ab"[k % 8 == 0] / f"{k}.png")
    options = {"batch_size": 10, "balance": True}
    lazy = {"memory": 0.0, "num_workers": 0}
    for data in (
        Folder(str(tmp_path / "pics"), size=8, **options),
        Folder(str(tmp_path / "pics"), size=8, **options, **lazy),
        Custom(Labelled(["a"] * 37 + ["b"] * 3), **options),
        Custom(Labelled([0] * 35 + [1] * 5, targets=[0] * 35 + [1] * 5), **options),
    ):
        assert next(iter(data.train_dataloader()))["y"].bincount().tolist() == [5, 5]
    with pytest.raises(UserError, match=r"balance draws classes equally, and these data \(ColouredDigits\) have none"):
        _ = ColouredDigits(**options).spec


# Models


def test_samples_by_the_names_of_classes(tmp_path):
    data = arrays(tmp_path, np.array([5, 7000, 12] * 10))
    model = VAE(data.spec, network="mlp", conditional=True).eval()
    by_id = model.sample(4, y=torch.tensor([0, 2, 1, 2]))
    assert torch.equal(model.sample(4, y=["5", "7000", "12", 2]), by_id)
    assert torch.equal(model.sample(3, y="7000"), model.sample(3, y=torch.tensor([2, 2, 2])))
    with pytest.raises(UserError, match="unknown class '700': known: 5, 12, 7000, or 0 to 2"):
        model.sample(1, y="700")
    with pytest.raises(UserError, match="1 class ids for 2 samples"):
        model.sample(2, y=["5"])
    with pytest.raises(UserError, match="y is a list: give a tensor, or the names of classes"):
        model.sample(2, y=[1.5, 2.0])


class WithText(DataModule):
    """Examples with classes, and a text that the spec does not call a condition."""

    condition = "none"

    def describe(self):
        spec = DataSpec((2,), "vector", "real", size=9, num_classes=3, condition=self.condition)
        return spec._replace(condition_shape=(2,), condition_vocab=("", "a")) if self.condition == "text" else spec

    def splits(self):
        columns = {"x": torch.zeros(9, 2), "y": torch.arange(9) % 3, "text": torch.zeros(9, 2, dtype=torch.int64)}
        return {split: Tensors(**columns) for split in ("train", "val", "test")}


def test_a_text_comes_only_where_it_is_the_condition():
    data = WithText()
    assert "text" not in data.examples("val", torch.arange(3))
    assert "text" not in data.transform(next(iter(data.train_dataloader())), training=True)
    data = WithText()
    data.condition = "text"
    assert "text" in data.examples("val", torch.arange(3))
