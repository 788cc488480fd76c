"""Kinds of data: one of a user's own works with every command, and nothing but kinds/ knows a modality."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT

from lightning_gen import VAE, load
from lightning_gen.adversarial.stability import suggestions
from lightning_gen.commands import evaluate, fit, reconstruct, sample
from lightning_gen.config import data_paths
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.config.default_model import fill_in, fitting_batch
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.example_files import find_all_examples, find_examples
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.spec import KINDS as DECLARED
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.exits import Incomplete
from lightning_gen.kinds import KINDS, kind_of, kinds_of_table, sheet
from lightning_gen.kinds.files import SkippedFiles, read_files, write_all
from lightning_gen.kinds.image import LEAST
from lightning_gen.models.cyclegan import CycleGAN
from lightning_gen.networks.dcgan import SMALLEST
from lightning_gen.training.module import GenerativeModule

IMAGES, POINTS = DataSpec((1, 8, 8)), DataSpec((2,), "vector", "real")
VAE_PATH, CYCLEGAN = "lightning_gen.models.vae.VAE", "lightning_gen.models.cyclegan.CycleGAN"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's folder with the kind of docs/your-own.md in a file."""
    (page,) = re.findall(
        r"^```python\n(# my_curves\.py\n.*?)^```$", (ROOT / "docs/your-own.md").read_text(), re.M | re.S
    )
    (tmp_path / "my_curves.py").write_text(page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_curves", None)
    yield tmp_path
    sys.modules.pop("my_curves", None)


def pictures(folder, count=12):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((20, 20, 3), 5 * k, np.uint8)).save(folder / f"{k}.png")
    return folder


def test_no_other_room_compares_kinds():
    names = "|".join(DECLARED)
    compared = re.compile(
        rf'kind\b["\w, )]*\s(?:==|!=|in|not in)\s[(\[{{]*"(?:{names})"|spec\.kind\s*(?:==|!=|in\b|not in\b)'
    )
    assert compared.search('if spec.kind == "image"') and compared.search('.get("kind", "image") != "vector"')
    files = [path for path in (ROOT / "lightning_gen").rglob("*.py") if "datamodules" not in path.parts]
    found = [
        path for path in files if path.parent.name not in ("kinds", "networks") and compared.search(path.read_text())
    ]
    assert len(files) > 100 and found == []


def test_the_table_is_of_declared_kinds_and_each_file_small():
    assert set(KINDS) <= set(DECLARED) and len(kinds_of_table()) == len(KINDS)
    assert all(len(path.read_text().splitlines()) <= 250 for path in (ROOT / "lightning_gen/kinds").glob("*.py"))


# One of the user's own


def test_a_kind_of_ones_own_works_with_every_command(place, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit.main(["--data", "my_curves.Waves", "--data.count", "300", "--steps", "4", "--trainer.accelerator", "cpu"])
    assert "no --model given: vae, the preset for curves" in capsys.readouterr().out
    (run,) = place.glob("tb_logs/*/version_0")
    tags = [EventAccumulator(str(path)).Reload().Tags() for path in run.glob("events*")]
    assert {"samples", "reconstructions", "interpolations"} <= {name for found in tags for name in found["images"]}
    assert {"samples_slopes"} <= {name for found in tags for name in found["histograms"]}
    with pytest.raises(UserError, match="--trust my_curves"):
        sample.main([str(run), "-n", "3"])
    sample.main([str(run), "-n", "3", "--trust", "my_curves", "--out", "made", "--traverse"])
    assert {path.name for path in (place / "made").iterdir()} == {
        *("00000.txt", "00001.txt", "00002.txt", "grid.png", "traversals.png")
    }
    assert np.loadtxt("made/00002.txt").shape == (48,) and "number 2" in (place / "made/00002.txt").read_text()
    made = [f"made/0000{k}.txt" for k in range(2)]
    reconstruct.main([str(run), *made, "--out", "again", "--trust", "my_curves"])
    assert {path.name for path in (place / "again").iterdir()} == {"00000.txt", "00001.txt", "grid.png"}
    small = ["-n", "30", "--k", "2", "--draws", "60", "--trust", "my_curves", "--device", "cpu"]
    evaluate.main([str(run), *small, "--metrics", "fd", "elbo"])
    assert {path.name for path in (run / "evaluation").iterdir()} == {"samples.png", "neighbours.png"}
    assert "fd_raw" in (run / "evaluation.json").read_text()


def test_a_path_to_no_kind_is_refused(place):
    for path, match in (("my_curves.Waves", "Kind"), ("my_curves.Absent", "cannot import kind of data")):
        with pytest.raises(UserError, match=match):
            VAE(DataSpec((4,), path, "real"))


# Declared, without a file


def test_a_declared_kind_without_a_file_trains_without_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(40, 3, 5)
    monkeypatch.setattr(Digits, "describe", lambda self: DataSpec((3, 5), "points", "real", size=20))
    monkeypatch.setattr(Digits, "splits", lambda self: {part: Tensors(x=x) for part in ("train", "val", "test")})
    fit.main(["--model", "vae", "--data", "digits", "--steps", "2", "--trainer.accelerator", "cpu"])
    (run,) = tmp_path.glob("tb_logs/*/version_0")
    says = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no pictures")]
    assert len(says) == 1 and "points data" in says[0]
    assert not (run / "samples.png").exists()
    sample.main([str(run), "-n", "3", "--out", "made"])
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["samples.npy"]
    assert np.load("made/samples.npy").shape == (3, 3, 5)
    with pytest.raises(UserError, match="no picture is known for data of kind 'points'"):
        sheet(torch.zeros(3, 4, 2), load(run).spec)


# What a model takes


LATER = {**IMAGES.to_dict(), "format": 9}


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (DataSpec((2,), "vectr", "real"), "unknown kind of data 'vectr': did you mean 'vector'"),
        (DataSpec((256, 3), "vector", "real"), r"vector data of shape \(256, 3\): .*\(D,\)"),
        (DataSpec((5,)), r"image data of shape \(5,\): .*\(C, H, W\)"),
        (DataSpec((0, 8, 8)), "at least 1"),
        (DataSpec((5,), "points", "real"), r"points data of shape \(5,\): .*\(C, P\)"),
        (DataSpec((2, 9), "points", "real"), r"points data of shape \(2, 9\): .*\(3 or 6, P\)"),
        (DataSpec((1, 8, 8), "audio", "real"), r"\(C, T\)"),
        (DataSpec((3, 8, 8), "video"), r"\(C, T, H, W\)"),
        (DataSpec((3, 8), "text", "tokens", vocab=("a",)), r"\(L,\)"),
        (DataSpec((3, 8), "table", "real"), r"\(D,\)"),
        (LATER, "data spec of format 9: this version reads"),
        (OutlineShapes().spec, "VAE takes data of one side, and these have two.*--model cyclegan"),
        (POINTS._replace(shape_b=(2,)), "have two, a and b: no model takes such yet"),
    ],
)
def test_what_a_model_does_not_take_is_one_line(spec, match):
    with pytest.raises(UserError, match=match) as error:
        VAE(spec)
    assert "\n" not in str(error.value)


