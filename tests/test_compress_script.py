"""scripts/compress.py: files there and back, nothing written of a bad file, and one clear line for each mistake."""

import json

import numpy as np
import pytest
import torch
from compressors import DIGITS, Quarters, vae
from PIL import Image
from test_docs import script_calls
from translators import saved

from lightning_gen.commands import compress, fit, rate_distortion
from lightning_gen.compression import codec, container
from lightning_gen.compression.image_io import names_of, write_examples
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.names import resolve
from lightning_gen.presets import preset
from lightning_gen.storage import runs

pytest.importorskip("constriction", reason="needs the extra 'compress'")

SIZE = (1, 8, 8)
DATA = {"class_path": "lightning_gen.datamodules.digits.Digits", "init_args": {}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place):
    return saved(vae(), place / "run")


def picture(path, height=8, width=8, mode="L", seed=0, top=256):
    """A file with random values, which it returns (H, W) or (H, W, C)."""
    shape = (height, width) if mode in ("L", "1") else (height, width, len(mode))
    values = np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)
    if mode == "1":
        values = 255 * (values % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert("1") if mode == "1" else image).save(path)
    return values


def main(*arguments):
    compress.main([str(argument) for argument in arguments])


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


# There and back


def test_pictures_come_back_value_for_value(place, run, capsys):
    originals = {f"picture {k}": picture(place / f"in/picture {k}.png", seed=k) for k in range(5)}
    main("encode", run, "in", "--out", "deep/file.lgz")
    printed = capsys.readouterr().out
    assert "5 examples of 1x8x8" in printed and "lossless, verified" in printed and "WebP" in printed
    main("decode", "deep/file.lgz", "--out", "out")
    assert names(place / "out") == sorted(f"{name}.png" for name in originals)
    for name, values in originals.items():
        assert np.array_equal(pixels(place / f"out/{name}.png"), values)
    assert {path.name for path in place.iterdir()} == {"run", "in", "deep", "out"}  # no temporary file is left


def test_colour_and_two_values_come_back(place):
    colour = saved(vae((3, 8, 6)), place / "colour")
    values = picture(place / "a.png", 8, 6, "RGB")
    grey = picture(place / "b.png", 8, 6, "L")  # its three channels are equal
    main("encode", colour, "a.png", "b.png", "--out", "f", "--no-others")
    main("decode", "f", "--out", "out")
    assert np.array_equal(pixels("out/a.png"), values)
    assert np.array_equal(pixels("out/b.png"), np.repeat(grey[:, :, None], 3, 2))
    binary = saved(vae(SIZE, "binary"), place / "binary")
    values = picture(place / "c.png", mode="1")
    main("encode", binary, "c.png", "--out", "g", "--no-others")
    main("decode", "g", "--out", "out2", "--run", binary)
    assert np.array_equal(pixels("out2/c.png"), values)


def test_a_part_of_the_data_comes_back(place, run, capsys):
    main("encode", run, "--data", "digits", "--split", "test", "-n", 40, "--out", "f", "--report", "figures.json")
    main("decode", "f", "--out", "out")
    data = Digits()
    x = data.examples("test", torch.arange(40))["x"]
    back = np.load(place / "out/examples.npy")
    assert back.dtype == np.uint8 and np.array_equal(back, ((x + 1) * 127.5).round().numpy())
    figures = json.loads((place / "figures.json").read_text(encoding="utf-8"))
    assert figures["bytes"] == (place / "f").stat().st_size == figures["payload_bytes"] + figures["header_bytes"]
    assert figures["bits_per_dim"] == pytest.approx(8 * figures["bytes"] / (40 * 64))
    assert figures["over_bound"] == pytest.approx(figures["bytes"] / figures["bound_bytes"])
    assert {row["name"] for row in figures["others"]} == {"gzip -9", "bz2 -9", "xz -9e", "PNG", "WebP"}
    assert figures["model_bytes"] > 0 and figures["encoded_per_second"] > 0 and figures["lossless"]


