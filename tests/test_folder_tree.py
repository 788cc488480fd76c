"""One folder with all that a folder of pictures may hold, as every data set and every command sees it."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_older
from PIL import Image
from translators import SPEC, Unchanged, saved

from lightning_gen.datamodules.example_files import find_examples
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.unpaired import Unpaired
from lightning_gen.models.vae import VAE

BIRD = os.fsdecode(b"b\xefrd")  # no UTF-8
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs, or no such names")


def picture(path, value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path, **options)


def pages(path, count):
    more = [Image.new("RGB", (16, 16), (k, 90, 200)) for k in range(1, count)]
    picture(path, save_all=True, append_images=more)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The folder ``set [v1]``, with splits; the working folder is the one that holds it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "set [v1]"
    for k in range(12):
        picture(root / "train" / "dog" / f"{k}.png", k)
        picture(tmp_path / "elsewhere" / "deep" / f"{k}.png", 20 + k)
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    for k in range(3):
        picture(root / "train" / BIRD / os.fsdecode(b"\xff%d.png" % k), 40 + k)
    for name in ("dog", BIRD):
        picture(root / "test" / name / "t[1].png", 60)
    picture(root / "Validation" / "dog" / "v.jfif", 70, format="JPEG")
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails"):
        picture(root / hidden / "0.png")
        picture(root / "train" / hidden / "0.png")
        picture(root / "train" / "dog" / hidden / "0.png")
    (root / "train" / "dog" / "again").symlink_to(root)
    (root / "train" / "up").symlink_to(tmp_path)
    pages(root / "train" / "dog" / "scan.tif", 10)
    pages(root / "train" / "dog" / "moves.gif", 4)
    os.mkfifo(root / "train" / "dog" / "pipe.png")
    (root / "train" / "dog" / "broken.png").write_bytes(b"no picture")
    for name in ("a.heic", "b.HEIC", "notes.txt", "clip.mp4"):
        (root / "train" / "dog" / name).write_bytes(b"")
    picture(root / "stray.png")
    return root


TOLD = [
    "the folders train, Validation, test are the splits, not classes: train 30, val 1, test 2 pictures",
    "3 classes: b\\udcefrd (3), cat (12), dog (15)",
    "fewer than 10 training examples in 1 of them: b\\udcefrd (3); --data.balance true draws all classes equally",
    "of 2 files only the first page or frame is taken, 12 are not: such as set [v1]/train/dog/moves.gif, of 4; "
    "--data.pages all takes them too",
    "left out: 2 .heic (pip install pillow-heif), 1 .mp4, 1 .txt, 1 not a regular file, "
    "1 pictures beside the folders of the splits",
]


def test_what_folder_says_at_the_start_and_at_the_end(tree, script, recwarn):
    options = ["--data.size", 8, "--data.batch_size", 4, "--steps", 2, "--trainer.accelerator", "cpu"]
    said = script("fit", "--model", "cvae", "--data", tree.relative_to(tree.parent), *options)
    lines = said.stdout.splitlines()
    start = lines.index(TOLD[0])
    assert lines[start : start + 5] == TOLD and lines[start + 5] == ""
    broken = "skipped set [v1]/train/dog/broken.png: cannot be read "
    broken += "(UnidentifiedImageError: no format of pictures that Pillow knows)\n"
    assert said.stderr.startswith(broken) and said.stderr.count("\n") == 1
    assert "1 of 33 images in set [v1] could not be read: set [v1]/train/dog/broken.png" in lines
    assert not [str(warning.message) for warning in recwarn]
    (run,) = (tree.parent / "tb_logs").glob("cvae-set*/version_0")
    samples = script("sample", run, "-n", 2, "--class", BIRD, "dog", "--out", "made")
    with Image.open("made/00000.png") as first, Image.open("made/00001.png") as second:
        assert (first.text["class"], first.text["class_name"]) == ("0", "b\\udcefrd")
        assert (second.text["class"], second.text["class_name"]) == ("2", "dog")
    assert samples.stderr == "" or "warning" in samples.stderr
    unknown = script("sample", run, "--class", "cats", ok=False)
    assert unknown.returncode == 2
    assert unknown.stderr == "error: unknown class 'cats': did you mean 'cat'? known: b\\udcefrd, cat, dog, or 0 to 2\n"
    config = (run / "config.yaml").read_text(encoding="utf-8")
    assert "    pages: first\n" in config and "    balance: false\n" in config
    make_older(run, "pages", "balance")
    again = script("fit", "--resume", run, "--steps", 3)
    assert "going on from iteration 2" in again.stdout and TOLD[0] in again.stdout
    shutil.copytree(run, "ru\udcffn")
    script("compare", run, "ru\udcffn", "--out", "compared", "-n", 1, "--curve", "val/loss")
    assert "ru\\udcffn" in Path("compared/comparison.md").read_text(encoding="utf-8")
    refused = script("fit", "--resume", "ru\udcffn", "--steps", 4, ok=False)
    assert refused.returncode == 2 and "TensorBoard writes to no path that is not UTF-8" in refused.stderr


def test_what_the_splits_hold(tree):
    data = Folder(str(tree), size=8, pages="all")
    assert {split: len(names) for split, names in data.parts.items()} == {"train": 42, "val": 1, "test": 2}
    assert Counter(name.split("/")[1] for name in data.parts["train"]) == {BIRD: 3, "cat": 12, "dog": 27}
    assert data.parts["test"] == [f"test/{BIRD}/t[1].png", "test/dog/t[1].png"]
    assert {"train/cat/deep/3.png", "train/dog/scan.tif[9]", f"train/{BIRD}/\udcff2.png"} <= set(data.parts["train"])
    assert data.notices()[3] == (
        f"2 files of several pages or frames give 14 examples: such as {tree}/train/dog/moves.gif, of 4"
    )
    assert data.size("train") == 41 and data.spec.class_names == (BIRD, "cat", "dog")


def test_two_sides_follow_the_same_rules(tree, tmp_path):
    (tmp_path / "other").mkdir()
    for k in range(9):
        picture(tmp_path / "other" / f"{k}.png", k)
    same = {split: len(names) for split, names in Folder(str(tree)).parts.items()}
    for data in (Unpaired(str(tree), "other", size=8), Paired(root=str(tree), size=8, crop="stretch")):
        assert {split: len(paths) for split, paths in data.parts[0].items()} == same
        lines = data.notices()
        assert lines[-1].startswith("left out: 2 .heic (pip install pillow-heif), 1 .mp4, 1 .txt, 1 not a regular file")
        assert lines[-2].startswith("of 2 files only the first page or frame is taken, 12 are not")
        data.setup()
        assert [path.rpartition("/")[2] for path in data.skipped] == ["broken.png"]


NOT_TAKEN = "skipped 1 of 34 files; cannot read "
LEFT_OUT = "left out: 2 .heic (pip install pillow-heif), 1 .mp4, 1 .txt, 1 not a regular file"


def check_end(said, broken):
    assert said.returncode == 1 and "Traceback" not in said.stderr
    assert said.stderr.startswith(f"{NOT_TAKEN}{broken}") and said.stderr.count("\n") == 1, said.stderr
    assert LEFT_OUT in said.stdout.splitlines()


def test_the_commands_take_folders_files_and_patterns(tree, script, monkeypatch):
    run = saved(VAE(DataSpec((3, 16, 16), size=9), network="mlp", network_args={"hidden": [8]}), tree.parent / "vae")
    translator = saved(Unchanged(SPEC), tree.parent / "unchanged")
    trust = ["--trust", "translators"]
    assert len(find_examples(tree)) == 34
    check_end(script("reconstruct", run, tree, "--out", "rec", ok=False), f"{tree}/train/dog/broken.png as a picture")
    check_end(script("translate", translator, tree, "--out", "tr", *trust, ok=False), "train/dog/broken.png: ")
    results = {path.relative_to(tree.parent / "tr").as_posix() for path in (tree.parent / "tr").rglob("*.png")}
    rebuilt = {path.relative_to(tree.parent / "rec").as_posix() for path in (tree.parent / "rec").rglob("*.png")}
    assert rebuilt == results and len(results) == 34, "33 pictures and the grid"
    assert f"train/{BIRD}/\udcff1.png" in results
    with Image.open(tree.parent / "tr" / "train" / BIRD / "\udcff1.png") as made:
        assert made.text["original"] == "train/b\\udcefrd/\\udcff1.png"
    for command, model, more in (("reconstruct", run, []), ("translate", translator, trust)):
        for k, given in enumerate(("set [v1]/train/dog/?.png", "set [v1]/test/dog/t[1].png", "set*/test/*/t[[]1].png")):
            script(command, model, given, "--out", f"{command}{k}", "--which", "best", *more)
            assert len(list((tree.parent / f"{command}{k}").rglob("*.png"))) == (11, 2, 3)[k]
        strict = script(command, model, tree, "--out", f"{command}-strict", "--strict", *more, ok=False)
        assert strict.returncode == 2 and "broken.png" in strict.stderr and strict.stderr.count("\n") == 1
        nothing = script(command, model, "set [v1]/*.tga", "--out", "x", *more, ok=False)
        assert nothing.returncode == 2 and "matches set [v1]/*.tga" in nothing.stderr
        pipe = script(command, model, tree / "train/dog/pipe.png", "--out", "x", *more, ok=False)
        assert pipe.returncode == 2 and "is a pipe, a device or a socket" in pipe.stderr


def test_compress_takes_and_skips_alike(tree, script):
    pytest.importorskip("constriction")
    run = saved(VAE(DataSpec((3, 16, 16), size=9), network="mlp", network_args={"hidden": [8]}), tree.parent / "vae")
    said = script("compress", "encode", run, tree, "--out", "all.lgz", "--no-others", ok=False)
    assert said.returncode == 1 and said.stderr.startswith("skipped 3 of 34 files; the first: ")
    assert LEFT_OUT in said.stdout.splitlines()
    script("compress", "decode", "all.lgz", "--out", "back")
    names = [path.name for path in (tree.parent / "back").iterdir()]
    assert len(names) == 31 and any("\udcff1" in name for name in names)
    script("compress", "encode", run, f"set [v1]/train/{BIRD}/*.png", "--out", "some.lgz", "--no-others")
    script("compress", "decode", "some.lgz", "--out", "some")
    for k in range(3):
        with Image.open(tree.parent / "some" / f"\udcff{k}.png") as made:
            assert (np.asarray(made) == 40 + k).all()
    strict = script("compress", "encode", run, tree, "--out", "strict.lgz", "--strict", ok=False)
    assert strict.returncode == 2 and not (tree.parent / "strict.lgz").exists()


def test_results_are_never_written_over_what_is_read(tree, script):
    run = saved(VAE(DataSpec((3, 16, 16), size=9), network="mlp", network_args={"hidden": [8]}), tree.parent / "vae")
    dog = tree / "train" / "dog"
    before = (dog / "1.png").read_bytes()
    for given in (dog, dog / "1.png", f"{dog}/?.png"):
        refused = script("reconstruct", run, given, "--out", dog, ok=False)
        assert refused.returncode == 2 and "give another folder" in refused.stderr
    assert (dog / "1.png").read_bytes() == before and not (dog / "grid.png").exists()
    script("reconstruct", run, f"{dog}/?.png", "--out", dog / "results")
    once = len(find_examples(dog, dog / "results"))
    assert len(find_examples(dog)) == once + 11, "results below the folder are no input"


def test_pillow_keeps_silent_about_odd_files(tmp_path, recwarn):
    """A picture with damaged EXIF and one with a transparent palette are read, and nobody hears of it."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\x7f\xff\xff\xff\x7f"
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "exif.jpg", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF|Tag data"), Image.open(tmp_path / "exif.jpg") as image:
        image.getexif()
    Image.new("P", (16, 16)).save(tmp_path / "palette.png", transparency=bytes(range(256)))
    truncated = tmp_path / "metadata.tif"
    Image.new("RGB", (16, 16)).save(truncated)
    content = bytearray(truncated.read_bytes())
    truncated.write_bytes(content[:-30])
    for k in range(3):
        Image.new("RGB", (16, 16), (k, 0, 0)).save(tmp_path / f"{k}.png")
    for memory in (2.0, 0.0):
        data = Folder(str(tmp_path), size=8, memory=memory, num_workers=0)
        for split in ("train", "val", "test"):
            data.examples(split, torch.arange(data.size(split)))
        assert "exif.jpg" not in str(data.skipped) and "palette.png" not in str(data.skipped)
    assert not [str(warning.message) for warning in recwarn]
