"""Pictures of any depth: one reader, one range for a data set, and files in the user's units."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.compression import image_io
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.decode import Depth, open_picture, opened, read_depth
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.reader import Reader
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model, to_units
from lightning_gen.datamodules.unpaired import Unpaired
from lightning_gen.drawing.images import save_png
from lightning_gen.kinds import kind_of
from lightning_gen.kinds.files import SkippedFiles

H, W = 6, 5


def values(name: str, channels: int, top: int = 65535) -> np.ndarray:
    """(H, W, C) whole numbers 0..top, both ends among them."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).integers(0, top + 1, (H, W, channels))
    drawn[0, 0], drawn[0, 1] = 0, top
    return drawn


def save_16(path: Path, array: np.ndarray, **png) -> Path:
    """A PNG file of 16 bits by hand, of 1 to 4 channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [(b"IHDR", struct.pack(">2I5B", array.shape[1], array.shape[0], 16, colour, 0, 0, 0))]
    chunks += [(name.encode(), content) for name, content in png.items()]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def read_16(path: Path) -> np.ndarray:
    """(H, W, C) of a PNG file of 16 bits whose rows have no filter, by hand."""
    content, at, data, shape = path.read_bytes(), 8, b"", (0, 0, 0)
    while at < len(content):
        size, name = struct.unpack(">I4s", content[at : at + 8])
        chunk, at = content[at + 8 : at + 8 + size], at + 12 + size
        assert struct.unpack(">I", content[at - 4 : at])[0] == zlib.crc32(name + chunk)
        if name == b"IHDR":
            width, height, bits, colour = struct.unpack(">2I2B", chunk[:10])
            shape = (height, width, {0: 1, 2: 3}[colour])
            assert bits == 16
        data += chunk if name == b"IDAT" else b""
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape[0], -1)
    assert not rows[:, 0].any()
    return np.ascontiguousarray(rows[:, 1:]).view(">u2").reshape(shape).astype(np.int32)


def save_tiff_16(path: Path, array: np.ndarray, order: str, strips: int = 1, sample_format: int = 1, **tags) -> Path:
    """A TIFF file of 16 bits by hand, in the order of bytes "<" or ">", not compressed, in strips of rows.

    ``tags`` may name other colours (``t262``), and planes of their own (``t284``), one for each channel.
    """
    height, width, channels = array.shape
    rows = -(-height // strips)
    planes = np.split(array, channels, 2) if tags.get("t284") == 2 else [array]
    parts = [p[k : k + rows].astype(f"{order}u2").tobytes() for p in planes for k in range(0, height, rows)]
    entries = {256: [width], 257: [height], 258: [16] * channels, 259: [1], 262: [1 if channels == 1 else 2]}
    entries |= {277: [channels], 278: [rows], 279: [*map(len, parts)], 284: [1], 339: [sample_format] * channels}
    entries |= {273: [0] * len(parts)} | {int(name[1:]): [value] for name, value in tags.items()}
    at = 8 + 2 + 12 * len(entries) + 4  # of what needs more than an entry's four bytes, and then of the parts
    first = at + sum(4 * len(numbers) for numbers in entries.values() if len(numbers) > 1)
    entries[273] = [first + sum(map(len, parts[:k])) for k in range(len(parts))]
    body = extra = b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, extra = struct.pack(f"{order}I", at + len(extra)), extra + packed
        body += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HIH", 42, 8, len(entries)) + body + b"\0" * 4
    path.write_bytes(head + extra + b"".join(parts))
    return path


def save_grey(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


# Decoding


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_bits_of_a_png_are_read(tmp_path, channels):
    array = values("png", channels)
    picture = open_picture(save_16(tmp_path / "a.png", array))
    assert picture.depth == Depth(16, 0, 65535) == read_depth(str(tmp_path / "a.png"))
    alpha = array[:, :, -1:] / 65535 if channels in (2, 4) else 1
    seen = array[:, :, : channels - (channels in (2, 4))] * alpha + 65535 * (1 - alpha)
    assert np.abs(picture.pixels - seen).max() < 0.01


def test_a_transparent_colour_of_16_bits_becomes_white(tmp_path):
    array = values("tRNS", 3)
    path = save_16(tmp_path / "a.png", array, tRNS=array[2, 3].astype(">u2").tobytes())
    assert (open_picture(path).pixels[2, 3] == 65535).all()
    grey = save_16(tmp_path / "b.png", array[:, :, :1], tRNS=array[2, 3, :1].astype(">u2").tobytes())
    assert open_picture(grey).pixels[2, 3] == 65535


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strips", [1, 3])
def test_all_bits_of_a_tiff_are_read(tmp_path, order, channels, strips):
    array = values("tiff", channels)
    picture = open_picture(save_tiff_16(tmp_path / "a.tif", array, order, strips))
    assert np.array_equal(picture.pixels, array) and picture.depth.bits == 16


def test_numbers_with_a_sign_keep_it(tmp_path):
    array = values("sign", 1)
    picture = open_picture(save_tiff_16(tmp_path / "a.tif", array, "<", sample_format=2))
    assert picture.depth == Depth(16, -32768, 32767)
    assert np.array_equal(picture.pixels, array.astype(np.uint16).view(np.int16))


def test_16_bits_of_which_8_are_read_are_counted(tmp_path):
    """Pillow takes 16-bit CMYK; of planes that are not compressed it would make noise."""
    for k in range(5):
        save_tiff_16(tmp_path / f"{k}.tif", values(str(k), 4), "<", t262=5)
    data = Folder(str(tmp_path), size=[H, W])
    assert data.spec.values == "uint8"
    assert data.notices() == ["5 pictures of 16 bits in a form of which only 8 are read"]
    with pytest.raises(ValueError, match="whose colours lie in planes of their own: these are read compressed"):
        open_picture(save_tiff_16(tmp_path / "planes.tif", values("planes", 3), "<", t284=2))


@pytest.mark.parametrize("top", [1000, 4095, 65535])
def test_ppm_files_keep_their_scale(tmp_path, top):
    for name, magic, channels in (("a.pgm", b"P5", 1), ("a.ppm", b"P6", 3)):
        array = values(name, channels, top)
        head = b"%b\n# a comment\n%d %d\n%d\n" % (magic, W, H, top)
        (tmp_path / name).write_bytes(head + array.astype(">u2").tobytes())
        plain = b"P%d" % (int(magic[1:]) - 3)
        (tmp_path / f"plain_{name}").write_bytes(head.replace(magic, plain) + b" ".join(b"%d" % v for v in array.flat))
        for path in (tmp_path / name, tmp_path / f"plain_{name}"):
            picture = open_picture(path)
            assert np.array_equal(picture.pixels, array) and picture.depth.white == top, path


def test_orientation_of_deep_pictures(tmp_path):
    array = values("turned", 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        deep = save_16(tmp_path / "deep.png", array, eXIf=exif.tobytes().removeprefix(b"Exif\0\0"))
        save_grey(tmp_path / "a.png", (array >> 8).astype(np.uint8))
        with Image.open(tmp_path / "a.png") as plain:
            plain.save(tmp_path / "plain.png", exif=exif)
        assert np.array_equal(
            (open_picture(deep).pixels.astype(int) >> 8), np.asarray(open_picture(tmp_path / "plain.png").pixels)
        ), orientation


# One range for a data set


def folder(tmp_path: Path, arrays: dict[str, np.ndarray], **options) -> Folder:
    for name, array in arrays.items():
        save_grey(tmp_path / name, array)
    return Folder(str(tmp_path), size=[H, W], channels=1, batch_size=2, num_workers=0, **options)


def deep(count: int, top: int = 65535) -> dict[str, np.ndarray]:
    return {f"{k}.png": values(str(k), 1, top)[:, :, 0].astype(np.uint16) for k in range(count)}


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_more_than_8_bits_reach_the_model(tmp_path, memory):
    data = folder(tmp_path, deep(10), memory=memory)
    assert data.spec[:3] == ((1, H, W), "image", "unit") and data.spec.range == (0, 65535) and data.spec.bits == 16
    data.setup()
    rows = torch.arange(data.spec.size)
    stored = data._splits["train"].fetch(rows)["x"]
    for row, path in zip(stored, data.training_files(), strict=True):
        assert np.array_equal(row[0], np.asarray(Image.open(path)))
    assert torch.equal(data.transform({"x": stored})["x"], stored / 32767.5 - 1)
    assert "values 0 to 65535, of 10 pictures of 16 bits; of outputs too" in data.notices()


def test_a_range_of_12_bits_is_named_and_taken(tmp_path):
    """The issue's case: values of 12 bits in PNG files of 16 came out at 0..16 of 255."""
    data = folder(tmp_path, deep(10, 4095))
    (line,) = (line for line in data.notices() if line.startswith("warning"))
    assert (
        f"values use 0 to 4095 of 0 to 65535 only ({data.spec.size} of {data.spec.size} training pictures looked at)"
        in line
    )
    assert line.endswith("--data.range 0 4095")
    told = folder(tmp_path, {}, range=[0, 4095])
    assert told.spec.range == (0, 4095) and told.notices() == ["values 0 to 4095, by --data.range; of outputs too"]
    told.setup()
    x = told.examples("train", torch.arange(5))["x"]
    assert x.min() == -1 and x.max() == 1 and x.unique().numel() > 100


