"""What a folder of pictures holds: links, hidden folders, splits, other files, pages."""

import os

import pytest
import torch
from PIL import Image

from lightning_gen.commands.translate import list_jobs
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.example_files import find_examples
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.unpaired import Unpaired


def picture(path, red=0, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes of 10 pictures each."""
    for k in range(20):
        picture(tmp_path / "cls" / ("cat" if k % 2 else "dog") / f"{k}.png", k)
    return tmp_path / "cls"


def test_linked_folders_are_classes(root, tmp_path):
    for k in range(3):
        picture(tmp_path / "elsewhere" / "deep" / f"{k}.png", 100)
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    picture(tmp_path / "one.png")
    (root / "cat" / "linked.png").symlink_to(tmp_path / "one.png")
    data = Folder(str(root), size=8)
    assert data.classes == ["bird", "cat", "dog"]
    assert [name for name in data.names if name.startswith("bird")] == [f"bird/deep/{k}.png" for k in range(3)]
    assert "cat/linked.png" in data.names and len(data.names) == 24


def test_loops_end_and_no_picture_is_listed_twice(root, tmp_path):
    names = Folder(str(root)).names
    (root / "cat" / "again").symlink_to(root)
    (root / "a_dog").symlink_to(root / "dog")  # sorts before the folder itself
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(tmp_path / "other")
    (root / "other").symlink_to(tmp_path / "other")
    (root / "itself").symlink_to("itself")
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    assert Folder(str(root)).names == names


HIDDEN = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails")


def test_hidden_folders_are_neither_data_nor_classes(root, tmp_path):
    names = Folder(str(root)).names
    for name in HIDDEN:
        picture(root / name / "0.png")
        picture(root / "cat" / name / "deep" / "1.png")
    picture(root / "cat" / "._2.png")
    data = Folder(str(root))
    assert data.names == names and data.classes == ["cat", "dog"]
    assert [file.name for file in find_examples(root / "dog")] == sorted(f"{k}.png" for k in range(0, 20, 2))
    assert len(list_jobs(str(root), tmp_path / "out")) == len(list_jobs(f"{root}/**/*.png", tmp_path / "out")) == 20
    (tmp_path / "other").mkdir()
    picture(tmp_path / "other" / "a.png")
    for data in (Unpaired(str(root), str(tmp_path / "other")), Paired(root=str(root))):
        assert sum(len(paths) for paths in data.parts[0].values()) == 20
    picture(tmp_path / ".cache" / "a.png")
    assert Folder(str(tmp_path / ".cache")).names == ["a.png"], "a hidden folder that was asked for is one"


def test_a_pattern_below_a_folder_with_brackets(tmp_path):
    picture(tmp_path / "set [v1]" / "a" / "1.png")
    picture(tmp_path / "set [v1]" / "2.png")
    jobs = list_jobs(f"{tmp_path}/set [v1]/*.png", tmp_path / "out")
    assert [job.name for job in jobs] == ["2.png"]
    jobs = list_jobs(f"{tmp_path}/set [v1]/*/*.p?g", tmp_path / "out")
    assert [job.name for job in jobs] == ["a/1.png"]
    assert [job.name for job in list_jobs(f"{tmp_path}/*/[0-9].png", tmp_path / "out")] == ["set [v1]/2.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_only_regular_files_are_listed(root, tmp_path):
    names = Folder(str(root)).names
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "folder.png").mkdir()
    (root / "cat" / "broken.png").symlink_to("nothing")
    assert Folder(str(root)).names == names
    assert len(list_jobs(f"{root}/cat/*.png", tmp_path / "out")) == 10


def reds(data, split):
    """The pictures of a split, by their red, with their classes."""
    batch = data.examples(split, torch.arange(data.size(split)))
    red = batch["x"][:, 0, 0, 0].mul(127.5).add(127.5).round().int().tolist()
    return dict(zip(red, batch["y"].tolist(), strict=True))


def fill(folder, classes, reds):
    for k, red in enumerate(reds):
        picture(folder / classes[k % len(classes)] / f"{red}.png", red)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_train_val_and_test_are_the_splits(tmp_path, val):
    for name, part in {"train": range(20), val: range(20, 26), "test": range(26, 32)}.items():
        fill(tmp_path / name, ["cat", "dog"], part)
    data = Folder(str(tmp_path), size=8)
    assert data.spec.num_classes == 2 and data.spec.size == 20 and data.classes == ["cat", "dog"]
    assert reds(data, "train") == {k: k % 2 for k in range(20)}
    assert reds(data, "val") == {k: k % 2 for k in range(20, 26)}
    assert reds(data, "test") == {k: k % 2 for k in range(26, 32)}
    said = f"the folders train, {val}, test are the splits, not classes: train 20, val 6, test 6 pictures"
    assert data.notices() == [said, "2 classes: cat (10), dog (10)"]


def test_a_split_without_a_folder_is_held_out_of_train(tmp_path):
    fill(tmp_path / "train", ["cat", "dog"], range(40))
    fill(tmp_path / "test", ["dog"], range(40, 45))
    data = Folder(str(tmp_path), size=8)
    train, val = reds(data, "train"), reds(data, "val")
    assert sorted([*train, *val]) == list(range(40)) and val
    assert reds(data, "test") == dict.fromkeys(range(40, 45), 1)
    assert data.notices()[0].endswith("pictures; val held out of train")
    fill(tmp_path / "test", ["."], [45])
    data = Folder(str(tmp_path), size=8)
    assert data.classes == [] and data.spec.num_classes == 0
    assert data.notices()[1] == "no classes: 1 pictures lie in no class of train, the first: test/45.png"


def test_classes_that_are_called_as_splits(tmp_path):
    for name in ("bus", "car", "train"):
        fill(tmp_path / "vehicles", [name], range(5))
    assert Folder(str(tmp_path / "vehicles")).classes == ["bus", "car", "train"]
    fill(tmp_path / "answers", ["valid", "invalid"], range(10))
    assert Folder(str(tmp_path / "answers")).classes == ["invalid", "valid"]
    fill(tmp_path / "answers", ["test"], range(10))
    with pytest.raises(UserError, match="has a folder test, but no folder train"):
        _ = Folder(str(tmp_path / "answers")).spec


def test_all_that_pillow_reads_is_taken_and_the_rest_is_told(root):
    for k, suffix in enumerate((".jfif", ".JP2", ".tga", ".pcx", ".Jpe")):
        picture(root / "cat" / f"more{suffix}", 200 + k)
    for name in ("a.heic", "b.HEIC", "notes.txt", "labels.csv", "LICENSE", "c.txt", "film.mpg", "drawn.eps", "d.pdf"):
        (root / "dog" / name).write_bytes(b"nothing")
    data = Folder(str(root), size=8)
    assert [name for name in data.names if "more" in name] == sorted(
        f"cat/more{suffix}" for suffix in (".jfif", ".JP2", ".tga", ".pcx", ".Jpe")
    )
    found = {**reds(data, "train"), **reds(data, "val"), **reds(data, "test")}
    assert len(found) == 25 and data.report() is None
    heic = "2 .heic (pip install pillow-heif)"
    assert data.notices()[2:] == [f"left out: {heic}, 2 .txt, 1 .csv, 1 .eps, 1 .mpg, 1 .pdf, 1 others"]


def test_a_folder_of_other_files_alone_says_what_it_holds(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image in .*; there are 1 \.heic \(pip install pillow-heif\)$"):
        _ = Folder(str(tmp_path)).spec


def test_pictures_beside_the_splits_are_told(tmp_path):
    for name, count in (("train", 6), ("test", 3), ("old", 2)):
        fill(tmp_path / "rows" / name, ["."], range(count))
    for data in (Folder(str(tmp_path / "rows")), Paired(root=str(tmp_path / "rows"))):
        assert data.notices()[-1] == "left out: 2 pictures beside the folders of the splits"
    fill(tmp_path / "a", ["."], range(5))
    fill(tmp_path / "b", ["."], range(5))
    (tmp_path / "b" / "x.txt").write_text("")
    assert Unpaired(str(tmp_path / "a"), str(tmp_path / "b")).notices() == ["left out: 1 .txt"]


def test_pages_that_are_not_taken_are_told(root):
    pages = [Image.new("RGB", (12, 12), (k, 90, 200)) for k in range(10)]
    pages[0].save(root / "cat" / "scan.tif", save_all=True, append_images=pages[1:])
    pages[0].save(root / "dog" / "moves.webp", save_all=True, append_images=pages[1:4], lossless=True)
    pages[0].save(root / "dog" / "moves.gif", save_all=True, append_images=pages[5:7])
    for name in ("one.tif", "one.webp", "one.gif"):
        pages[0].save(root / "dog" / name)
    (root / "dog" / "broken.webp").write_bytes(b"RIFF")
    said = f"of 3 files only the first page or frame is taken, 14 are not: such as {root}/cat/scan.tif, of 10"
    assert Folder(str(root)).notices()[1:] == [f"{said}; --data.pages all takes them too"]