def test_only_pictures_are_translated():
    with pytest.raises(UserError, match="CycleGAN translates pictures, and the sides of these data are vectors"):
        CycleGAN(POINTS._replace(shape_b=(2,)))


def test_augmentation_is_suggested_where_it_applies():
    def suggested(spec):
        return str(suggestions("collapsed", {"spec": spec.to_dict()}))

    assert "augment" in suggested(IMAGES) and "augment" not in suggested(POINTS)


# What --data and no --model mean


def test_a_path_is_taken_by_the_data_set_that_reads_it(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    folder = str(pictures(tmp_path / "pictures"))
    assert data_paths.find(folder, VAE_PATH) == ("lightning_gen.datamodules.folder.Folder", {"root": folder})
    found = data_paths.find(str(tmp_path / "x.npy"), VAE_PATH)
    assert found == ("lightning_gen.datamodules.custom.Arrays", {"path": str(tmp_path / "x.npy")})
    assert data_paths.find("toy", VAE_PATH)[0].endswith("Toy")
    (tmp_path / "notes.csv").write_text("1")
    for path in (tmp_path / "notes.csv", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"no (file of )?data \(pictures: .png.*vectors: .npy"):
            data_paths.find(str(path), VAE_PATH)


def test_of_several_data_sets_the_model_or_the_user_chooses(tmp_path):
    pictures(tmp_path / "trainA"), pictures(tmp_path / "trainB")
    name = str(tmp_path)
    assert data_paths.find(name, VAE_PATH)[0].endswith("Folder")
    assert data_paths.find(name, CYCLEGAN)[0].endswith("Unpaired")
    choices = f"--data folder --data.root {name} or --data unpaired --data.root {name}"
    with pytest.raises(UserError, match=re.escape(choices)):
        fill_in(*parse_short_options(["--data", name, "--steps", "2"]))


def test_without_a_model_the_kind_names_one_and_the_batch_fits(tmp_path):
    def chosen(*words):
        given, rest, notes = fill_in(*parse_short_options(list(words)))
        return given.get("model"), [word for word in rest if "batch_size" in word], notes

    folder = str(pictures(tmp_path / "pictures", 50))
    says = ["no --model given: conv-vae, the preset for pictures", "batch 4, for 40 training examples"]
    model, batch, notes = chosen("--data", folder, "--data.size", "16")
    assert model == "conv-vae" and batch == ["--data.batch_size=4"] and notes[0] == says[0]
    assert re.fullmatch(r"batch 4, for \d+ training examples", notes[1])
    assert chosen("--data", folder, "--data.batch_size", "2")[1:] == (["--data.batch_size"], says[:1])
    assert chosen("--data", "toy") == ("vae", [], ["no --model given: vae, the preset for vectors"])
    assert chosen("--data", "outline-shapes")[:2] == ("cyclegan", ["--data.batch_size=8"])
    assert chosen("--model", "ae", "--data", "toy") == ("ae", [], [])
    assert chosen() == (None, [], [])
    assert [fitting_batch(n) for n in (1, 15, 16, 100, 5000)] == [1, 1, 2, 8, 128]


# Images and vectors


def test_an_image_comes_back_from_its_file_with_provenance(tmp_path):
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    sources = [{"number": k} for k in range(3)]
    write_all(x, tmp_path, "all", ["a", "b", "c"], IMAGES, sources)
    with Image.open(tmp_path / "b.png") as opened:
        assert opened.text["number"] == "1"
    kind = kind_of(IMAGES)
    files = find_examples(tmp_path)
    kept, again = read_files(files, IMAGES, SkippedFiles(strict=True))
    assert kept == files and [file.name for file in files] == ["a.png", "b.png", "c.png"]
    assert torch.equal(again, kind.restored(kind.stored(x, IMAGES), IMAGES))
    assert set(kind.read(tmp_path / "a.png", IMAGES._replace(values="binary")).unique().tolist()) <= {-1.0, 1.0}
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"^cannot read .*broken\.png as a picture"):
        read_files(find_examples(tmp_path / "broken.png"), IMAGES, SkippedFiles(strict=False))
    skipped = SkippedFiles(strict=False)
    kept, some = read_files(find_examples(tmp_path), IMAGES, skipped)
    assert kept == files and torch.equal(some, again)
    with pytest.raises(Incomplete, match=r"^skipped 1 of 4 files; cannot read .*broken\.png as a picture: "):
        skipped.finish(4)
    with pytest.raises(UserError, match=r"broken\.png .*without --strict"):
        read_files(find_examples(tmp_path), IMAGES, SkippedFiles(strict=True))