def test_what_lies_outside_the_range_is_cut_and_said(tmp_path):
    data = folder(tmp_path, deep(10, 4095), range=[100, 2000])
    n = data.spec.size
    said = f"values outside of 100 to 2000 are cut: {n} of {n} of {n} training pictures looked at hold such, 0 to 4095"
    assert said in data.notices()
    data.setup()
    x = data.examples("train", torch.arange(n))["x"]
    assert x.min() == -1 and x.max() == pytest.approx(1, abs=1e-6)


def test_shallower_files_are_widened(tmp_path):
    shallow = {f"x{k}.png": values(str(k), 1, 255)[:, :, 0].astype(np.uint8) for k in range(3)}
    data = folder(tmp_path, {**deep(9), **shallow})
    assert "3 pictures of 8 bits among 9 of 16 bits: widened to 0 to 65535 (x257)" in data.notices()
    reader = data.in_range(data.reader)
    for name, array in shallow.items():
        assert np.array_equal(reader(tmp_path / name)[0], array.astype(np.float32) * 257)
    given = folder(tmp_path, {}, range=[0, 4095])
    assert "3 pictures of 8 bits among 9 of 16 bits: widened to 0 to 4095" in given.notices()
    assert given.in_range(given.reader)(tmp_path / "x0.png").max() == 4095