def test_the_run_knows_its_data(place, run):
    runs.write_config({"preset": "vae", "dataset": "digits", "model": {}, "data": DATA}, place / "run")
    main("encode", run, "--split", "val", "-n", 3, "--out", "f", "--no-others")
    assert container.unpack((place / "f").read_bytes(), "f")[0].examples == 3


def test_tokens_go_there_and_back(place, capsys):
    torch.manual_seed(0)
    run = saved(Quarters(DIGITS), place / "run")
    trust = ["--trust", "compressors"]
    main("encode", run, "--data", "digits", "--split", "test", "-n", 30, "--out", "f", *trust)
    assert "lossy, PSNR" in capsys.readouterr().out
    main("decode", "f", "--out", "out", *trust)
    x = Digits().examples("test", torch.arange(30))["x"]
    levels = ((x + 1) / 2 * 3.999).long() * 85
    assert np.array_equal(np.load(place / "out/examples.npy"), levels.numpy())


def test_names_are_kept_and_never_clash(place):
    paths = [place / name for name in ("a/x.png", "b/X.png", "c/y.png")]
    assert names_of(paths) == ("0_x", "1_X", "2_y")
    assert names_of(paths[::2]) == ("x", "y")
    for wrong in ("..png", ".hidden.png", "back\\slash.png", "new\nline.png", f"{'x' * 300}.png"):
        with pytest.raises(UserError, match="its name cannot be kept"):
            names_of([place / wrong])


def test_vectors_are_written_as_they_are_stored(place):
    x = torch.linspace(-1, 1, 6).view(2, 3)
    for values, expected in (("real", x), ("unit", (x + 1) / 2)):
        write_examples(x, (), DataSpec(shape=(3,), kind="vector", values=values), place / values)
        assert np.allclose(np.load(place / values / "examples.npy"), expected)


# Bad files


@pytest.fixture
def file(place, run):
    for k in range(3):
        picture(place / f"in/{k}.png", seed=k)
    main("encode", run, "in", "--out", "good.lgz", "--no-others")
    return place / "good.lgz"


def refused(place, content, *arguments):
    """The reason why a file's content is refused; nothing is written."""
    (place / "bad.lgz").write_bytes(content)
    before = names(place)
    with pytest.raises(UserError) as caught:
        main("decode", "bad.lgz", "--out", "out", *arguments)
    assert names(place) == before
    return str(caught.value)


