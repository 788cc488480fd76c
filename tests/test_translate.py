"""scripts/translate.py: sizes, names, nothing written over, and one clear line for each mistake."""

import os
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from translators import SPEC, Diverged, Mixing, Unchanged, saved

from lightning_gen.commands import translate
from lightning_gen.commands.translate import Job, of_one_size, padded, result_names
from lightning_gen.datamodules.decode import open_picture
from lightning_gen.datamodules.errors import UserError
from lightning_gen.drawing.images import save_png
from lightning_gen.exits import Incomplete
from lightning_gen.models.vae import VAE
from lightning_gen.presets import preset

TRUST = ["--trust", "translators"]
GREY = SPEC._replace(shape=(1, 16, 16))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place):
    return saved(Unchanged(SPEC), place / "run")


def picture(path, height, width, mode="RGB", seed=0, **options):
    """A file with random values, which it returns (H, W, ...)."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values, mode=None).save(path, **options)
    return values


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def translated(*arguments):
    translate.main([str(argument) for argument in [*arguments, *TRUST]])


# Pictures


def test_any_size_comes_back_as_it_was(place, run):
    sizes = [(1, 1), (7, 100), (31, 33), (16, 16), (5, 300), (8, 24), (16, 16)]
    values = {f"{k}.png": picture(place / f"in/{k}.png", *size, seed=k) for k, size in enumerate(sizes)}
    translated(run, "in", "--out", "out", "--batch", 2)
    assert names(place / "out") == sorted([*values, "grid.png"])
    for name, value in values.items():
        assert np.array_equal(pixels(place / "out" / name), value), name


@pytest.mark.parametrize("name", ["cyclegan", "pix2pix", "cut"])
def test_the_models_take_any_size(place, name):
    row = preset(name)
    module, _, cls = row.model.rpartition(".")
    spec = SPEC._replace(shape=(3, 32, 32), shape_b=(3, 32, 32), pairs="all")
    model = getattr(import_module(module), cls)(spec, **row.arguments)
    run = saved(model, place / "run")
    sizes = {"0.png": (1, 1), "1.png": (40, 33), "2.png": (32, 32), "3.png": (5, 70)}
    for k, size in enumerate(sizes.values()):
        picture(place / f"in/{k}.png", *size, seed=k)
    translated(run, "in", "out")
    assert {name: pixels(place / f"out/{name}").shape[:2] for name in sizes} == sizes
    x = torch.from_numpy(pixels(place / "in/2.png").copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        made = model.eval().translate(x)[0].permute(1, 2, 0)  # of the training size: nothing is added
    assert np.abs(pixels(place / "out/2.png") - ((made + 1) * 127.5).round().numpy()).max() <= 1


def test_any_mode_and_rotation_is_read(place, run):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter
    picture(place / "in/turned.jpg", 20, 30, exif=turned)
    picture(place / "in/grey.png", 9, 9, "L")
    values = picture(place / "in/clear.png", 9, 9, "RGBA")
    Image.fromarray(np.full((4, 4), 65535 // 3, np.uint16)).save(place / "in/deep.png")
    translated(run, "in", "out")
    assert pixels(place / "out/turned.png").shape == (30, 20, 3)
    grey = pixels(place / "out/grey.png")
    assert (grey == pixels(place / "in/grey.png")[..., None]).all()
    white = 255 - values[..., 3:] / 255 * (255.0 - values[..., :3])
    assert np.abs(pixels(place / "out/clear.png") - white).max() <= 1
    assert (pixels(place / "out/deep.png") == 85).all()


def test_sides_of_different_channels(place):
    run = saved(Unchanged(GREY), place / "run")
    colours = picture(place / "in/x.png", 10, 12)
    translated(run, "in", "there")  # a is grey
    made = pixels(place / "there/x.png")
    assert made.shape == (10, 12, 3) and (made[..., 0] == np.asarray(Image.fromarray(colours).convert("L"))).all()
    translated(run, "in", "back", "--direction", "b2a")
    assert np.array_equal(pixels(place / "back/x.png"), colours[..., 0])


def test_where_a_result_comes_from_is_in_it(place, run):
    picture(place / "in/sub/x.jpg", 9, 9)
    translated(run, "in", "out", "--direction", "b2a")
    for name in ("sub/x.png", "grid.png"):
        with Image.open(place / "out" / name) as image:
            text = image.text
        assert text["direction"] == "b2a" and text["model"] == "Unchanged" and len(text["checkpoint_sha256"]) == 64
        assert "trainedAlgorithmicMedia" in text["XML:com.adobe.xmp"]
    assert "original" not in text
    with Image.open(place / "out/sub/x.png") as image:
        assert image.text["original"] == "sub/x.jpg"


def test_size_resizes_first(place, run, capsys):
    picture(place / "in/x.png", 60, 90)
    picture(place / "in/y.png", 8, 8)
    for given, size in {"train": (16, 16), "24": (24, 24), "24x40": (24, 40)}.items():
        translated(run, "in", f"out{given}", "--size", given)
        assert pixels(place / f"out{given}/x.png").shape[:2] == pixels(place / f"out{given}/y.png").shape[:2] == size
    assert "warning" not in capsys.readouterr().err


def test_a_size_far_from_training_is_told_once(place, run, capsys):
    for k, side in enumerate((16, 33, 8, 60)):
        picture(place / f"in/{k}.png", side, 16)
    translated(run, "in", "out")
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "1.png and training differ in size, 33 x 16 and 16 x 16" in said


def test_the_borders_go_on_mirrored():
    x = torch.arange(5.0).view(1, 1, 1, 5)
    assert padded(x, 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert padded(x, 4)[0, 0].unique(dim=0).shape == (1, 8)  # of one row there is nothing to mirror
    assert padded(x[..., :2], 8)[0, 0, 0].tolist() == [0] + 7 * [1]
    assert padded(torch.zeros(2, 3, 8, 16), 8).shape == (2, 3, 8, 16)
    assert padded(torch.zeros(2, 3, 8, 17), 8, least=24).shape == (2, 3, 24, 24)


def test_pictures_of_one_size_go_together(place, run):
    def some(sizes):
        return [(Job(place, str(k), ""), torch.zeros(3, size, 8)) for k, size in enumerate(sizes)]

    batches = [[job.name for job, _ in batch] for batch in of_one_size(some([1, 2, 1, 1, 2, 3]), 2)]
    assert batches == [["0", "2"], ["1", "4"], ["3"], ["5"]]
    sizes = [*range(100), 99, 99]
    batches = [[job.name for job, _ in batch] for batch in of_one_size(some(sizes), 8)]
    assert (
        sorted(name for batch in batches for name in batch) == sorted(map(str, range(102)))
        and ["99", "100", "101"] in batches
    )


# Names


def test_names_and_folders_are_kept(place, run):
    for name in ("a.jpg", "sub/b.webp", "sub/deep/c.v2.bmp"):
        picture(place / "in" / name, 9, 9)
    (place / "in/notes.txt").write_text("no picture")
    translated(run, "in", "out", "--no-grid")
    assert names(place / "out") == ["a.png", "sub/b.png", "sub/deep/c.v2.png"]


def test_equal_names_are_told_apart(place, run):
    values = {name: picture(place / "in" / name, 9, 9, seed=k) for k, name in enumerate(("x.bmp", "x.png", "y.bmp"))}
    translated(run, "in", "out")
    assert names(place / "out") == ["grid.png", "x.bmp.png", "x.png.png", "y.png"]
    assert all(np.array_equal(pixels(place / f"out/{name}.png"), values[name]) for name in ("x.bmp", "x.png"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["x.jpg", "sub/x.jpg"], ["x.png", "sub/x.png"]),
        (["X.jpg", "x.png"], ["X.jpg.png", "x.png.png"]),
        (["x.jpg", "x.png", "x.jpg.gif"], ["x.jpg_2.png", "x.png.png", "x.jpg.png"]),
        (["x.jpg", "x.JPG"], ["x.jpg.png", "x.JPG_2.png"]),
    ],
)
def test_names_of_results(given, expected):
    assert result_names(given) == expected
    assert len({name.lower() for name in result_names(given)}) == len(given)


def test_the_grid_takes_no_name_of_a_picture(place, run):
    value = picture(place / "in/grid.bmp", 9, 9)
    for k in range(20):
        picture(place / f"in/{k}.png", 16, 16, seed=k)
    translated(run, "in", "out")
    assert np.array_equal(pixels(place / "out/grid.png"), value)
    assert pixels(place / "out/grid_2.png").shape == (24 + 2 * (2 * 66) + 4, 8 * 66 + 2, 3)  # two lines of 8 pairs


def test_files_folders_and_patterns(place, run, capsys):
    for name in ("in/a.png", "in/b.jpg", "in/sub/c.png"):
        picture(place / name, 9, 9)
    translated(run, "in/b.jpg", "--out", "one", "--no-grid")
    assert names(place / "one") == ["b.png"]
    translated(run, "in/**/*.png", "--out", "some", "--no-grid")
    assert names(place / "some") == ["a.png", "sub/c.png"]
    translated(run, place / "in/*", "--out", "top", "--no-grid")
    assert names(place / "top") == ["a.png", "b.png"]
    translated("--no-grid", run, "in", "--direction", "b2a", "all")
    assert len(names(place / "all")) == 3
    assert "1 of 1 pictures translated a2b by" in capsys.readouterr().out


def test_results_below_the_pictures_are_no_pictures(place, run):
    picture(place / "in/a.png", 9, 9)
    translated(run, "in", "in/out")
    translated(run, "in", "in/out", "--force")
    assert names(place / "in") == ["a.png", "out/a.png", "out/grid.png"]


# Nothing is lost


def test_nothing_is_written_over(place, run):
    for name in ("a.png", "b.png"):
        picture(place / "in" / name, 9, 9)
    picture(place / "out/b.png", 2, 2)
    before = (place / "out/b.png").read_bytes()
    with pytest.raises(UserError, match=r"out holds results already \(b.png\).*--force"):
        translated(run, "in", "out")
    assert names(place / "out") == ["b.png"] and (place / "out/b.png").read_bytes() == before
    (place / "out/b.png").rename(place / "out/grid.png")
    with pytest.raises(UserError, match=r"\(grid.png\)"):
        translated(run, "in", "out")
    translated(run, "in", "out", "--no-grid")  # another file may lie there
    translated(run, "in", "out", "--force")
    assert names(place / "out") == ["a.png", "b.png", "grid.png"] and (place / "out/b.png").read_bytes() != before


def test_the_pictures_themselves_are_safe(place, run):
    picture(place / "in/a.png", 9, 9)
    picture(place / "in/b.jpg", 9, 9)
    before = (place / "in/a.png").read_bytes()
    for given, out in (("in", "in"), ("in", "./in/"), ("in/a.png", "in"), ("in/*.png", "in")):
        with pytest.raises(UserError, match="give another folder"):
            translated(run, given, out, "--force")
    assert names(place / "in") == ["a.png", "b.jpg"] and (place / "in/a.png").read_bytes() == before
    translated(run, "in/b.jpg", "in", "--no-grid")
    assert names(place / "in") == ["a.png", "b.jpg", "b.png"]


def test_no_half_written_picture_stays(place, run, monkeypatch):
    picture(place / "in/a.png", 9, 9)

    def interrupted(image, file, *_, **__):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        translated(run, "in", "out")
    assert os.listdir(place / "out") == []


def test_broken_pictures_are_named_and_the_rest_is_translated(place, run, capsys):
    picture(place / "in/a.png", 9, 9)
    (place / "in/b.png").write_bytes(b"no picture")
    (place / "in/c.png").write_bytes((place / "in/a.png").read_bytes()[:60])
    with pytest.raises(Incomplete, match=r"^skipped 2 of 3 files; the first: cannot read b\.png: "):
        translated(run, "in", "out")
    assert names(place / "out") == ["a.png", "grid.png"]
    assert "1 of 3 pictures translated" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"cannot read b\.png: .*without --strict"):
        translated(run, "in", "strict", "--strict", "--no-grid")
    (place / "in/a.png").unlink()
    with pytest.raises(UserError, match=r"none of 2 files can be taken, the first: cannot read b\.png"):
        translated(run, "in", "none")
    assert not (place / "none").exists()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in", "out", "--direction", "b2c"], ["unknown --direction of this Unchanged 'b2c'", "a2b, b2a"]),
        (["nowhere", "out"], ["no picture and no folder at nowhere"]),
        (["nowhere/*.png", "out"], ["no picture matches nowhere/*.png"]),
        (["empty", "out"], ["no picture in empty"]),
        (["in"], ["--out OUT"]),
        (["in", "out", "--out", "out"], ["give one folder"]),
        (["in/a.png", "in/b.png", "in/c.png", "out"], ["4 paths", "quotes"]),
        (["in/a.png", "file"], ["file is a file"]),
        (["in", "taken"], ["taken/a.png is a folder"]),
        (["in", "out", "--size", "big"], ["--size big", "256x320"]),
        (["in", "out", "--batch", "0"], ["--batch 0"]),
        (["in", "out", "--device", "gpu9"], ["--device gpu9"]),
        (["in", "out", "--directoin", "a2b"], ["--directoin"]),
    ],
)
def test_mistakes_are_one_line(place, run, arguments, words):
    picture(place / "in/a.png", 9, 9)
    (place / "empty").mkdir()
    (place / "taken/a.png").mkdir(parents=True)
    (place / "file").write_text("")
    with pytest.raises(UserError) as error:
        translated(run, *arguments)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value
    assert not (place / "out").exists()


def test_models_that_do_not_translate_or_diverged(place):
    picture(place / "in/a.png", 9, 9)
    vae = saved(VAE(SPEC._replace(shape_b=(), pairs="none"), **preset("vae").arguments), place / "vae")
    with pytest.raises(UserError, match="VAE does not translate pictures: cyclegan"):
        translated(vae, "in", "out")
    with pytest.raises(UserError, match="not finite: has the model diverged"):
        translated(saved(Diverged(SPEC), place / "diverged"), "in", "out")
    with pytest.raises(UserError, match=r"'b2a': known: a2b"):
        translated(saved(Mixing(SPEC), place / "mixing"), "in", "out", "--direction", "b2a")
    assert not (place / "out").exists()


def test_the_script_ends_with_status_2(place, run, script):
    picture(place / "in/a.png", 9, 9)
    assert "translated a2b" in script("translate", run, "in", "out", *TRUST).stdout
    again = script("translate", run, "in", "out", *TRUST, ok=False)
    assert again.returncode == 2 and again.stderr.startswith("error: out holds results already")


def test_a_pattern_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "g/sub").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "y.png")
    with pytest.raises(UserError, match="behind a wildcard"):
        translate.list_jobs(f"{tmp_path}/g/*/../../y.png", tmp_path / "out")


def test_pictures_of_16_bits_stay_what_they_are(place):
    """All of their levels pass, and results are files of 16 bits."""
    spec = SPEC._replace(values="unit", range=(0.0, 65535.0), bits=16)
    run = saved(Unchanged(spec), place / "deep_run")
    deep = np.random.default_rng(0).integers(0, 65536, (3, 9, 11), dtype=np.int32)
    (place / "in").mkdir()
    save_png(torch.from_numpy(deep), place / "in" / "a.png")
    translated(run, "in", "out")
    assert np.array_equal(open_picture(place / "out" / "a.png").pixels, deep.transpose(1, 2, 0))


def test_label_maps_are_resized_without_new_colours(place, run):
    labels = np.random.default_rng(0).choice([0, 90, 200], (40, 40)).astype(np.uint8)
    (place / "in").mkdir()
    Image.fromarray(labels).save(place / "in" / "a.png")
    translated(run, "in", "out", "--size", "16", "--interpolation", "nearest")
    assert set(np.unique(pixels(place / "out" / "a.png"))) == {0, 90, 200}


def test_pictures_above_the_limit_are_named(place, run):
    picture(place / "in/large.png", 30, 30)
    picture(place / "in/small.png", 9, 9)
    with pytest.raises(Incomplete, match=r"cannot read large\.png: ValueError: 900 pixels, more than the limit of 500"):
        translated(run, "in", "out", "--max_pixels", "500")
    assert names(place / "out") == ["grid.png", "small.png"]