def test_floats_are_measured_over_the_training_split(tmp_path):
    arrays = {f"{k}.tif": np.linspace(-k, 10 * k, H * W, dtype=np.float32).reshape(H, W) for k in range(10)}
    data = folder(tmp_path, arrays)
    names = [int(Path(path).stem) for path in data.training_files()]
    assert data.spec.range == (-max(names), 10 * max(names)) and data.spec.bits == 32
    low, high = data.spec.range
    measured = f"measured over {len(names)} training pictures: --data.range LOW HIGH fixes it"
    assert f"values {low:g} to {high:g}, {measured}; of outputs too" in data.notices()
    assert folder(tmp_path, {}, range=[-1, 1]).spec.range == (-1, 1)


def test_a_float_that_is_not_finite_is_a_broken_picture(tmp_path, capsys):
    arrays = {f"{k}.tif": np.linspace(0, 1 + k, H * W, dtype=np.float32).reshape(H, W) for k in range(10)}
    arrays["3.tif"][2, 2] = np.nan
    data = folder(tmp_path, arrays)
    data.setup()
    assert "3.tif: cannot be read (ValueError: it holds values that are not finite" in capsys.readouterr().err


def test_pictures_of_8_bits_are_uint8_and_say_nothing(tmp_path):
    data = folder(tmp_path, {f"{k}.png": values(str(k), 1, 200)[:, :, 0].astype(np.uint8) for k in range(10)})
    assert data.spec == DataSpec((1, H, W), size=len(data.parts["train"])) and data.notices() == []


