"""translate.py --tile: no seams of a map that sees less than the overlap, nothing cut that need not be."""

import itertools
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from translators import SPEC, Unchanged, saved

from lightning_gen.commands import translate
from lightning_gen.datamodules.errors import UserError
from lightning_gen.pictures.tiles import Tiling, map_tiles, tiling_of
from lightning_gen.presets import preset

TRUST = ["--trust", "translators", "test_tiles"]
SIZES = [(1, 16), (16, 17), (40, 33), (100, 31), (15, 65), (97, 64), (16, 16)]


class Negative(Unchanged):
    """A pointwise map, which is told no more than 32 x 32 pixels."""

    def translate(self, x, direction="a2b"):
        assert all(side % self.stride == 0 and side <= 32 for side in x.shape[2:]) and len(x) == 1
        return -x


class Contrast(Unchanged):
    """Instance norm: of the picture or of the tile."""

    def translate(self, x, direction="a2b"):
        return F.instance_norm(x).tanh()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder, sizes):
    """Files of random values, and the values."""
    folder.mkdir()
    values = {}
    for k, size in enumerate(sizes):
        values[f"{k}.png"] = np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(values[f"{k}.png"]).save(folder / f"{k}.png")
    return values


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def translated(*arguments):
    translate.main([str(argument) for argument in [*arguments, *TRUST]])


# Cutting


@pytest.mark.parametrize("overlap", [0, 1, 3, 6, 8])
def test_tiles_cover_a_side_and_share_the_overlap(overlap):
    for size in range(1, 120):
        tiling = Tiling(longest=18, side=16, overlap=overlap)
        starts, weights = tiling.starts(size), tiling.weights(size)
        assert starts[0] == 0 and starts[-1] + len(weights[-1]) == size
        if size <= 18:
            assert len(starts) == 1
            continue
        assert len(starts) == -(-(size - overlap) // (16 - overlap))  # no more tiles than it takes
        assert all(0 < other - one <= 16 - overlap for one, other in itertools.pairwise(starts))
        assert {len(weight) for weight in weights} == {16}
        total = torch.zeros(size)
        for start, weight in zip(starts, weights, strict=True):
            assert (weight >= 0).all() and (weight <= 1).all()
            total[start : start + 16] += weight
        torch.testing.assert_close(total, torch.ones(size), rtol=0, atol=1e-6)


def test_the_middle_half_of_an_overlap_fades_linearly():
    one, other = Tiling(longest=16, side=16, overlap=8).weights(24)  # they share the pixels 8 to 15
    fade = torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])
    assert torch.equal(one, torch.cat([torch.ones(8), fade]))
    assert torch.equal(other, torch.cat([1 - fade, torch.ones(8)]))


def blurred(x, radius):
    """A box blur, (C, h, w), beyond the border nothing."""
    return F.avg_pool2d(x[None], 2 * radius + 1, stride=1, padding=radius)[0]


@pytest.mark.parametrize(("height", "width"), [(33, 64), (100, 47), (31, 77), (65, 20)])
@pytest.mark.parametrize("overlap", [4, 8, 12, 16])
def test_a_blur_of_half_the_overlap_has_no_seams(height, width, overlap):
    """Its field has 2 r + 1 pixels, at most overlap / 2 + 1; the border is that of the picture in both."""
    x = torch.randn(2, height, width)
    radius, tiling = overlap // 4, Tiling(32, 32, overlap)
    assert tiling.num_tiles(height, width) > 1
    made = map_tiles(lambda tile: blurred(tile, radius), x, tiling)
    torch.testing.assert_close(made, blurred(x, radius), rtol=0, atol=1e-5)


def test_what_sees_further_than_a_quarter_of_the_overlap_is_only_nearly_alike():
    x, tiling = torch.randn(1, 56, 56), Tiling(32, 32, overlap=8)  # two tiles a side, which share no more than 8
    off = [(map_tiles(lambda t, r=r: blurred(t, r), x, tiling) - blurred(x, r)).abs().max().item() for r in (2, 3, 6)]
    assert off[0] < 1e-5 < 0.01 < off[1] < off[2]


def test_a_function_may_change_the_channels_and_sees_tiles_alone():
    seen = []

    def grey(tile):
        seen.append(tuple(tile.shape))
        return tile.mean(0, keepdim=True)

    x = torch.randn(3, 40, 17)
    made = map_tiles(grey, x, Tiling(longest=18, side=16, overlap=4))
    torch.testing.assert_close(made, x.mean(0, keepdim=True), rtol=0, atol=1e-6)
    assert seen == [(3, 16, 17)] * 3