def corrupted(good):
    """200 of them: truncated, with flipped bits, with bytes more, less or swapped, and foreign."""
    draw = np.random.default_rng(0)
    for _ in range(60):
        yield good[: draw.integers(0, len(good))]
    for _ in range(80):
        content = bytearray(good)
        for place in draw.integers(0, 8 * len(good), draw.integers(1, 4)):
            content[place // 8] ^= 1 << place % 8
        yield bytes(content)
    for _ in range(20):
        at, n = draw.integers(0, len(good)), draw.integers(1, 9)
        yield good[:at] + draw.bytes(n) + good[at:]
        yield good[:at] + good[at + n :] if at + n < len(good) else good[1:]
    for k in range(20):
        yield [draw.bytes(len(good)), b"\x89PNG\r\n\x1a\n" + draw.bytes(500), b"PK\x03\x04" + good][k % 3]


def test_two_hundred_corrupted_files_are_refused(place, file):
    good = file.read_bytes()
    bad = list(corrupted(good))
    assert len(bad) == 200 and all(content != good for content in bad)
    reasons = [refused(place, content) for content in bad]
    known = ("was not written by compress encode", "is truncated", "is damaged", "is of format")
    assert all(any(word in reason for word in known) for reason in reasons)
    assert all(any(word in reason for reason in reasons) for word in known[:3])  # a flip of the format is a rare chance
    main("decode", "good.lgz", "--out", "out")  # which is not harmed


def test_forgeries_with_a_good_checksum_are_refused(place, file):
    header, words = container.unpack(file.read_bytes(), "good")
    for change in (
        {"names": ("../0", "1", "2")},
        {"names": ("/tmp/0", "1", "2")},
        {"names": ("0", "0", "2")},
        {"names": ("0", "1")},
        {"examples": 0},
        {"examples": 2**40},
        {"examples": True},
        {"block": 0},
        {"block": -1},
        {"threads": 10**9},
        {"shape": (1, 8, "8")},
        {"settings": {"grid": "5"}},
        {"settings": None},
        {"run": 5},
    ):
        assert "has a header that this program did not write" in refused(
            place, container.pack(header._replace(**change), words)
        )
    fewer = container.pack(header._replace(examples=2, names=("0", "1")), words)
    assert "does not decode" in refused(place, fewer)
    assert "does not decode" in refused(place, container.pack(header, words[1:]))
    assert "does not decode" in refused(place, container.pack(header, words[:0]))
    assert "does not decode" in refused(place, container.pack(header, np.append(words, 0).astype(np.uint32)))
    assert "by tokens" in refused(place, container.pack(header._replace(method="tokens"), words))


def test_a_file_of_a_later_format_is_refused(place, file, monkeypatch):
    header, words = container.unpack(file.read_bytes(), "good")
    monkeypatch.setattr(container, "VERSION", 2)
    content = container.pack(header, words)
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert "is of format 2" in refused(place, content)


def test_the_wrong_checkpoint_is_refused(place, file):
    other, smaller = saved(vae(seed=1), place / "other"), saved(vae((1, 8, 9)), place / "smaller")
    good = file.read_bytes()
    assert "with other weights than these" in refused(place, good, "--run", other)
    assert "this is a VAE on uint8 data of (1, 8, 9)" in refused(place, good, "--run", smaller)
    (place / "run").rename(place / "moved")
    assert "--run RUN" in refused(place, good)
    main("decode", "good.lgz", "--out", "out", "--run", "moved")
    assert len(names(place / "out")) == 3


def test_decoding_writes_over_nothing(place, file):
    picture(place / "out/mine.png")
    with pytest.raises(UserError, match="out is there already"):
        main("decode", "good.lgz", "--out", "out")
    with pytest.raises(UserError, match="cannot read none"):
        main("decode", "none.lgz", "--out", "new")
    assert names(place / "out") == ["mine.png"]
    (place / "empty").mkdir()
    (place / "link").symlink_to("empty")
    main("decode", "good.lgz", "--out", "link")
    assert len(names(place / "empty")) == 3 and (place / "link").is_symlink()


def test_decoding_where_one_stands(place, file, monkeypatch):
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    main("decode", place / "good.lgz", "--out", ".", "--run", place / "run")
    assert len(names(place / "here")) == 3


def test_colours_of_sixteen_bits_are_refused(place):
    run = saved(vae((3, 8, 8)), place / "run")
    (place / "deep.ppm").write_bytes(b"P6 8 8 65535\n" + bytes(range(192)) * 2)
    picture(place / "flat.png", mode="RGB")
    with pytest.raises(UserError, match=r"deep\.ppm is 16-bit"):
        main("encode", run, "deep.ppm", "--out", "new")
    main("encode", run, "flat.png", "--out", "new", "--no-others")


# Bad input


def test_each_mistake_of_encoding_is_one_line(place, run):
    picture(place / "a.png")
    picture(place / "large.png", 9, 8)
    picture(place / "colour.png", mode="RGB")
    picture(place / "glass.png", mode="RGBA")
    (place / "broken.png").write_bytes((place / "a.png").read_bytes()[:60])
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save("deep.png")
    Image.fromarray(pixels("a.png")).save("two.gif", save_all=True, append_images=[Image.new("L", (8, 8))])
    (place / "file").write_text("mine")
    for arguments, reason in (
        ([], "what is to be encoded"),
        (["a.png", "--split", "test"], "what is to be encoded"),
        (["none.png"], "no picture and no folder at none.png"),
        (["large.png"], r"9x8 \(height x width\), the model codes 8x8"),
        (["colour.png"], "in colour, and the model codes grey"),
        (["glass.png"], "transparent"),
        (["deep.png"], "16-bit"),
        (["two.gif"], "2 pictures in one"),
        (["broken.png"], "cannot read broken.png"),
        (["a.png", "-n", "3"], "-n is of a part of the data"),
        (["a.png", "--data.root", "x"], "--data.root is of a part"),
        (["--split", "test", "--data", "digits", "-n", "0"], "-n 0: it must be at least 1"),
        (["--split", "test", "--data", "digits", "--block", "-3"], "--block -3"),
        (["--split", "test"], "there is no config.yaml"),
        (["--split", "test", "--data", "shapes"], r"examples of shape \(1, 64, 64\)"),
        (["--split", "test", "--data", "outline-shapes"], "two sides"),
        (["--split", "other"], "invalid choice"),
        (["a.png", "--blok", "3"], "did you mean '--block'"),
    ):
        with pytest.raises(UserError, match=reason):
            main("encode", run, *arguments, "--out", "new")
        assert not (place / "new").exists(), reason
    with pytest.raises(UserError, match="file is there already"):
        main("encode", run, "a.png", "--out", "file")
    assert (place / "file").read_text(encoding="utf-8") == "mine"
    main("encode", run, "a.png", "--out", "file", "--force", "--no-others")
    for report, reason in (
        ("file", "file is there already"),
        ("new", "--out and --report are the same"),
        (".", "there"),
    ):
        with pytest.raises(UserError, match=reason):
            main("encode", run, "a.png", "--out", "new", "--report", report)
    assert not (place / "new").exists()
    with pytest.raises(UserError, match="what is to be done"):
        main("compress", run)


def test_grey_values_do_not_fit_a_model_of_two_values(place):
    run = saved(vae(SIZE, "binary"), place / "run")
    picture(place / "grey.png")
    with pytest.raises(UserError, match="between black and white"):
        main("encode", run, "grey.png", "--out", "new")
    with pytest.raises(UserError, match="values besides the 2 levels"):
        main("encode", run, "--data", "digits", "--split", "test", "--out", "new")
    assert not (place / "new").exists()


def test_a_model_without_a_likelihood_is_refused(place):
    picture(place / "a.png")
    for name, options, reason in (("ae", {}, "no Gaussian posterior"), ("vae", {"likelihood": "gaussian"}, "no table")):
        row = preset(name)
        model = resolve(row.model, {}, "model")(DIGITS, **{**row.arguments, **options})
        run = saved(model, place / name)
        with pytest.raises(UserError, match=reason):
            main("encode", run, "a.png", "--out", "new")
    vector = saved(VAE(DataSpec(shape=(5,), kind="vector")), place / "vector")
    with pytest.raises(UserError, match="not of pictures"):
        main("encode", vector, "a.png", "--out", "new")
    assert not (place / "new").exists()


def test_a_file_that_does_not_decode_is_not_written(place, run, monkeypatch):
    picture(place / "a.png")
    monkeypatch.setattr(codec, "decode_symbols", lambda *_: (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), None))
    with pytest.raises(UserError, match="nothing was written"):
        main("encode", run, "a.png", "--out", "new")
    assert not (place / "new").exists()