def test_a_range_makes_masks_of_8_bits_visible(tmp_path):
    data = folder(
        tmp_path, {f"{k}.png": values(str(k), 1, 1)[:, :, 0].astype(np.uint8) for k in range(10)}, range=[0, 1]
    )
    assert data.spec.values == "unit" and data.spec.bits == 8
    data.setup()
    assert set(data.examples("train", torch.arange(5))["x"].unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("given", [[4095, 0], [0], [0, float("nan")], [1, 2, 3]])
def test_a_range_is_two_numbers_in_order(tmp_path, given):
    with pytest.raises(UserError, match=r"give the lowest and the highest value, such as --data.range 0 4095"):
        folder(tmp_path, {}, range=given)


def test_sides_of_pairs_share_a_range(tmp_path):
    for k in range(10):
        save_16(tmp_path / f"a/{k}.png", values(f"a{k}", 3))
        save_grey(tmp_path / f"b/{k}.png", values(f"b{k}", 3, 255).astype(np.uint8))
    for kind in (Paired, Unpaired):
        data = kind(str(tmp_path / "a"), str(tmp_path / "b"), size=[H, W], upscale=True, batch_size=4)
        assert data.spec.range == (0, 65535)
        assert "10 pictures of 8 bits among 10 of 16 bits: widened to 0 to 65535 (x257)" in data.notices()
        data.setup()
        batch = data._splits["train"].fetch(torch.arange(2))
        assert (batch["b"] % 257 == 0).all() and not (batch["a"] % 257 == 0).all()
        assert data.side("a").spec.range == (0, 65535)
        assert data.side("b").examples("train", torch.arange(4))["x"].max() == 1


# Files of outputs


def spec_of(range_: tuple[float, float], bits: int, channels: int = 1) -> DataSpec:
    return DataSpec((channels, H, W), values="unit", range=range_, bits=bits)


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_of_16_bits_are_png_files_in_the_users_units(tmp_path, channels):
    spec, array = spec_of((0.0, 4095.0), 16, channels), values("out", channels, 4095)
    stored = torch.from_numpy(array.transpose(2, 0, 1).copy())
    kind, path = kind_of(spec), tmp_path / "a.png"
    assert kind.suffix(spec) == ".png"
    kind.write(to_model(stored, spec), path, spec, {"model": "VAE"})
    assert np.array_equal(read_16(path), array)
    with Image.open(path) as image:
        image.load()
        assert image.text["model"] == "VAE" and "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
    assert torch.equal(kind.read(path, spec), to_model(stored, spec))


def test_a_range_beyond_the_type_of_the_files_is_written_without_wrapping(tmp_path):
    x = torch.tensor([-1.0, 1.0]).repeat(H * W)[: H * W].view(1, H, W)
    for spec, suffix in ((spec_of((0.0, 4095.0), 8), ".png"), (spec_of((-1000.0, 40000.0), 16), ".tif")):
        kind_of(spec).write(x, path := tmp_path / f"a{suffix}", spec, None)
        with Image.open(path) as image:
            assert image.getextrema() == spec.range


@pytest.mark.parametrize(
    ("spec", "suffix"),
    [
        (spec_of((-5.5, 812.25), 32), ".tif"),
        (spec_of((-1000.0, 400.0), 16), ".tif"),
        (spec_of((0.0, 7.0), 8), ".png"),
        (spec_of((-1000.0, 400.0), 16, 3), ".npy"),
        (spec_of((0.0, 65535.0), 16, 4), ".npy"),
        (DataSpec((4, H, W)), ".npy"),
        (DataSpec((2, H, W), values="unit"), ".npy"),
        (DataSpec((1, H, W), values="real"), ".npy"),
        (DataSpec((3, H, W), values="unit"), ".png"),
    ],
)
def test_what_is_written_can_be_read(tmp_path, spec, suffix):
    kind = kind_of(spec)
    assert kind.suffix(spec) == suffix
    low, high = spec.range or ((0.0, 255.0) if spec.values == "uint8" else (0.0, 1.0))
    stored = low + torch.rand(spec.shape, generator=torch.Generator().manual_seed(0)) * (high - low)
    stored = stored.round() if 0 < spec.bits <= 16 or spec.values == "uint8" or suffix == ".png" else stored
    x = to_model(stored.to(torch.uint8) if spec.values == "uint8" else stored, spec)
    kind.write(x, tmp_path / f"a{suffix}", spec, {"model": "VAE"})
    read = kind.read(tmp_path / f"a{suffix}", spec)
    assert read.is_contiguous() and torch.allclose(read, x, atol=1e-6)
    if suffix == ".npy" and spec.values != "uint8":
        assert torch.allclose(torch.from_numpy(np.load(tmp_path / "a.npy")), stored, atol=1e-3 * (high - low))


def test_a_model_of_8_bits_takes_deep_pictures_by_their_depth(tmp_path):
    save_16(tmp_path / "a.png", np.full((H, W, 3), 100 * 257))
    x = kind_of(DataSpec((3, H, W))).read(tmp_path / "a.png", DataSpec((3, H, W)))
    assert torch.equal(x, torch.full((3, H, W), 100.0) / 127.5 - 1)
    save_grey(tmp_path / "f.tif", np.full((H, W), 0.5, np.float32))
    with pytest.raises(UserError, match="32-bit numbers, and does not say which of them is white"):
        kind_of(DataSpec((1, H, W))).read(tmp_path / "f.tif", DataSpec((1, H, W)))


def test_arrays_of_one_image_are_read_in_both_orders(tmp_path):
    spec, array = DataSpec((4, H, W)), values("array", 4, 255).astype(np.uint8)
    for shape in (array, array.transpose(2, 0, 1), array.transpose(2, 0, 1)[None]):
        np.save(tmp_path / "a.npy", shape)
        x = kind_of(spec).read(tmp_path / "a.npy", spec)
        assert torch.equal(x, to_model(torch.from_numpy(array.transpose(2, 0, 1).copy()), spec))
    np.save(tmp_path / "a.npy", array / 255)
    with pytest.raises(UserError, match=r"expected one image .* of uint8"):
        kind_of(spec).read(tmp_path / "a.npy", spec)


def test_compressed_pictures_of_16_bits(tmp_path):
    spec, array = spec_of((0.0, 65535.0), 16, 3), values("coded", 3)
    path = save_16(tmp_path / "a.png", array)
    _, x = image_io.read_pictures([path], spec, SkippedFiles(True))
    assert torch.equal(x[0], to_model(torch.from_numpy(array.transpose(2, 0, 1).copy()), spec))
    image_io.write_examples(x, ["a"], spec, tmp_path / "out")
    assert np.array_equal(open_picture(tmp_path / "out" / "a.png").pixels, array)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert not image.text, "of no model's making"
    with pytest.raises(UserError, match="is 16-bit colour: coded are pictures of 8 bits"):
        image_io.read_pictures([path], DataSpec((3, H, W)), SkippedFiles(True))
    with pytest.raises(UserError, match="values outside of 0 to 4095, which the model codes"):
        image_io.read_pictures([path], spec_of((0.0, 4095.0), 16, 3), SkippedFiles(True))


# Arrays


def array_data(tmp_path: Path, array: np.ndarray, **options) -> Arrays:
    np.save(tmp_path / "x.npy", array)
    return Arrays(str(tmp_path / "x.npy"), batch_size=4, **options)


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((20, 16, 16, 4), (4, 16, 16)),
        ((20, 4, 16, 16), (4, 16, 16)),
        ((20, 16, 12, 3), (3, 16, 12)),
        ((20, 1, 8, 9), (1, 8, 9)),
        ((20, 8, 9, 2), (2, 8, 9)),
        ((20, 4, 4, 3), (3, 4, 4)),
    ],
)
def test_the_axis_of_the_channels_is_recognised(tmp_path, shape, seen):
    """The issue's case: (N, 16, 16, 4) was 16 channels of 16 x 4."""
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    data = array_data(tmp_path, array)
    assert data.spec.shape == seen
    last = shape[1:] != seen
    data.setup()
    row = int(data._splits["train"].rows[0])
    expected = array[row].transpose(2, 0, 1) if last else array[row]
    assert np.array_equal(data._splits["train"].fetch(torch.tensor([0]))["x"][0], expected)
    assert any("channels in the last axis (--data.layout NHWC)" in line for line in data.notices()) == last


