"""Pages of files and frames of animations as examples."""

import os
import random

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.datamodules.decode import open_picture
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.image_files import split_by_hash
from lightning_gen.datamodules.images import read_image_info
from lightning_gen.datamodules.pages import count_pages, open_page, page_name, pages_of, split_page
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.unpaired import Unpaired

LOSSLESS = {".tif": {}, ".png": {}, ".webp": {"lossless": True}, ".gif": {}}


def save(path, values, size=(12, 12)):
    """A file with a page of each value, and another colour in each corner, so that frames do not merge."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [Image.new("RGB", size, (value, value, value)) for value in values]
    several = {"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}
    pages[0].save(path, **several, **LOSSLESS.get(path.suffix, {}))


def values(data, split):
    x = data.examples(split, torch.arange(data.size(split)))["x"]
    return sorted(x[:, 0, 4, 4].mul(127.5).add(127.5).round().int().tolist())


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp", ".gif"])
def test_each_page_is_read_in_any_order(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    save(path, range(10, 130, 10))
    assert count_pages(str(path)) == 12
    pages = [(page_name(str(path), k), 10 * (k + 1)) for k in range(12)]
    mixed = random.Random(0).sample(pages, 12)
    for name, value in [*pages, *mixed]:
        assert np.asarray(open_picture(name).in_8_bits().convert("L"))[3, 3] == value
        assert read_image_info(name)[:2] == (12, 12)
    with pytest.raises(EOFError):
        open_picture(page_name(str(path), 12))
    assert np.asarray(open_picture(pages[2][0]).in_8_bits().convert("L"))[3, 3] == 30, "also after an error"


def test_a_page_that_is_read_twice_keeps_its_depth(tmp_path):
    """A page that stayed open said nothing of its depth, so the second time 12 bits were taken for 16."""
    pages = [Image.fromarray(np.full((4, 4), 1000 * (k + 1), np.uint16)) for k in range(3)]
    pages[0].save(path := tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    for k in (1, 1, 0, 0, 2, 2):
        with open_page(page_name(str(path), k)) as image:
            assert image.tile, "not decoded before"
            assert np.asarray(image)[0, 0] == 1000 * (k + 1)


def test_files_of_one_picture_have_no_pages(tmp_path):
    for suffix in (".tif", ".png", ".webp", ".gif", ".jpg", ".bmp"):
        save(tmp_path / f"one{suffix}", [10])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    (tmp_path / "empty.webp").write_bytes(b"")
    (tmp_path / "long.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0junk\0\0\0\0" * 1000)
    assert pages_of(sorted(map(str, tmp_path.iterdir()))) == {}


def test_the_names_of_pages():
    assert split_page("a/scan.TIF[3]") == ("a/scan.TIF", 3)
    for plain in ("scan.tif", "scan[3].tif", "set [v1]/a.png", "a.jpg[1]", "a.tif[]", "a.tif[x]", "a.tif[-1]"):
        assert split_page(plain) == (plain, 0)


def test_a_file_is_closed_with_the_next_one(tmp_path):
    save(tmp_path / "a.tif", range(3))
    with open_page(f"{tmp_path}/a.tif[1]") as image:
        file = image.fp
    with open_page(f"{tmp_path}/a.tif[2]") as image:
        assert image.fp is file and not file.closed, "a later page of a file that is open"
    save(tmp_path / "b.tif", range(3))
    with open_page(f"{tmp_path}/b.tif[0]") as image:
        assert file.closed and not image.fp.closed
    save(tmp_path / "b.tif", range(100, 104))
    assert np.asarray(open_picture(f"{tmp_path}/b.tif[1]").in_8_bits().convert("L"))[3, 3] == 101, "written anew"


def test_workers_and_the_main_process_read_one_file(tmp_path):
    """A forked process would share the place in an open file with its parent."""
    names = [f"{k}.tif" for k in range(6)]
    long = names[split_by_hash(names, 0.1)["train"][0]]
    for name in names:
        save(tmp_path / name, range(200 if name == long else 1), (64, 64))
    data = Folder(str(tmp_path), size=64, pages="all", memory=0.0, num_workers=2, batch_size=8)
    value = torch.tensor([split_page(name)[1] for name in data.parts["train"]])
    with open_page(f"{tmp_path}/{long}[0]") as image:
        file = image.fp
    place = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    for batch in data.train_dataloader():
        assert torch.equal(batch["x"][:, 0, 9, 9].long(), value[batch["index"]])
    data.teardown("fit")
    assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == place


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_all_pages_of_a_file_are_in_one_split(tmp_path, memory):
    for k in range(25):
        save(tmp_path / "ab"[k % 2] / f"{k}.tif", range(10 * k, 10 * k + 1 + k % 5))
    options = {"size": 12, "memory": memory, "num_workers": 0}
    first, data = Folder(str(tmp_path), **options), Folder(str(tmp_path), pages="all", **options)
    assert data.spec.size == len(data.parts["train"]) > first.spec.size
    found = {split: values(data, split) for split in ("train", "val", "test")}
    every = [10 * k + page for k in range(25) for page in range(1 + k % 5)]
    assert sorted(value for seen in found.values() for value in seen) == every
    for split, seen in found.items():
        assert {value // 10 for value in seen} == {value // 10 for value in values(first, split)}
    labels = data.examples("train", torch.arange(data.size("train")))
    assert (labels["x"][:, 0, 0, 0].mul(127.5).add(127.5).round().long() // 10 % 2 == labels["y"]).all()
    assert "a/22.tif[2]" in data.names and "a/20.tif" in data.names
    assert int(data.class_counts().sum()) == data.spec.size
    told = f"20 files of several pages or frames give 70 examples: such as {tmp_path}/a/12.tif, of 3"
    assert data.notices()[1:] == [told]


def test_a_broken_page_is_left_out_alone(tmp_path):
    for k in range(6):
        save(tmp_path / f"{k}.tif", range(10 * k, 10 * k + 3))
    content = (tmp_path / "3.tif").read_bytes()
    (tmp_path / "3.tif").write_bytes(content[:-200])  # Pillow writes the directory of a page before its values
    data = Folder(str(tmp_path), size=12, pages="all")
    found = [value for split in ("train", "val", "test") for value in values(data, split)]
    assert {30, 31} <= set(found) and len(found) == 17 and list(data.skipped) == [f"{tmp_path}/3.tif[2]"]


def test_pages_of_two_sides(tmp_path):
    for k in range(6):
        save(tmp_path / "a" / f"{k}.tif", range(10 * k, 10 * k + 4), (24, 24))
        save(tmp_path / "b" / f"{k}.tif", range(10 * k + 100, 10 * k + 104), (24, 24))
    sides = {"a": str(tmp_path / "a"), "b": str(tmp_path / "b"), "size": 24, "pages": "all"}
    paired = Paired(**sides)
    batch = paired.examples("train", torch.arange(paired.size("train")))
    assert len(batch["a"]) == 16 and torch.allclose(batch["b"] - batch["a"], torch.tensor(100 / 127.5), atol=1e-5)
    unpaired = Unpaired(**sides)
    assert unpaired.spec.size == 16 and len(values(unpaired.side("b"), "train")) == 16
    save(tmp_path / "b" / "3.tif", range(100, 103), (24, 24))
    with pytest.raises(UserError, match=r"a/3\.tif holds 4 pages and its partner .*b/3\.tif 3: pairs need as many"):
        _ = Paired(**sides).spec
    assert Paired(**{**sides, "pages": "first"}).spec.size == 4
    save(tmp_path / "rows" / "0.tif", range(4), (48, 24))
    halves = Paired(root=str(tmp_path / "rows"), size=24, pages="all")
    assert halves.spec.size == 4
    with pytest.raises(UserError, match="unknown pages 'some'"):
        Folder(str(tmp_path), pages="some")