def test_the_script_ends_with_status_two(script, run, capsys):
    result = script("compress", "encode", run, "none.png", "--out", "new", ok=False)
    assert result.returncode == 2 and result.stderr.startswith("error: no picture") and "Traceback" not in result.stderr
    main("--help")
    assert "compress.py encode RUN IMAGE" in capsys.readouterr().out


def test_the_commands_of_the_page_are_understood(place):
    """compress.py's options parse, fit.py's plan a run, and digits go there and back as the page says."""
    calls = list(script_calls("docs/compression.md"))
    assert {script for script, _ in calls} == {"fit", "compress", "rate_distortion"}
    for name, arguments in calls:
        if name == "fit":
            cli.resolve_config(*parse_short_options(arguments))
        elif name == "rate_distortion":
            rate_distortion.list_jobs(*rate_distortion._parse(arguments))
        else:
            parse = {"encode": compress._encoding, "decode": compress._decoding}
            parse[arguments[0]](arguments[1:])
    fit.main(["--model", "vae", "--steps", "2"])
    for name, arguments in calls:
        if name == "compress" and "vae-digits" in str(arguments) and "--split" in arguments:
            main(*arguments, "--no-others")
        elif arguments[:1] == ["decode"]:
            main(*arguments)
    assert len(np.load(place / "back/examples.npy")) == 297
