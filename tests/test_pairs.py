"""Data of two sides: pairs that stay together, sides that run for themselves, and what is said of bad files."""

import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.datamodules import UserError, pixels
from lightning_gen.datamodules.coloured_digits import ColouredDigits
from lightning_gen.datamodules.order import Order, SideOrders
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.datamodules.pair_data import PairSource
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.unpaired import Unpaired

SHARED = Path(__file__).parents[2] / "shared" / "data"
SPLITS = ("train", "val", "test")


def seen(data, count):
    """The next ``count`` training batches as a model sees them."""
    batches, loader = [], data.train_dataloader()
    while len(batches) < count:
        for batch in loader:
            batches.append(data.transform(batch, training=True))
            if len(batches) == count:
                break
    data.teardown("fit")
    return batches


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def on_rank(data, rank, world):
    """As if a trainer with several devices held it."""
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, training=True)
    return data


def whole(data, split):
    """All examples of a split, as a validation sees them."""
    return data.examples(split, torch.arange(data.size(split)))


def noise(name, size=(16, 12)):
    """A picture of its own for each name: (H, W, 3) uint8."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, (*size, 3), dtype=np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def two(tmp_path):
    """Folders of 40 and of 25 pictures."""
    for side, count in (("horses", 40), ("zebras", 25)):
        for k in range(count):
            write(tmp_path / side / f"{k}.png", noise(f"{side}{k}"))
    return {"a": str(tmp_path / "horses"), "b": str(tmp_path / "zebras")}


@pytest.fixture
def rows(tmp_path):
    """40 pictures whose right half is the negative of the left one."""
    for k in range(40):
        left = noise(f"pair{k}")
        write(tmp_path / "rows" / f"{k}.png", np.concatenate([left, 255 - left], 1))
    return str(tmp_path / "rows")


@pytest.fixture
def halves(tmp_path):
    """The same pairs in two folders, side b as losslessly packed WebP."""
    for k in range(40):
        left = noise(f"pair{k}")
        write(tmp_path / "left" / f"{k}.png", left)
        (tmp_path / "right").mkdir(exist_ok=True)
        Image.fromarray(255 - left).save(tmp_path / "right" / f"{k}.webp", lossless=True)
    return {"a": str(tmp_path / "left"), "b": str(tmp_path / "right")}


CUT = {"size": [8, 10], "load_size": [16, 12], "batch_size": 8}


# Order, resume, ranks ---------------------------------------------------------------------------------------------


def test_each_side_is_covered_evenly_and_in_an_order_of_its_own():
    order = SideOrders((10, 7), 5, seed=3)
    stream = torch.cat([order.batch(n) for n in range(14)])  # (70, 2): seven passes of a, ten of b
    for column, size in zip(stream.unbind(1), (10, 7), strict=True):
        for one_pass in column.view(-1, size):
            assert sorted(one_pass.tolist()) == list(range(size))
    equals = torch.cat([SideOrders((50, 50), 10, seed=0).batch(n) for n in range(5)])
    assert 0 <= (equals[:, 0] == equals[:, 1]).sum() < 10, "the sides are shuffled alike"
    assert not torch.equal(equals[:, 0], Order(50, 50, 0).batch(0))


@pytest.fixture(params=["unpaired", "paired"])
def make(request, two, rows):
    """Both sets of files, cropped and flipped at random."""
    cls, place = {"unpaired": (Unpaired, two), "paired": (Paired, {"root": rows})}[request.param]
    return lambda **options: cls(**place, **CUT | {"flip": True, "seed": 2, **options})


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_the_ranks_make_the_global_batch(make, world):
    full = seen(on_rank(make(batch_size=12), 0, 1), 7)
    shares = [seen(on_rank(make(batch_size=12), rank, world), 7) for rank in range(world)]
    for batch, *parts in zip(full, *shares, strict=True):
        assert all(torch.equal(torch.cat([part[key] for part in parts]), batch[key]) for key in batch)


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_resume_gives_the_same_batches(make, memory):
    first, rest = (make(memory=memory, num_workers=2) for _ in range(2))
    got = seen(first, 4)
    rest.load_state_dict(first.state_dict())
    got += seen(rest, 5)
    assert all(equal(x, y) for x, y in zip(seen(make(), 9), got, strict=True))


def test_several_batches_at_once_are_the_same_batches(make):
    data = make()
    data.position.batches_per_fetch = 2
    blocks = seen(data, 2)
    for key in ("a", "b", "index"):
        assert torch.equal(torch.cat([batch[key] for batch in blocks]), torch.cat([b[key] for b in seen(make(), 4)]))


def test_files_read_when_needed_equal_those_in_memory(two, halves):
    for cls, place in ((Unpaired, two), (Paired, halves)):
        one, other = (cls(**place, **CUT, memory=memory, num_workers=0) for memory in (2.0, 0.0))
        batches = [[*data.train_dataloader(), *data.val_dataloader()] for data in (one, other)]
        assert all(equal(x, y) for x, y in zip(*batches, strict=True))


# Crops and flips --------------------------------------------------------------------------------------------------


def test_crop_is_a_part_of_the_picture():
    x = torch.arange(4 * 2 * 6 * 9).view(4, 2, 6, 9)
    assert torch.equal(pixels.crop(x, 2, 5), x[..., 2:4, 2:7])
    assert pixels.crop(x, 6, 9, torch.rand(4, 2)) is x
    corners = torch.tensor([[-1.0, -1.0], [1 - 2**-24, 1 - 2**-24], [-1, 0], [0.99, -0.99]])
    y = pixels.crop(x, 4, 5, corners)
    for k, (top, left) in enumerate([(0, 0), (2, 4), (0, 2), (2, 0)]):
        assert torch.equal(y[k], x[k, :, top : top + 4, left : left + 5])


@pytest.mark.parametrize("source", ["root", "folders"])
def test_pairs_are_cropped_and_flipped_alike(rows, halves, source):
    data = Paired(**({"root": rows} if source == "root" else halves), **CUT, flip=True)
    assert data.spec.pairs == "all" and data.spec.shape == data.spec.shape_b == (3, 8, 10)
    found = set()
    for batch in data.train_dataloader():
        out = data.transform(batch, training=True)
        assert torch.allclose(out["a"], -out["b"], atol=1e-6), "b is the negative of a"
        for stored, cut in zip(pixels.to_float(batch["a"], "uint8"), out["a"], strict=True):
            parts = stored.unfold(1, 8, 1).unfold(2, 10, 1)  # (3, 9, 3, 8, 10)
            same = [(parts == part[:, None, None]).all(-1).all(-1).all(0).nonzero() for part in (cut, cut.flip(-1))]
            ((flip, place),) = [(k, place) for k, places in enumerate(same) for place in places.tolist()]
            found.add((flip, *place))
    assert {flip for flip, *_ in found} == {0, 1} and len({tuple(place) for _, *place in found}) > 5
    central = data.transform(batch)
    assert torch.equal(central["a"], pixels.to_float(batch["a"][..., 4:12, 1:11], "uint8"))


def test_unpaired_sides_are_flipped_each_for_itself():
    data = OutlineShapes(batch_size=400, flip=True)
    batch = next(iter(data.train_dataloader()))
    out = data.transform(batch, training=True)
    moved = [(out[side] != pixels.to_float(batch[side], "uint8")).flatten(1).any(1) for side in "ab"]
    assert all(120 < side.sum() < 280 for side in moved)
    assert 120 < (moved[0] == moved[1]).sum() < 280


# Splits and sides -------------------------------------------------------------------------------------------------


def test_splits_of_unpaired_data(two):
    data = Unpaired(**two, size=[16, 12], batch_size=8)
    assert data.spec.pairs == "none" and data.spec.has_two_sides and not data._splits
    data.setup()
    assert data.spec.size == data.size("train") == max(data.side(s).size("train") for s in "ab")
    for name, count in (("a", 40), ("b", 25)):
        side = data.side(name)
        assert side.spec.kind == "image" and side.spec.shape == (3, 16, 12)
        images = torch.cat([whole(side, split)["x"] for split in SPLITS])
        assert len(images.unique(dim=0)) == len(images) == count, "splits are not disjoint, or repeat"
        x = torch.cat([batch["x"] for batch in side.val_dataloader()])
        assert x.dtype == torch.uint8 and len(x) == side.size("val")
    val, long = whole(data, "val"), data.size("val")
    assert val["index"].tolist() == list(range(long))
    for name in "ab":
        x = whole(data.side(name), "val")["x"]
        assert torch.equal(val[name], x[torch.arange(long) % len(x)]), "the shorter side is repeated from its start"
    assert not any(data.has_pairs(split) for split in SPLITS)


def test_a_side_shares_memory_and_is_cut_at_the_centre(two, rows):
    data = Unpaired(**two, **CUT)
    side = data.side("b")
    assert side._splits == {} and side._sources["train"].source is data._splits["train"].b
    stored = data._splits["train"].b.columns["x"][:3]
    for training in (False, True):
        out = side.transform(side._sources["train"].fetch(torch.arange(3)), training=training)
        assert torch.equal(out["x"], pixels.to_float(stored[..., 4:12, 1:11], "uint8"))
    pairs = Paired(root=rows, **CUT)
    assert torch.equal(whole(pairs.side("b"), "test")["x"], whole(pairs, "test")["b"])
    with pytest.raises(UserError, match="unknown side 'c'"):
        data.side("c")


def test_folders_of_splits(tmp_path):
    root = tmp_path / "root"
    for name, count in (("trainA", 12), ("trainB", 9), ("testA", 3), ("testB", 4)):
        for k in range(count):
            write(root / name / f"{k}.png", noise(f"{name}{k}"))
    data = Unpaired(root=str(root), size=[16, 12])
    assert [data.side(s).size("test") for s in "ab"] == [3, 4]
    assert [data.side(s).size("train") + data.side(s).size("val") for s in "ab"] == [12, 9]
    shutil.copytree(root / "testA", root / "valA")
    with pytest.raises(UserError, match=r"no folder .*valB"):
        _ = Unpaired(root=str(root)).spec
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for k in range(count):
            write(tmp_path / "rows" / split / f"{k}.png", noise(f"{split}{k}", (16, 32)))
    assert [Paired(root=str(tmp_path / "rows"), size=16).size(split) for split in SPLITS] == [6, 2, 3]


@pytest.mark.parametrize("make", [OutlineShapes, ColouredDigits, Unpaired, Paired])
def test_direction_swaps_the_sides(two, rows, make):
    options = {Unpaired: {**two, "size": 8}, Paired: {"root": rows, "size": 8}}.get(make, {})
    there, back = (make(**options, direction=direction) for direction in ("a2b", "b2a"))
    one, other = whole(there, "test"), whole(back, "test")
    assert torch.equal(one["a"], other["b"]) and torch.equal(one["b"], other["a"])
    assert torch.equal(whole(there.side("a"), "val")["x"], whole(back.side("b"), "val")["x"])
    with pytest.raises(UserError, match="unknown direction 'b2c': did you mean 'b2a'"):
        make(**options, direction="b2c")


# Files ------------------------------------------------------------------------------------------------------------


def error(match, cls, **options):
    """Preparing the data says so, in one line."""
    with pytest.raises(UserError, match=match) as raised:
        cls(**options).setup()
    assert "\n" not in str(raised.value)


def test_folders_that_do_not_fit(tmp_path, two, rows):
    (tmp_path / "empty").mkdir()
    for cls, kind in ((Unpaired, "unpaired"), (Paired, "paired")):
        error(f"{kind} data: neither --data.a nor --data.b: give --data.a FOLDER --data.b FOLDER", cls)
        error(f"{kind} data: --data.a alone: give", cls, a=two["a"])
        error(f"{kind} data: --data.b alone: give", cls, b=two["b"])
        error(f"{kind} data given twice, by --data.root", cls, **two, root=rows)
        error("no folder .*absent: expected images", cls, a=two["a"], b=str(tmp_path / "absent"))
        error("no image in .*empty", cls, a=str(tmp_path / "empty"), b=two["b"])
        error("no folder .*absent", cls, root=str(tmp_path / "absent"))
    error("no folder .*trainA: --data.root takes one .*; found: none; folders of other names", Unpaired, root=rows)
    error("found: empty, horses, rows, zebras", Unpaired, root=str(tmp_path))
    error("load_size 10 is smaller than size 12", Unpaired, **two, size=12, load_size=10)


def test_pairs_that_do_not_fit(tmp_path, rows, halves):
    for k in range(7):
        (tmp_path / "right" / f"{k}.webp").unlink()
    write(tmp_path / "right" / "extra.png", noise("extra"))
    said = r"7 only in .*left \(0, 1, 2, 3, 4, ...\) and 1 only in .*right \(extra\)"
    error(f"pairs need equal names, suffixes may differ: {said}", Paired, **halves)
    write(tmp_path / "left" / "1.jpg", noise("pair1"))
    error(r"left/1\.png and .*left/1\.jpg have one name|left/1\.jpg and .*left/1\.png", Paired, **halves)
    write(tmp_path / "wide" / "1.png", noise("1", (16, 24)))
    write(tmp_path / "tall" / "1.png", noise("1", (16, 12)))
    wide, tall = str(tmp_path / "wide"), str(tmp_path / "tall")
    error("16 high and 24 wide, .* 16 and 12: the sides of a pair need equal prop", Paired, a=wide, b=tall, size=8)
    write(tmp_path / "rows" / "odd.png", noise("odd", (16, 25)))
    error(r"1 of 41 pictures .* have an odd width and no two halves, the first: .*odd\.png, 25 wide", Paired, root=rows)
    error(r"half of .*1\.png is 16 high and 6 wide, which does not fit size 12x12", Paired, root=tall, size=12)


def test_pictures_smaller_than_the_crop(tmp_path, two, rows):
    write(tmp_path / "horses" / "small.png", noise("small", (7, 9)))
    said = r"1 of 41 pictures in .*horses are smaller than the crop, 8 high and 8 wide; the first, .*small\.png: 7 high"
    error(f"{said}, 9 wide; try --data.size 4, or --data.upscale true", Unpaired, **two, size=8)
    error(said, Unpaired, **two, size=8, load_size=9, memory=0.0)
    error(r"40 of 40 pictures in .*\(halves\) .*: 16 high, 12 wide; try --data.size 12,", Paired, root=rows, size=14)
    Unpaired(**two, size=8, upscale=True).setup()
    Unpaired(**two, size=7).setup()
    Paired(root=rows, size=64, upscale=True).setup()


def test_a_picture_on_its_side_is_measured_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a/1.png", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(noise("turned", (10, 20))).save(tmp_path / name, exif=exif)
    with pytest.warns(UserWarning, match="stand in"):
        Unpaired(str(tmp_path / "a"), str(tmp_path / "b"), size=[20, 10]).setup()
    error("the first, .*: 20 high, 10 wide", Unpaired, a=str(tmp_path / "a"), b=str(tmp_path / "b"), size=[10, 20])


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_conversions_are_said_once(tmp_path, two, memory):
    for k, mode in enumerate(["L", "L", "1", "RGBA", "CMYK", "P"]):
        Image.fromarray(noise(mode)).convert(mode).save(tmp_path / "zebras" / f"x{k}.tif")
    Image.fromarray(np.full((16, 12), 1000, np.uint16)).save(tmp_path / "zebras" / "deep.png")
    data = Unpaired(**two, size=12, memory=memory, num_workers=0)
    data.setup()
    said = "3 grey, 1 16-bit grey, 1 CMYK and 1 transparent images in"
    assert data.report() == f"{said} {two['b']} were converted to RGB"
    assert whole(data, "train")["b"].shape[1] == 3
    grey = Unpaired(**two, size=12, channels=1)
    grey.setup()
    assert f"40 colour images in {two['a']} were converted to grey" in grey.report()
    assert "16-bit" not in grey.report(), "it is grey, and keeps its values"


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_broken_pictures_are_named_and_counted(tmp_path, two, halves, memory, capsys):
    lazy = {"size": 12, "batch_size": 8, "memory": memory, "num_workers": 0}
    for folder, broken in (("horses", "7.png"), ("right", "11.webp"), ("left", "12.png")):
        (tmp_path / folder / broken).write_bytes((tmp_path / folder / broken).read_bytes()[:60])
    data = Unpaired(**two, **lazy)
    batches = [*seen(data, 10), *data.val_dataloader(), *data.test_dataloader()]
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"skipped .*horses/7\.png: cannot be read", line)
    assert data.report().startswith(f"1 of 65 images in {two['a']} and {two['b']} could not be read")
    assert all(len(batch["a"]) == len(batch["b"]) == len(batch["index"]) for batch in batches)
    assert all(len(batch["a"]) == 8 for batch in batches[:10]), "training batches stay full"
    pairs = Paired(**halves, **lazy)
    batches = [*seen(pairs, 10), *pairs.val_dataloader(), *pairs.test_dataloader()]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skipped ")
    (eleven, why), (twelve, _) = sorted(pairs.skipped.items())
    assert "left/11.png" in eleven and "right/11.webp" in why and "left/12.png" in twelve
    assert "2 of 40 pairs in" in pairs.report()
    for batch in batches:
        x, y = (batch[side] if batch[side].is_floating_point() else batch[side] / 127.5 - 1 for side in "ab")
        assert torch.allclose(x, -y, atol=1e-6), "sides of different pairs"
    for cls, place in ((Unpaired, two), (Paired, halves)):
        strict = cls(**place, **lazy, on_error="raise")
        with pytest.raises(UserError, match=r"cannot read .*--data\.on_error skip"):
            [*seen(strict, 10), *strict.val_dataloader(), *strict.test_dataloader()]


def test_a_broken_example_of_one_side_is_left_out_of_both():
    class Broken(Tensors):
        def fetch(self, index):
            batch = super().fetch(index[index % 3 > 0])
            return {**batch, "skipped": [(str(k), "broken") for k in index.tolist() if k % 3 == 0]}

    numbers = torch.arange(10)
    batch = PairSource(Tensors(x=numbers), Broken(x=numbers[:5])).fetch(numbers)
    assert batch["index"].tolist() == batch["a"].tolist() == [1, 2, 4, 6, 7, 9]
    assert batch["b"].tolist() == [1, 2, 4, 1, 2, 4]
    assert len(batch["skipped"]) == 4
    assert len(PairSource(Tensors(x=numbers), Tensors(x=numbers[:0]))) == 0


# Real pictures ----------------------------------------------------------------------------------------------------


def unpacked(name, folder):
    """A packed set beside the repository, if it is there."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    zipfile.ZipFile(path).extractall(folder)
    return str(folder)


def test_horses_and_zebras(tmp_path):
    data = Unpaired(root=unpacked("horse2zebra/horse2zebra-64.zip", tmp_path), load_size=64, size=56, batch_size=4)
    sides = [data.side(name) for name in "ab"]
    assert [side.size("test") for side in sides] == [120, 140]
    assert [side.size("train") + side.size("val") for side in sides] == [1067, 1334]
    assert all(batch["a"].shape == batch["b"].shape == (4, 3, 56, 56) for batch in seen(data, 2))


def test_facades(tmp_path):
    data = Paired(root=unpacked("facades/facades-128.zip", tmp_path), size=64, direction="b2a", batch_size=4)
    assert [data.size(split) for split in SPLITS] == [400, 100, 106]
    labels, photographs = (whole(data, "test")[side] for side in "ab")
    colour = [(x[:, 0] - x[:, 2]).abs().mean() for x in (labels, photographs)]
    assert colour[0] > 3 * colour[1], "labels, which lie right, are of strong colours"