@pytest.mark.parametrize("shape", [(20, 16, 16, 5), (20, 8, 32, 32), (20, 3, 3, 3), (20, 2, 8, 2)])
def test_an_unclear_axis_names_the_option(tmp_path, shape):
    array = np.zeros(shape, np.uint8)
    with pytest.raises(UserError, match=r"--data\.layout NCHW says the first, --data.layout NHWC the second"):
        _ = array_data(tmp_path, array).spec
    _, a, b, c = shape
    assert array_data(tmp_path, array, layout="NCHW").spec.shape == (a, b, c)
    assert array_data(tmp_path, array, layout="NHWC").spec.shape == (c, a, b)
    with pytest.raises(UserError, match="unknown layout 'NHCW': did you mean"):
        array_data(tmp_path, array, layout="NHCW")


@pytest.mark.parametrize(
    ("array", "options", "range_", "bits", "lines"),
    [
        (
            np.arange(64000).astype(np.uint16),
            {},
            (0, 65535),
            16,
            ["values 0 to 65535, those of uint16; of outputs too"],
        ),
        (
            np.arange(4000).repeat(16).astype(np.uint16),
            {"range": [0, 4095]},
            (0, 4095),
            16,
            ["values 0 to 4095, by --data.range; of outputs too"],
        ),
        (np.arange(-32000, 32000).astype(np.int16), {}, (-32768, 32767), 16, None),
        (np.linspace(-3, 812, 64000), {}, None, 32, None),
        (np.arange(64000) % 20, {}, (0, 19), 32, None),
        ((np.arange(64000) % 2).astype(np.uint8), {"range": [0, 1]}, (0, 1), 8, None),
    ],
)
def test_the_range_of_arrays(tmp_path, array, options, range_, bits, lines):
    data = array_data(tmp_path, array.reshape(20, 1, 50, 64), **options)
    assert data.spec.values == "unit" and data.spec.bits == bits
    low, high = data.spec.range
    if range_:
        assert (low, high) == range_
    else:
        data.setup()
        train = data._splits["train"].fetch(torch.arange(data.size("train")))["x"]
        assert (low, high) == (train.min(), train.max())
        assert f"measured over {len(train)} training images" in data.notices()[0]
    if lines is not None:
        assert data.notices() == lines
    x = data.examples("train", torch.arange(4))["x"]
    assert x.min() >= -1 and x.max() <= 1 and x.is_contiguous()
    rows = data._splits["train"].fetch(torch.arange(4))["x"].float()
    assert torch.allclose(to_units(x, data.spec), rows, atol=1e-3 * (high - low))


