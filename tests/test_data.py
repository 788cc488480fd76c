"""Data: splits, order, resume, shares of the ranks, the images of users, and what is said of bad input."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT

from lightning_gen.datamodules import DATASETS, UserError, resolve_dataset
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.cifar10 import CIFAR10
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.decode import SUFFIXES
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.image_files import split_by_hash
from lightning_gen.datamodules.loader import EvalLoader, Position, TrainLoader
from lightning_gen.datamodules.mnist import MNIST
from lightning_gen.datamodules.order import Order
from lightning_gen.datamodules.shapes import FACTORS, SIZE, Rendered, Shapes, render
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.toy import POINTS, Toy

# Lightning 2.6 asks torch's pytree in a way that torch 2.15 calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

SHARED = Path(__file__).parents[2] / "shared" / "data"


def needs(folder):
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"no {folder} in {SHARED}")


def take(loader, count):
    """The next ``count`` batches, over as many epochs as it takes."""
    batches = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


class Numbers(DataModule):
    """Images (1, 2, 3) whose pixels are their number."""

    def __init__(self, size=10, **options):
        super().__init__(**options)
        self.count = size

    def describe(self):
        return DataSpec(shape=(1, 2, 3), size=self.count)

    def splits(self):
        x = torch.arange(self.count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous()
        return {name: Tensors(x=x) for name in ("train", "val", "test")}


def on_rank(data, rank, world):
    """As if a trainer with several devices held it."""
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, training=True)
    return data


# Order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (10, 10), (7, 16), (1, 5), (3, 128)])
def test_every_pass_has_every_example_once(size, batch):
    order = Order(size, batch, seed=0)
    batches = [order.batch(n) for n in range(5 * size)]
    assert all(len(b) == batch for b in batches)
    stream = torch.cat(batches)
    for epoch in stream[: len(stream) // size * size].view(-1, size):
        assert epoch.sort().values.tolist() == list(range(size))


def test_order_follows_from_seed_and_epoch():
    assert Order(50, 8, seed=3).batch(40).tolist() == Order(50, 8, seed=3).batch(40).tolist()
    assert not torch.equal(Order(50, 8, seed=3).permutation(0), Order(50, 8, seed=4).permutation(0))
    assert not torch.equal(Order(50, 8, seed=3).permutation(0), Order(50, 8, seed=3).permutation(1))


def test_order_goes_back_as_well_as_forward():
    order = Order(10, 4, seed=0)
    forward = [order.batch(n).tolist() for n in range(20)]
    assert [order.batch(n).tolist() for n in reversed(range(20))] == forward[::-1]


@pytest.mark.parametrize("world", [2, 3, 6])
def test_shares_of_the_ranks_make_the_global_batch(world):
    order = Order(10, 12, seed=0)
    for n in range(8):
        shares = [order.batch(n, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat(shares), order.batch(n))


# Loaders ----------------------------------------------------------------------------------------------------------


def test_length_of_an_epoch():
    assert [len(Numbers(size, batch_size=4).train_dataloader()) for size in (1, 4, 10, 12)] == [1, 1, 2, 3]


def test_no_example_is_dropped_over_epochs():
    data = Numbers(10, batch_size=4)
    seen = torch.cat([b["index"] for b in take(data.train_dataloader(), 5)])
    assert seen.bincount(minlength=10).tolist() == [2] * 10


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(workers):
    whole = indices(take(Numbers(batch_size=4).train_dataloader(), 9))
    data = Numbers(batch_size=4, num_workers=workers)
    first = indices(take(data.train_dataloader(), 3))
    assert data.state_dict()["batches"] == 3
    resumed = Numbers(batch_size=4, num_workers=workers)
    resumed.load_state_dict(data.state_dict())
    assert first + indices(take(resumed.train_dataloader(), 6)) == whole


def test_workers_deliver_the_same_and_count_what_is_handed_out():
    data = Numbers(batch_size=4, num_workers=2)
    loader = data.train_dataloader()
    state = torch.get_rng_state()
    got = take(loader, 5)
    assert torch.equal(torch.get_rng_state(), state), "the loader drew from the global generator"
    assert data.position.batches == 5
    assert indices(got) == indices(take(Numbers(batch_size=4).train_dataloader(), 5))
    data.load_state_dict({"batches": 1})  # set back while workers are ahead
    assert indices(take(loader, 1)) == indices(got[1:2])
    plain = indices(Numbers(batch_size=4).val_dataloader())
    assert indices(data.val_dataloader()) == plain
    data.teardown("fit")


@pytest.mark.parametrize(("size", "batch", "world"), [(10, 4, 2), (9, 4, 4), (1, 4, 2), (8, 4, 1)])
def test_evaluation_has_every_example_once_and_nothing_twice(size, batch, world):
    source = Tensors(x=torch.arange(size))
    ranks = [EvalLoader(source, batch, rank, world, 0, print) for rank in range(world)]
    for loader in ranks:
        assert len(list(loader)) == len(loader)
    found = sorted(k for loader in ranks for b in indices(loader) for k in b)
    assert found == [-1] * max(0, world - size) + list(range(size))  # -1 on ranks without an example
    if world == 1:
        assert [k for b in indices(ranks[0]) for k in b] == list(range(size))


def test_batch_size_that_devices_do_not_divide():
    with pytest.raises(UserError, match="3 devices do not divide"):
        on_rank(Numbers(batch_size=4), 0, 3).train_dataloader()


@pytest.mark.parametrize("options", [{"flip": True}, {"binarize": "dynamic"}, {"flip": True, "binarize": "dynamic"}])
def test_two_ranks_draw_what_one_draws(options):
    def batches(rank, world):
        data = on_rank(Digits(batch_size=16, seed=1, **options), rank, world)
        loader = data.train_dataloader()
        return [data.on_after_batch_transfer(batch, 0)["x"] for batch in loader][:5]

    for whole, *halves in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(torch.cat(halves), whole)


# A real Trainer ---------------------------------------------------------------------------------------------------


class Saver(L.Callback):
    """Saves after one batch of the run."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class Listener(L.LightningModule):
    """Learns nothing, writes down what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.valid = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["index"].tolist(), batch["x"].sum().item()))
        return self.weight * batch["x"].mean()

    def validation_step(self, batch, batch_idx):
        self.valid.append((batch["index"].tolist(), batch["x"].sum().item()))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
    "enable_checkpointing": False,
}


@pytest.mark.parametrize("stop", [1, 5, 6, 9])
@pytest.mark.parametrize("workers", [0, 2])
def test_trainer_resumes_inside_an_epoch(tmp_path, stop, workers):
    def data():
        return Digits(batch_size=200, flip=True, binarize="dynamic", seed=2, num_workers=workers)  # 6 batches per epoch

    whole, rest = Listener(), Listener()
    path = tmp_path / "a.ckpt"
    L.Trainer(max_epochs=3, callbacks=Saver(stop, path), **QUIET).fit(whole, data())
    assert torch.load(path, weights_only=True)["Digits"]["batches"] == stop
    L.Trainer(max_epochs=3, **QUIET).fit(rest, data(), ckpt_path=path, weights_only=True)
    assert len(whole.seen) == 18
    assert rest.seen == whole.seen[stop:]
    assert whole.valid[-1] == whole.valid[-2]


def test_trainer_accepts_one_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    model = Listener()
    with pytest.warns(UserWarning, match="training examples stand in"):
        L.Trainer(max_epochs=2, **QUIET).fit(model, Folder(str(tmp_path), size=8, batch_size=4))
    assert [index for index, _ in model.seen] == [[0] * 4] * 2
    assert model.valid[-1][0] == [0]


# Scale, flip, binarise --------------------------------------------------------------------------------------------


def test_images_become_floats_in_minus_one_to_one():
    data = Numbers(256, batch_size=256)
    batch = next(iter(data.val_dataloader()))
    assert batch["x"].dtype == torch.uint8
    x = data.on_after_batch_transfer(batch, 0)["x"]
    assert x.dtype == torch.float32
    assert torch.allclose(x[:, 0, 0, 0], torch.linspace(-1, 1, 256), atol=1e-6)


def test_dynamic_binarisation_has_the_pixels_mean():
    data = Digits(batch_size=1300, binarize="dynamic")
    loader = data.train_dataloader()
    total, rounds = torch.zeros(1300, 1, 8, 8), 200
    for _ in range(rounds):
        batch = next(iter(loader))
        x = data.transform(batch, training=True)["x"]
        assert set(x.unique().tolist()) == {-1.0, 1.0}
        total[batch["index"]] += (x + 1) / 2
    grey = next(iter(Digits(batch_size=1300).train_dataloader()))
    p = torch.zeros_like(total)
    p[grey["index"]] = grey["x"] / 255
    assert torch.equal(total[p == 0], torch.zeros_like(total[p == 0]))
    assert (total[p == 1] == rounds).all()
    z = (total / rounds - p)[(p > 0) & (p < 1)] / (p * (1 - p) / rounds).sqrt()[(p > 0) & (p < 1)]
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02


def test_validation_is_binarised_once_and_alike_in_all_runs():
    first, second = (Digits(binarize="dynamic", seed=seed, batch_size=b) for seed, b in ((0, 50), (1, 128)))
    a, b = (torch.cat([batch["x"] for batch in data.val_dataloader()]) for data in (first, second))
    assert torch.equal(a, b)
    assert set(a.unique().tolist()) == {0, 255}
    assert first.spec.values == "binary"
    assert not torch.equal(a, torch.cat([batch["x"] for batch in first.test_dataloader()])[:200])
    grey = torch.cat([batch["x"] for batch in Digits().val_dataloader()])
    assert abs(a.float().mean() - grey.float().mean()) < 3


def test_threshold():
    data = Numbers(256, batch_size=256, binarize="threshold")
    x = data.transform(next(iter(data.val_dataloader())))["x"][:, 0, 0, 0]
    assert x.tolist() == [-1.0] * 128 + [1.0] * 128


def test_flips_mirror_half_of_the_training_images_and_no_others():
    data = Digits(batch_size=1300, flip=True)
    batch = next(iter(data.train_dataloader()))
    plain = data.transform(batch)["x"]
    x = data.transform(batch, training=True)["x"]
    mirrored = (x == plain.flip(-1)).flatten(1).all(1)
    same = (x == plain).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 550 < mirrored.sum() < 750


def test_options_that_do_not_fit():
    with pytest.raises(UserError, match="binarize needs images"):
        Toy(binarize="dynamic").setup()
    with pytest.raises(UserError, match="flip needs images"):
        _ = Toy(flip=True).spec
    with pytest.raises(UserError, match="did you mean 'dynamic'"):
        Digits(binarize="dynamical")
    with pytest.raises(UserError, match="batch_size 0"):
        Digits(batch_size=0)


# Sets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"folder", "unpaired", "paired"}))
def test_spec_before_setup(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, options = resolve_dataset(name)
    module, _, cls = path.rpartition(".")
    data = getattr(__import__(module, fromlist=[cls]), cls)(**options)
    assert isinstance(data, DataModule)
    assert data.spec.size > 1000
    assert not data._splits
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [Digits, Toy, Shapes], ids=lambda make: make.__name__)
def test_batches_are_as_the_spec_says(make):
    data = make(batch_size=32)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        spec = data.spec
        assert batch["x"].shape == (32, *spec.shape)
        assert batch["index"].shape == (32,)
        assert ("y" in batch) == bool(spec.num_classes)
        assert ("factors" in batch) == bool(spec.factors)
        if spec.num_classes:
            assert batch["y"].dtype == torch.int64
            assert 0 <= batch["y"].min() <= batch["y"].max() < spec.num_classes
    assert len(data._splits["train"]) == data.spec.size


def test_digits_splits_are_disjoint_and_complete():
    data = Digits()
    data.setup()
    rows = torch.cat([data._splits[name].rows for name in ("train", "val", "test")])
    assert rows.sort().values.tolist() == list(range(1797))
    assert [len(data._splits[name]) for name in ("train", "val", "test")] == [1300, 200, 297]
    x = data._splits["train"].source.columns["x"]
    assert x.max() == 255
    assert len(x.unique()) == 17


@pytest.mark.parametrize("name", POINTS)
def test_toy(name):
    data = Toy(name)
    data.setup()
    train, val = data._splits["train"].columns, data._splits["val"].columns
    assert train["x"].shape == (100_000, 2)
    assert not torch.equal(train["x"][:100], val["x"][:100])
    again = Toy(name, seed=7)
    again.setup()
    assert torch.equal(again._splits["train"].columns["x"], train["x"])
    if data.spec.num_classes:
        counts = train["y"].bincount(minlength=data.spec.num_classes)
        assert counts.min() > 0.9 * 100_000 / data.spec.num_classes
    if name in ("grid25", "ring8"):
        sigma = {"grid25": 0.05, "ring8": 0.02}[name]
        means = torch.stack([train["x"][train["y"] == k].mean(0) for k in range(data.spec.num_classes)])
        assert abs((train["x"] - means[train["y"]]).std() / sigma - 1) < 0.02
        lattice = means.round().div(2).round() * 2 if name == "grid25" else means / means.norm(dim=1, keepdim=True) * 2
        assert (means - lattice).abs().max() < 0.01
        assert len(means.div(0.1).round().unique(dim=0)) == data.spec.num_classes
    assert train["x"].abs().max() < {"grid25": 4.5, "ring8": 2.2, "swissroll": 2.1, "moons": 2.6}[name]


def test_shapes_splits_are_disjoint():
    data = Shapes()
    data.setup()
    rows = torch.cat([data._splits[name].rows for name in ("train", "val", "test")])
    assert torch.equal(rows.sort().values, torch.arange(SIZE))
    assert len(data._splits["val"]) == len(data._splits["test"]) == SIZE // 100


def test_shapes_factors_and_places():
    ids = torch.tensor([0, 1, 32, 1024, SIZE - 1])
    assert Rendered().fetch(ids)["factors"].tolist() == [
        [0] * 5,
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [n - 1 for n in FACTORS],
    ]
    batch = Rendered().fetch(torch.arange(0, SIZE, 997))
    x, factors = batch["x"].squeeze(1).double() / 255, batch["factors"]
    at = torch.arange(64) + 0.5
    for axis, k in ((x.sum(1), factors[:, 3]), (x.sum(2), factors[:, 4])):
        centre = (axis * at).sum(1) / axis.sum(1)
        squares_and_ellipses = factors[:, 0] < 2
        assert (centre - 16 - 32 * k / 31)[squares_and_ellipses].abs().max() < 0.35
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_shapes_with_fixed_factors_are_those_of_the_whole_set():
    data = Shapes(fixed={"shape": 1, "orientation": 3})
    data.setup()
    assert data.spec.factors == (6, 32, 32) and data.spec.size == 6144 - 2 * 614
    parts = [data.examples(split, torch.arange(data.size(split))) for split in ("train", "val", "test")]
    factors = torch.cat([part["factors"] for part in parts])
    assert len(factors.unique(dim=0)) == len(factors) == 6144
    some = parts[2]["factors"][:7]
    full = torch.stack([torch.full((7,), 1), some[:, 0], torch.full((7,), 3), some[:, 1], some[:, 2]], 1)
    assert torch.equal(parts[2]["x"][:7], render(full).float() / 127.5 - 1)
    for fixed, said in (
        ({"colour": 1}, "unknown factor 'colour'.*shape"),
        ({"scale": 6}, "fixed scale 6: possible are 0 to 5"),
        ({"shape": 0, "scale": 0, "orientation": 0, "x": 0, "y": 0}, "leaves 1 images"),
    ):
        with pytest.raises(UserError, match=said):
            Shapes(fixed=fixed)


def official_frames():
    """Factors of the frames of the official animation: scales up and down, orientations, a walk round the border."""
    up, k = list(range(6)), list(range(32))

    def walk(shape, places):
        scales = [(shape, s, 0, 0, 0) for s in up + up[::-1] + up]
        turns = [(shape, 5, o, 0, 0) for o in range(40)]
        return scales + turns + [(shape, 5, 0, x, y) for x, y in places] + [(shape, s, 0, 0, 0) for s in up[::-1]]

    border = [(0, y) for y in k] + [(x, 31) for x in k] + [(31, y) for y in k[::-1]] + [(x, 0) for x in k[::-1]]
    return torch.tensor(walk(2, border) + walk(1, []) + walk(0, []))


@needs("dsprites")
@pytest.mark.parametrize(
    ("shape", "allowed"), [(0, 0.0005), (1, 0.006), (2, 0.003)], ids=["square", "ellipse", "heart"]
)
def test_shapes_against_the_official_frames(shape, allowed):
    packed = np.load(SHARED / "dsprites" / "official_gif_frames_320x64x64.npz")["bits"]
    frames = torch.from_numpy(np.unpackbits(packed, axis=1)).view(320, 1, 64, 64) * 255
    factors = official_frames()
    chosen = factors[:, 0] == shape
    wrong = (render(factors[chosen]) != frames[chosen]).sum() / (frames[chosen] > 0).sum()
    assert wrong < allowed


@needs("mnist")
@pytest.mark.parametrize("unpacked", [False, True])
def test_mnist_from_files(tmp_path, unpacked):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(SHARED / "mnist" / "MNIST" / "raw", raw)
    raw.chmod(0o755)  # copied too, and that of a folder in which the user may write nothing
    data = MNIST(str(tmp_path), batch_size=1000)
    if unpacked:
        from torchvision.datasets import MNIST as Torchvision

        expected = Torchvision(tmp_path, download=True)
    before = sorted(raw.iterdir())
    os.chmod(raw, 0o555)
    data.prepare_data()
    data.setup()
    os.chmod(raw, 0o755)
    assert sorted(raw.iterdir()) == before
    assert [len(data._splits[name]) for name in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    val = next(iter(data.val_dataloader()))
    assert val["x"].shape == (1000, *data.spec.shape)
    assert val["y"].bincount().min() > 70
    if unpacked:
        assert torch.equal(val["x"].squeeze(1), expected.data[55_000:56_000])
        assert torch.equal(val["y"], expected.targets[55_000:56_000])


def test_mnist_offline(tmp_path, monkeypatch):
    import torchvision

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)
    with pytest.raises(UserError, match="no network") as error:
        MNIST(str(tmp_path)).prepare_data()
    for part in (str(tmp_path), "--data mnist --data.root DIR", "train-images-idx3-ubyte.gz", "--data digits"):
        assert part in str(error.value)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", refuse)
    with pytest.raises(UserError, match="--data cifar10 --data"):
        CIFAR10(str(tmp_path)).prepare_data()
    with pytest.raises(UserError, match="is missing"):
        MNIST(str(tmp_path)).setup()


def test_mnist_damaged(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8b truncated")
    data = MNIST(str(tmp_path))
    data.prepare_data()
    with pytest.raises(UserError, match="is damaged"):
        data.setup()


def test_cifar10_from_its_binary_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    row = np.arange(3073).astype(np.uint8)
    for k, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        rows = np.broadcast_to(row, (10_000, 3073)).copy()
        rows[:, 0] = k
        rows.tofile(folder / name)
    data = CIFAR10(str(tmp_path), batch_size=10_000)
    data.prepare_data()
    (test,) = data.test_dataloader()
    assert test["y"].unique().tolist() == [5]
    assert torch.equal(test["x"][7], torch.from_numpy(row[1:].copy()).view(3, 32, 32))
    (val,) = data.val_dataloader()
    assert val["y"].unique().tolist() == [4]
    (folder / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"data_batch_2\.bin is damaged"):
        CIFAR10(str(tmp_path)).setup()


# Folders ----------------------------------------------------------------------------------------------------------


def picture(path, size=(20, 12), colour=(200, 100, 50), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """60 pictures in two classes, the red channel tells which."""
    for k in range(60):
        name = "cats" if k % 2 else "dogs"
        picture(tmp_path / name / "deep" / f"{k}.png", colour=(k, 0, 0))
    return tmp_path


def spoil(folder):
    """A text that calls itself PNG, and half a JPEG."""
    (folder / "cats" / "text.png").write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "dogs" / "half.jpg")
    content = (folder / "dogs" / "half.jpg").read_bytes()
    (folder / "dogs" / "half.jpg").write_bytes(content[: len(content) // 2])


def test_folder_classes_and_splits(folder):
    data = Folder(str(folder), size=[6, 10], batch_size=8)
    assert data.spec.shape == (3, 6, 10)
    assert data.spec.num_classes == 2
    assert data.classes == ["cats", "dogs"]
    data.setup()
    parts = {name: data._splits[name].columns for name in ("train", "val", "test")}
    reds = torch.cat([part["x"][:, 0, 3, 3] for part in parts.values()])
    assert sorted(reds.tolist()) == list(range(60))
    for part in parts.values():
        assert len(part["x"])
        assert torch.equal(part["y"], 1 - part["x"][:, 0, 3, 3].long() % 2)
    assert data.spec.size == len(parts["train"]["x"])
    assert data.report() is None


def test_folder_from_workers_equals_memory(folder):
    whole = Folder(str(folder), size=8, batch_size=8, seed=1)
    lazy = Folder(str(folder), size=8, batch_size=8, seed=1, memory=0.0, num_workers=2)
    lazily = Folder(str(folder), size=8, batch_size=8, seed=1, memory=0.0, num_workers=0)
    for data in (lazy, lazily):
        for a, b in zip(take(whole.train_dataloader(), 9), take(data.train_dataloader(), 9), strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a)
        whole.load_state_dict({"batches": 0})
        for a, b in zip(whole.val_dataloader(), data.val_dataloader(), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)
        data.teardown("fit")


def test_split_stays_when_images_are_added():
    names = [f"{k}.png" for k in range(200)]
    few, many = split_by_hash(names[:100], 0.1), split_by_hash(names, 0.1)
    for part in ("train", "val", "test"):
        assert {names[k] for k in few[part]} <= {names[k] for k in many[part]}
    assert 8 < len(many["val"]) < 35
    for size in range(1, 30):
        parts = split_by_hash(names[:size], 0.1)
        assert sorted(k for part in parts.values() for k in part) == list(range(size))
        assert parts["train"]
        assert size < 3 or (parts["val"] and parts["test"])


def test_unreadable_images_are_named_and_counted(folder, capsys):
    spoil(folder)
    data = Folder(str(folder), size=8, batch_size=8)
    data.setup()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"skipped .*(text\.png|half\.jpg): cannot be read \(.*\); so are 1 more", line)
    assert sum(len(source) for source in data._splits.values()) == 60
    report = data.report()
    assert "2 of 62 images" in report and "text.png" in report and "half.jpg" in report
    with pytest.raises(UserError, match=r"cannot read .*(text\.png|half\.jpg)"):
        Folder(str(folder), size=8, on_error="raise").setup()


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_met_on_the_way(folder, workers, capsys):
    spoil(folder)
    data = Folder(str(folder), size=8, batch_size=8, memory=0.0, num_workers=workers)
    train = take(data.train_dataloader(), 2 * len(data.train_dataloader()))
    rest = [*data.val_dataloader(), *data.test_dataloader()]
    assert all(len(batch["x"]) == 8 for batch in train)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("skipped "), "told once"
    report = data.report()
    assert "2 of 62 images" in report and "text.png" in report and "half.jpg" in report
    assert data.spec.size + sum(len(batch["x"]) for batch in rest) in (60, 61, 62)
    data.teardown("fit")
    strict = Folder(str(folder), size=8, batch_size=60, memory=0.0, num_workers=workers, on_error="raise")
    with pytest.raises(UserError, match="cannot read"):
        [*take(strict.train_dataloader(), 2), *strict.val_dataloader(), *strict.test_dataloader()]
    strict.teardown("fit")


def test_folder_without_images(tmp_path):
    with pytest.raises(UserError, match=r"no image in .* looked for \.png"):
        _ = Folder(str(tmp_path)).spec
    with pytest.raises(UserError, match="no folder"):
        _ = Folder(str(tmp_path / "absent")).spec
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(UserError, match=r"none of the training images .*a\.png"):
        Folder(str(tmp_path)).setup()


@pytest.mark.parametrize("channels", [1, 3])
def test_modes_and_sizes(tmp_path, channels):
    for k, suffix in enumerate(SUFFIXES):
        mode = "L" if suffix == ".pgm" else "RGB"
        picture(tmp_path / f"plain{suffix}", size=(30 + k, 90 - k), colour=(100, 100, 100), mode=mode)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        picture(tmp_path / f"{mode}.png", colour=(255, 255, 255), mode=mode)
    picture(tmp_path / "cmyk.jpg", mode="CMYK")
    Image.fromarray(np.full((9, 9), 100 * 257, np.uint16)).save(tmp_path / "16.png")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / ".hidden.png").write_text("no image")
    data = Folder(str(tmp_path), size=[5, 7], channels=channels)
    colour = {name: data.reader(tmp_path / name) for name in data.names}
    assert ".hidden.png" not in colour
    assert {image.shape for image in colour.values()} == {(channels, 5, 7)}
    means = {name: float(image.mean()) for name, image in colour.items()}
    for name in ("1.png", "L.png", "LA.png", "P.png", "RGBA.png", "clear.png"):
        assert means[name] == 255, name
    for suffix in SUFFIXES:
        assert abs(means[f"plain{suffix}"] - 100) <= 3, suffix
    assert means["16.png"] == 100, "by its depth, for data of 8 bits"


def test_crops_and_exif(tmp_path):
    left_red = Image.new("RGB", (40, 20), "blue")
    left_red.paste("red", (0, 0, 10, 20))
    left_red.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise when shown
    left_red.save(tmp_path / "turned.png", exif=exif)
    center, stretch = (Folder(str(tmp_path), size=20, crop=crop).reader for crop in ("center", "stretch"))
    assert (center(tmp_path / "a.png")[0] < 30).all(), "the red quarter is cut off"
    assert stretch(tmp_path / "a.png")[0, :, :4].min() > 200
    assert stretch(tmp_path / "turned.png")[0, :4].min() > 200, "left is now on top"
    tall = Folder(str(tmp_path), size=[40, 20]).reader(tmp_path / "turned.png")
    assert (tall[0, :9] > 200).all()
    assert (tall[2, 11:] > 200).all()


def test_folder_options():
    for options in ({"size": [1, 2, 3]}, {"size": 0}, {"channels": 2}, {"val_fraction": 0.7}, {"crop": "middle"}):
        with pytest.raises(UserError):
            Folder(".", **options)


# Arrays and Datasets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "shape", "kind", "values"),
    [
        (np.full((20, 6, 5), 7, np.uint8), (1, 6, 5), "image", "uint8"),
        (np.full((20, 3, 6, 5), 7, np.uint8), (3, 6, 5), "image", "uint8"),
        (np.full((20, 6, 5, 3), 0.5, np.float64), (3, 6, 5), "image", "unit"),
        (np.full((20, 6, 5), True), (1, 6, 5), "image", "uint8"),
        (np.full((20, 4), -3.0, np.float32), (4,), "vector", "real"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays(tmp_path, array, shape, kind, values, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, x=array, y=np.arange(20) % 4)
    data = Arrays(str(path), batch_size=8)
    assert data.spec[:4] == (shape, kind, values, 16)
    assert data.spec.num_classes == (4 if suffix == ".npz" else 0)
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape == (8, *shape)
    x = data.transform(batch)["x"]
    expected = {7: 7 / 127.5 - 1, 0.5: 0.0, True: 1.0, -3: 0.0}[array.flat[0].item()]  # a column less its mean
    assert torch.allclose(x, torch.full_like(x, expected))


def test_unit_floats_are_binarised_too(tmp_path):
    np.save(tmp_path / "x.npy", np.full((4000, 4, 4), 0.25, np.float32))
    data = Arrays(str(tmp_path / "x.npy"), batch_size=400, binarize="dynamic")
    batch = next(iter(data.train_dataloader()))
    (val,) = data.val_dataloader()
    for x in (data.transform(batch, training=True)["x"], data.transform(val)["x"]):
        assert set(x.unique().tolist()) == {-1.0, 1.0}
        assert abs((x > 0).float().mean() - 0.25) < 0.03


def test_arrays_that_do_not_fit(tmp_path):
    def error(array, match, **more):
        path = tmp_path / ("x.npz" if more else "x.npy")
        np.savez(path, x=array, **more) if more else np.save(path, array)
        with pytest.raises(UserError, match=match):
            _ = Arrays(str(path)).spec

    error(np.zeros((4, 4), np.int32), "expected images")
    error(np.full((4, 4, 4), 255.0), r"hold the value 255: give the range, --data.range LOW HIGH")
    error(np.full((4, 4), np.nan), "not finite")
    error(np.zeros(4), "expected images")
    error(np.array([{}, {}], dtype=object), "cannot read")
    error(np.zeros((4, 4, 4), np.uint8), r"shape \(3,\): expected the classes of 4", y=np.zeros(3, int))
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(UserError, match="cannot read"):
        _ = Arrays(str(tmp_path / "short.npy")).spec


class Pairs(list):
    classes = ("a", "b", "c")


@pytest.mark.parametrize(
    ("item", "shape", "values"),
    [
        (lambda k: (Image.new("RGB", (5, 4), (k, 0, 0)), k % 3), (3, 4, 5), "uint8"),
        (lambda k: {"image": np.full((4, 5), k, np.uint8), "label": k % 3}, (1, 4, 5), "uint8"),
        (lambda k: (torch.full((3, 4, 5), k / 40), torch.tensor(k % 3)), (3, 4, 5), "unit"),
        (lambda k: (torch.full((3, 4, 5), k / 20 - 1), k % 3), (3, 4, 5), "real"),
        (lambda k: (np.full(2, float(k)), k % 3), (2,), "real"),
        (lambda k: torch.full((1, 4, 5), k, dtype=torch.uint8), (1, 4, 5), "uint8"),
    ],
)
def test_custom(item, shape, values):
    data = Custom(Pairs(item(k) for k in range(40)), batch_size=4)
    labelled = isinstance(item(0), tuple | dict)
    assert (data.spec.shape, data.spec.values, data.spec.size) == (shape, values, 32)
    assert data.spec.num_classes == (3 if labelled else 0)
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape == (4, *shape)
    assert ("y" in batch) == labelled
    numbers = torch.cat([data.parts[name] for name in ("train", "val", "test")])
    assert numbers.sort().values.tolist() == list(range(40))
    if values == "uint8":
        assert torch.equal(batch["x"][:, 0, 0, 0].long(), data.parts["train"][batch["index"]])


def test_custom_with_its_own_splits_and_odd_examples():
    train = [torch.rand(1, 4, 4) for _ in range(10)]
    data = Custom(train, val=train[:3], test=train[:2], batch_size=4)
    assert data.spec.size == 10
    assert [len(b["x"]) for b in data.val_dataloader()] == [3]
    odd = Custom([*train, torch.rand(1, 4, 5)], test=[torch.rand(1, 9, 9)])
    with pytest.raises(UserError, match=r"example 0 is .*\(1, 9, 9\)"):
        list(odd.test_dataloader())
    with pytest.raises(UserError, match="expected one of"):
        _ = Custom([{"picture": 1}]).spec


# Names ------------------------------------------------------------------------------------------------------------


def test_find(tmp_path):
    assert resolve_dataset("mnist") == ("lightning_gen.datamodules.mnist.MNIST", {})
    assert resolve_dataset("my_data.Faces") == ("my_data.Faces", {})
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        resolve_dataset("mnits")
    for name in ("absent.npy", "./absent", str(tmp_path / "absent")):
        with pytest.raises(UserError, match="does not exist"):
            resolve_dataset(name)


def test_loaders_alone_need_no_datamodule():
    source = Tensors(x=torch.arange(6))
    loader = TrainLoader(source, Order(6, 3, 0), Position(), 0, 1, 0, print)
    assert sorted(k for b in indices(loader) for k in b) == list(range(6))


# Workers

ORPHANS = """
import time
from lightning_gen.datamodules.loader import in_workers

class Long:
    def fetch(self, index):
        return {"index": index, "skipped": ["x" * 1_000_000]}  # more than a pipe holds

ahead = iter(in_workers(Long(), [[k] for k in range(100)], 2))
next(ahead)
print(*(worker.pid for worker in ahead._workers), flush=True)
time.sleep(100)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes in Linux' /proc")
def test_workers_end_with_their_process():
    """Killed, it cannot tell them; they wait for a pipe that nobody empties."""
    command = [sys.executable, "-c", ORPHANS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        workers = process.stdout.readline().split()
        assert workers and all(map(alive, workers))
        time.sleep(1)  # the pipe is full
        process.kill()
    give_up = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < give_up
        time.sleep(0.1)