def test_sides_of_tiles_are_multiples_of_the_stride():
    assert tiling_of(510, None, stride=4, least=16) == Tiling(510, 508, 32)
    assert tiling_of(33, None, stride=8, least=30) == Tiling(33, 32, 16)
    assert tiling_of(512, 256, stride=256, least=256) == Tiling(512, 512, 256)


# The command


@pytest.mark.parametrize("overlap", [[], ["--overlap", "0"], ["--overlap", "7"]])
def test_a_pointwise_map_is_what_it_is_without_tiles(place, capsys, overlap):
    run = saved(Negative(SPEC), place / "run")
    values = pictures(place / "in", SIZES)
    translated(run, "in", "out", "--tile", "32", "--batch", "1", *overlap)
    for name, value in values.items():
        made = pixels(place / "out" / name)
        assert made.shape == value.shape and np.abs(made - (255 - value.astype(int))).max() <= 1, name
    share = overlap[1] if overlap else "16"
    said = capsys.readouterr().out
    assert said.count("tiles") == 1 and f"neighbours share {share} or more" in said
    assert "4 of 7 pictures cut into " in said and "with sides of at most 32 pixels" in said


def test_the_number_of_tiles_is_said(place, capsys):
    run = saved(Negative(SPEC), place / "run")
    pictures(place / "in", [(56, 32), (80, 60)])
    translated(run, "in", "out", "--tile", "32", "--overlap", "8")
    assert "2 of 2 pictures cut into 11 tiles, 2 to 9 a picture, with" in capsys.readouterr().out
    translated(run, "in/0.png", "one", "--tile", "32", "--overlap", "8")
    assert "1 of 1 pictures cut into 2 tiles, with" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cyclegan", "pix2pix"])
def test_what_need_not_be_cut_is_bit_identical(place, capsys, name):
    row = preset(name)
    module, _, cls = row.model.rpartition(".")
    spec = SPEC._replace(shape=(3, 32, 32), shape_b=(3, 32, 32), pairs="all")
    run = saved(getattr(import_module(module), cls)(spec, **row.arguments), place / "run")
    pictures(place / "in", [(40, 33), (32, 32), (5, 64), (1, 1), (33, 40)])
    translated(run, "in", "plain")
    assert "pictures cut" not in capsys.readouterr().out
    translated(run, "in", "tiled", "--tile", "64")
    assert "no picture has a side above --tile 64: none was cut" in capsys.readouterr().out
    for path in (place / "plain").glob("*.png"):
        assert np.array_equal(pixels(path), pixels(place / "tiled" / path.name)), path.name
    translated(run, "in", "cut", "--tile", "32")
    assert "3 of 5 pictures cut into " in capsys.readouterr().out
    assert {path.name: pixels(path).shape for path in (place / "cut").glob("[0-9].png")} == {
        path.name: pixels(path).shape for path in (place / "plain").glob("[0-9].png")
    }


def test_instance_norm_takes_the_statistics_of_a_tile(place):
    """What the help and the page warn of."""
    run = saved(Contrast(SPEC), place / "run")
    halves = np.full((32, 64, 3), 90, np.uint8)
    halves[:, 32:] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    (place / "in").mkdir()
    Image.fromarray(halves).save(place / "in/0.png")
    translated(run, "in", "plain")
    translated(run, "in", "tiled", "--tile", "32", "--overlap", "0")
    assert np.abs(pixels(place / "plain/0.png") - pixels(place / "tiled/0.png")).mean() > 5


def test_large_pictures_do_not_wait_for_each_other(place):
    def some(sizes):
        return [(translate.Job(place, str(k), ""), torch.zeros(3, size, 8)) for k, size in enumerate(sizes)]

    batches = [[job.name for job, _ in batch] for batch in translate.of_one_size(some([8, 40, 8, 40]), 8, 32)]
    assert batches == [["1"], ["3"], ["0", "2"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overlap", "8"], ["--overlap 8", "--tile 512"]),
        (["--tile", "0"], ["--tile 0", "such as 512"]),
        (["--tile", "-32"], ["--tile -32"]),
        (["--tile", "15"], ["--tile 15", "at least 16 pixels"]),
        (["--tile", "32", "--overlap", "-1"], ["--overlap -1", "0 to 16 pixels, half of a tile"]),
        (["--tile", "39", "--overlap", "17"], ["--overlap 17", "0 to 16 pixels, half of a tile"]),
        (["--tile", "32", "--overlap", "32"], ["--overlap 32", "0 to 16 pixels"]),
        (["--tile", "big"], ["--tile", "'big'"]),
    ],
)
def test_mistakes_are_one_line(place, arguments, words):
    run = saved(Unchanged(SPEC), place / "run")
    pictures(place / "in", [(9, 9)])
    with pytest.raises(UserError) as error:
        translated(run, "in", "out", *arguments)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value
    assert not (place / "out").exists()