def test_uint8_arrays_that_use_few_levels_are_named(tmp_path):
    data = array_data(tmp_path, np.eye(8, dtype=np.uint8)[None].repeat(20, 0))
    assert data.spec.values == "uint8"
    (line,) = data.notices()
    assert line.startswith("warning: values use 0 to 1 of 0 to 255 only") and line.endswith("--data.range 0 1")


# Any Dataset


def test_pil_images_of_16_bits_keep_their_levels():
    """The issue's case: I;16 became two grey levels."""
    arrays = [values(str(k), 1)[:, :, 0].astype(np.uint16) for k in range(10)]
    data = Custom([Image.fromarray(array) for array in arrays], batch_size=2)
    assert data.spec[:3] == ((1, H, W), "image", "unit") and data.spec.range == (0, 65535)
    data.setup()
    row = int(data._splits["train"].rows[0])
    assert np.array_equal(data._splits["train"].fetch(torch.tensor([0]))["x"][0, 0], arrays[row])
    assert "values 0 to 65535, those of 16 bits; of outputs too" in data.notices()


def test_pil_images_and_files_are_read_alike(tmp_path):
    """Also what is transparent, which a Dataset's images showed as the colours below."""
    colours = values("rgba", 4, 255).astype(np.uint8)
    for mode in ("RGBA", "LA", "P", "L", "1", "CMYK", "RGB"):
        image = Image.fromarray(colours, "RGBA").convert(mode)
        data = Custom([image] * 5)
        own = data.spec.shape[0]
        suffix = "tif" if mode == "CMYK" else "png"
        image.save(tmp_path / f"{mode}.{suffix}")
        x = data.splits()["train"].fetch(torch.tensor([0]))["x"]
        assert np.array_equal(x[0], Reader(H, W, own)(tmp_path / f"{mode}.{suffix}")), mode