def test_images_that_are_no_pictures_keep_their_numbers(tmp_path):
    for spec in (DataSpec((2, 8, 8)), DataSpec((1, 8, 8), values="real")):
        x = 3 * torch.randn(1, *spec.shape)
        write_all(x, tmp_path, "all", ["a"], spec, [{}])
        stored = torch.from_numpy(np.load(tmp_path / "a.npy"))
        assert torch.equal(stored, kind_of(spec).stored(x, spec)[0])
        assert torch.equal(kind_of(spec).read(tmp_path / "a.npy", spec), kind_of(spec).restored(stored, spec))
        with pytest.raises(UserError, match=r"are no pictures: give a \.npy file of this shape"):
            kind_of(spec).read(tmp_path / "a.png", spec)


def test_vectors_come_back_from_their_file(tmp_path):
    x = torch.randn(5, 2)
    write_all(x, tmp_path, "samples", [], POINTS, [{}])
    (tmp_path / "more.txt").write_text("")
    files = find_all_examples([tmp_path, tmp_path / "samples.npy"], accepts=kind_of(POINTS).is_example_file)
    kept, again = read_files(files, POINTS, SkippedFiles(strict=True))
    assert len(kept) == 2 and torch.equal(again, torch.cat([x, x]))
    with pytest.raises(UserError, match=r"an array \(5, 2\): expected \(N, 3\)"):
        kind_of(POINTS).read(tmp_path / "samples.npy", POINTS._replace(shape=(3,)))


def test_single_numbers_are_drawn_as_a_histogram():
    x = torch.cat([torch.zeros(90, 1), torch.ones(10, 1)])
    picture = sheet(x, DataSpec((1,), "vector", "real"), extent=2.0)
    heights = (picture[0, :-1] == 60).sum(0)  # ink in each column
    assert picture.shape[0] == 3 and heights.max() == 158 and len(set(heights.tolist())) == 3  # none, 10 and 90


def test_health_counts_what_is_wrong():
    kind, x = kind_of(IMAGES), torch.rand(8, 1, 8, 8) - 0.5
    assert kind.describe(x, IMAGES).problems == ()
    x[0] = 0.25
    x[1] = 0.2 + torch.rand(1, 8, 8) / 1000  # less than one of 256 levels
    x[2, 0, 0, 0] = torch.nan
    found = kind.describe(x, IMAGES)
    assert found.problems == ("1 of 8 samples are not finite", "2 of 8 samples are constant")
    ends = torch.where(torch.arange(64).view(1, 1, 8, 8) < 16, 1.0, 0.0)
    assert kind.describe(ends, IMAGES).values["saturated"] == 0.25
    assert kind_of(POINTS).describe(torch.tensor([[1.0, 2.0]] * 4), POINTS).problems == ("all 4 samples are equal",)


def test_what_a_generator_makes_is_in_the_range_of_the_data():
    out = torch.tensor([[-3.0, 3.0]])
    assert torch.equal(kind_of(POINTS).finish(POINTS, out), out)
    assert torch.equal(kind_of(IMAGES).finish(IMAGES, out), out.tanh())
    assert kind_of(IMAGES).generated(IMAGES) == (1, 8, 8)


def test_convolutions_begin_where_their_network_does():
    assert LEAST == SMALLEST
    assert issubclass(VAE, GenerativeModule)