def test_16_and_8_bits_in_one_dataset():
    mixed = [values(str(k), 1)[:, :, 0].astype(np.uint16) for k in range(5)]
    mixed += [values(str(k), 1, 255)[:, :, 0].astype(np.uint8) for k in range(5)]
    data = Custom(mixed, batch_size=2)
    assert data.spec.range == (0, 65535)
    data.setup()
    rows = [k for split in data._splits.values() for k in split.rows.tolist()]
    x = torch.cat([split.fetch(torch.arange(len(split)))["x"] for split in data._splits.values()])
    for k, image in zip(rows, x, strict=True):
        assert np.array_equal(image[0], mixed[k].astype(np.float32) * (257 if k >= 5 else 1))


def test_arrays_of_a_dataset_follow_the_layout():
    data = Custom([np.zeros((16, 16, 4), np.uint8)] * 5)
    assert data.spec.shape == (4, 16, 16)
    with pytest.raises(UserError, match=r"--data\.layout NCHW"):
        _ = Custom([np.zeros((16, 16, 5), np.uint8)] * 5).spec
    assert Custom([np.zeros((16, 16, 5), np.uint8)] * 5, layout="NHWC").spec.shape == (5, 16, 16)
    assert Custom([torch.zeros((16, 16, 5), dtype=torch.uint8)] * 5).spec.shape == (16, 16, 5), "tensors are (C, H, W)"


def test_pil_floats_need_a_range():
    images = [Image.fromarray(np.linspace(0, 812, H * W, dtype=np.float32).reshape(H, W))] * 5
    with pytest.raises(UserError, match=r"mode I or F do not say which value is white: Custom\(\.\.\., range="):
        _ = Custom(images).spec
    assert Custom(images, range=[0, 1000]).spec.range == (0, 1000)


# Interpolation and large files


def test_label_maps_keep_their_colours(tmp_path):
    """The issue's case: three colours became 77."""
    labels = np.random.default_rng(0).choice([0, 90, 200], (40, 40)).astype(np.uint8)
    for k in range(6):
        save_grey(tmp_path / f"a/{k}.png", labels)
        save_grey(tmp_path / f"b/{k}.png", values("photo", 3, 255).repeat(8, 0).repeat(8, 1).astype(np.uint8))
    folders = {"a": str(tmp_path / "a"), "b": str(tmp_path / "b"), "size": 16, "crop": "stretch"}
    for kind in (Paired, Unpaired):
        data = kind(**folders, interpolation="nearest", interpolation_b="bicubic")
        data.setup()
        batch = data._splits["train"].fetch(torch.arange(2))
        assert set(batch["a"].unique().tolist()) == {0, 90, 200} and batch["b"].unique().numel() > 100
    assert len(np.unique(Reader(16, 16, 1)(tmp_path / "a/0.png"))) > 50
    with pytest.raises(UserError, match="unknown interpolation 'cubic': did you mean 'bicubic'"):
        Folder(str(tmp_path), interpolation="cubic")
    with pytest.raises(UserError, match="unknown interpolation_b 'x'"):
        Paired(**folders, interpolation_b="x")


def test_pictures_above_the_limit_say_so(tmp_path, monkeypatch, capsys):
    """Pillow warns from half of its limit on and refuses above it; here one line says what to do."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    for k in range(6):
        save_grey(tmp_path / f"{k}.png", np.full((20, 15), 10 * k, np.uint8))  # more than Pillow warns of
    save_grey(tmp_path / "large.png", np.zeros((40, 30), np.uint8))  # more than Pillow refuses
    data = Folder(str(tmp_path), size=8, max_pixels=600)
    data.setup()
    line = "cannot be read (ValueError: 1,200 pixels, more than the limit of 600: option max_pixels raises it)"
    assert line in capsys.readouterr().err
    every = Folder(str(tmp_path), size=8, max_pixels=1200)
    every.setup()
    assert every.skipped == {} and Image.MAX_IMAGE_PIXELS == 200
    assert open_picture(tmp_path / "large.png", max_pixels=1200).columns(0, 30).size == (40, 30)
    with opened(tmp_path / "large.png") as image:
        assert image.size == (30, 40), "a look at the header is not limited"


def test_png_of_16_bits_is_what_other_programs_read(tmp_path):
    array = torch.from_numpy(values("other", 3).transpose(2, 0, 1).copy()).int()
    save_png(array, tmp_path / "a.png", {"seed": 3})
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    assert np.array_equal(read_16(tmp_path / "a.png"), array.permute(1, 2, 0))


# Programs


def test_a_run_on_12_bits_from_end_to_end(script, tmp_path):
    """Samples, reconstructions and what they are measured by are in the units of the files."""
    pytest.importorskip("constriction")
    (tmp_path / "deep").mkdir()
    for k in range(40):
        array = np.random.default_rng(k).integers(0, 4096, (8, 8), dtype=np.uint16)
        Image.fromarray(array).save(tmp_path / "deep" / f"{k:02d}.png")
    options = ["--data.size", 8, "--data.channels", 1, "--data.batch_size", 8, "--steps", 2]
    out = script("fit", "--model", "vq-vae", "--data", "deep", *options, "--data.range", 0, 4095).stdout
    assert "values 0 to 4095, by --data.range; of outputs too" in out
    (run,) = tmp_path.glob("tb_logs/*/version_0")
    script("sample", run, "-n", 2, "--out", "samples")
    script("reconstruct", run, "deep/00.png", "--out", "rebuilt")
    script("compress", "encode", run, "deep/00.png", "deep/01.png", "--out", "two.bin", "--no-others")
    script("compress", "decode", "two.bin", "--out", "decoded")
    for name in ("samples/00000.png", "rebuilt/00.png", "decoded/00.png"):
        picture = open_picture(tmp_path / name)
        assert picture.depth.bits == 16 and 255 < picture.pixels.max() <= 4095, name
    assert "psnr" in script("evaluate", run, "-n", 4, "--metrics", "reconstruction", "memorisation").stdout
    other = script("evaluate", run, "-n", 4, "--data", "deep", "--data.size", 8, "--data.channels", 1, ok=False)
    refused = (
        "the model was trained on data of values 0 to 4095, these data have values 0 to 65535: --data.range 0 4095"
    )
    assert refused in other.stderr
    coded = ["--split", "test", "--data", "deep", "--data.size", 8, "--data.channels", 1]
    assert refused in script("compress", "encode", run, *coded, "--out", "y.bin", ok=False).stderr
    other = script("compress", "encode", run, "samples/grid.png", "--out", "x.bin", ok=False)
    assert "grid.png is of 8 bits: coded are pictures of 16 bits, grey or RGB" in other.stderr


def test_a_range_takes_two_words():
    from lightning_gen.config.cli import _pairs

    assert _pairs(["--data.range", "-1000", "4e2", "--data.size", "8"]) == [
        ("data.range", "[-1000, 4e2]"),
        ("data.size", "8"),
    ]
    with pytest.raises(UserError, match="unexpected argument 'stray'"):
        _pairs(["--data.size", "8", "stray"])
