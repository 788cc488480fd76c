"""Whatever is asked for, or lies in a file: work and memory are bounded, and a mistake is one line with status 2."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT

from lightning_gen import exits
from lightning_gen.atomic import atomic_file
from lightning_gen.compression import container
from lightning_gen.compression.bitsback import block_slices, reversed_block_slices
from lightning_gen.datamodules import files
from lightning_gen.datamodules.array_files import read_arrays
from lightning_gen.datamodules.custom import Arrays
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.drawing.images import save_array, save_png
from lightning_gen.drawing.render import SHEET, bars, grid

TINY = ["--model", "vae", "--model.network_args.hidden", "[8]", "--model.latent_dim", 2, "--steps", 2]
TINY += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
LONG = "9" * 5000


@pytest.fixture(scope="module")
def run(tmp_path_factory, nursery):
    folder = tmp_path_factory.mktemp("trained")
    nursery.fit(*TINY, cwd=folder)
    return folder / "tb_logs/vae-digits/version_0"


def one_line(result, text=""):
    said = result.stderr.splitlines()
    assert result.returncode == 2 and len(said) == 1 and said[0].startswith("error: ") and text in said[0], result
    assert len(said[0]) < 1500
    return said[0]


# Numbers


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("sample", "RUN", "-n", 10**12), "1,000,000,000,000: so many examples would take"),
        (("sample", "RUN", "-n", "1e12"), "-n"),
        (("sample", "RUN", "-n", LONG), "-n"),
        (("compare", "RUN", "OTHER", "-n", 10**12), "so many examples would take"),
        (("translate", "RUN", "p.png", "--out", "o", "--size", 10**6), "would take"),
        (("evaluate", "RUN", "--devices", 10**9), "--devices 1000000000"),
        (("fit", *TINY, "--data.batch_size", 10**12), "a batch would take"),
        (("fit", *TINY, "--model.latent_dim", 10**13), "not enough memory"),
        (("fit", *TINY, "--model.latent_dim", 10**18 - 1), "not enough memory"),
        (("fit", *TINY, "--model.latent_dim", LONG), "--model.latent_dim: 99999"),
        (("fit", *TINY, "--model.terms.kl", LONG), "--model.terms.kl: 99999"),
        (("fit", *TINY, "--seed", LONG), "--seed"),
        (("fit", *TINY, "--data.num_workers", 10**6), "at most 1024"),
        (("benchmark", "--models", "vae", "--data", "digits", "--budget", "1it", "--seeds", 10**12), "--seeds"),
        (("list", LONG), "unknown family"),
    ],
)
def test_a_number_that_nothing_can_hold(command, text, run, script, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    shutil.copytree(run, tmp_path / "other")
    one_line(script(*({"RUN": run, "OTHER": "other"}.get(word, word) for word in command), ok=False), text)


def test_a_seed_may_be_any_number(run, script):
    script("sample", run, "-n", 2, "--seed", 10**30, "--out", "s")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1: 2", "the key 1 is no name"),
        ("null: 2", "the key None is no name"),
        ("model: {init_args: {terms: {1: 2}}}", "the key 1 of terms is no name"),
        (f"seed: {LONG}", "is no YAML"),
        ("seed: 99999999999999999999", "the value of seed is a number of 20 digits"),
        ("seed: 2020-01-01", "is a date"),
        ("name: !!binary aGVsbG8=", "is a bytes"),
        ("&a [*a]", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("a: &a [x]\nb: &b [" + "*a," * 99 + "]\nc: &c [" + "*b," * 99 + "]\nd: [" + "*c," * 99 + "]", "entries"),
        ("name: !!python/object/apply:os.system [touch executed]", "is no YAML"),
        ("model: {class_path: [os.system]}", "is no import path"),
        ("data: {class_path: 5}", "is no import path"),
        ("\x00", "is no YAML"),
    ],
)
def test_a_configuration_of_anything(text, error, script, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    one_line(script("fit", "--config", "c.yaml", ok=False), error)
    assert not (tmp_path / "executed").exists()


def test_a_configuration_too_large_to_be_one(tmp_path):
    with (tmp_path / "c.yaml").open("wb") as file:
        file.truncate(files.TEXT + 1)
    with pytest.raises(UserError, match="a file of options or results has at most"):
        files.read_text(tmp_path / "c.yaml")


# Devices


@pytest.mark.parametrize("device", ["meta", "nonsense", "", "cuda:x", "hpu", "privateuseone", "vulkan"])
def test_a_device_that_computes_nothing(device, run, script, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    for command in (("sample", run), ("reconstruct", run, "p.png"), ("translate", run, "p.png")):
        one_line(script(*command, "--out", "o", "--device", device, ok=False), f"--device {device}: ")
    one_line(script("evaluate", run, "--metrics", "elbo", "--device", device, ok=False), f"--device {device} ")
    trainer = ["--trainer.accelerator", device or "none"]
    one_line(script("fit", *TINY[:-2], *trainer, ok=False), "the Trainer refuses its options")


def test_a_number_of_a_cpu(run, script):
    one_line(script("evaluate", run, "--metrics", "elbo", "--device", "cpu:3", ok=False), "--device cpu:3")


# Files that are none


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.npy")
    return tmp_path / "pipe.png"


@pytest.mark.parametrize("path", ["pipe.png", "/dev/zero"])
def test_a_pipe_or_a_device_is_not_read(path, pipe, run, script):
    for command in (
        ("reconstruct", run, path, "--out", "o"),
        ("compress", "encode", run, path, "--out", "f"),
        ("compress", "decode", path, "--out", "o"),
        ("evaluate", run, "--extractor", f"./{path}" if path[0] != "/" else path),
        ("sample", path),
        ("fit", *TINY, "--init", path),
        ("fit", "--config", path),
    ):
        one_line(script(*command, ok=False), "is a pipe, a device or a socket")
    for command in (
        ("fit", "--resume", path),
        ("fit", "--data", path),
        ("translate", run, path, "--out", "o"),
    ):
        one_line(script(*command, ok=False))
    with pytest.raises(UserError, match="is a pipe"):
        read_arrays(pipe.with_suffix(".npy"))


def test_nothing_is_written_in_place_of_a_device(run, script):
    before = os.stat("/dev/null")
    one_line(script("compress", "encode", run, "--split", "test", "-n", 2, "--out", "/dev/null", "--force", ok=False))
    with pytest.raises(UserError, match="is a pipe"), atomic_file(Path("/dev/null")):
        pass
    assert os.stat("/dev/null").st_ino == before.st_ino


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def npy_of(header):
    text = f"{header:<117}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


X = npy(np.arange(30 * 8 * 8, dtype=np.uint8).reshape(30, 8, 8))
ENORMOUS = npy_of("{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000000, 8, 8), }")
CALLS = npy_of("{'descr': '|u1', 'fortran_order': False, 'shape': (__import__('os').system('touch executed'),), }")


@pytest.mark.parametrize(
    ("members", "method"),
    [
        ({"x.npy": X, "readme.txt": b"hello"}, zipfile.ZIP_STORED),
        ({"readme.txt": b"hello"}, zipfile.ZIP_STORED),
        ({"x.npy": b"hello, this is no array"}, zipfile.ZIP_STORED),
        ({"x.npy": b""}, zipfile.ZIP_STORED),
        ({"x.npy": ENORMOUS}, zipfile.ZIP_DEFLATED),
        ({"x.npy": CALLS}, zipfile.ZIP_STORED),
        ({"x.npy": npy(np.array([{}], dtype=object))}, zipfile.ZIP_STORED),
        ({"x.npy": npy(np.zeros((30, 4), dtype=[("a", "f4"), ("b", "i4")]))}, zipfile.ZIP_STORED),
        ({"x.npy": npy(np.zeros((30, 4), dtype="M8[s]"))}, zipfile.ZIP_STORED),
        ({"x.npy": npy(np.zeros((30, 4), dtype=complex))}, zipfile.ZIP_STORED),
        ({"x.npy": npy(np.zeros((30, 4), dtype="V8"))}, zipfile.ZIP_STORED),
        ({"x.npy": X, "y.npy": npy(np.full(30, 1.5))}, zipfile.ZIP_STORED),
        ({}, zipfile.ZIP_STORED),
    ],
)
def test_members_of_an_archive_that_are_no_examples(members, method, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"x\.npz"):
        _ = Arrays(str(tmp_path / "x.npz")).spec
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_other_methods_are_read(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("x.npy", X)
    assert Arrays(str(tmp_path / "x.npz")).spec.shape == (1, 8, 8)


def test_an_encrypted_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", X)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(mark) + place] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy is encrypted"):
        read_arrays(tmp_path / "x.npz")


def test_a_member_larger_than_the_memory(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", X)
    monkeypatch.setattr(files, "free_memory", lambda: 100)
    with pytest.raises(UserError, match=r"x\.npy in .* save it as \.npy"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"hello", ENORMOUS, npy(np.array([{}], dtype=object)), npy(np.array(3.0))])
def test_an_array_that_is_none(content, tmp_path):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy"):
        _ = Arrays(str(tmp_path / "x.npy")).spec


def test_an_archive_under_the_name_of_an_array_and_the_other_way_round(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((30, 4)))
    os.replace(tmp_path / "x.npz", tmp_path / "x.npy")
    (tmp_path / "y.npz").write_bytes(X)
    for name in ("x.npy", "y.npz"):
        with pytest.raises(UserError, match=name):
            read_arrays(tmp_path / name)


# Compressed files


def test_a_forged_file_ends_with_its_words(run, script, tmp_path):
    pytest.importorskip("constriction")
    script("compress", "encode", run, "--split", "test", "-n", 20, "--out", "f", "--no-others")
    header, words = container.unpack((tmp_path / "f").read_bytes(), "f")
    told = len((tmp_path / "f").read_bytes())
    forged = {
        "no model codes": {"examples": 5 * 10**8},
        "its words end before": {"examples": 500 * told},
        "did not write": {"threads": 4096},
    }
    for text, entries in forged.items():
        for block in (header.block, 10**9):
            forgery = header._replace(names=(), block=block, **entries)
            (tmp_path / "g").write_bytes(container.pack(forgery, words))
            one_line(script("compress", "decode", "g", "--out", "o", ok=False), text)


@pytest.mark.parametrize(("count", "most"), [(1, 64), (20, 64), (1000, 1), (3000, 64), (1000, 10**9), (64, 8)])
def test_blocks_from_the_last_to_the_first(count, most):
    assert list(reversed_block_slices(count, most)) == list(block_slices(count, most))[::-1]


# Pictures


@pytest.mark.parametrize(
    "shape", [(64, 1, 1, 64), (64, 1, 64, 1), (16, 3, 1, 20_000), (3, 3, 3000, 3000), (20_000, 1, 8, 8)]
)
def test_a_sheet_is_bounded(shape):
    sheet = grid(torch.full(shape, 7, dtype=torch.uint8), columns=round(shape[0] ** 0.5))
    assert sheet.shape[1] * sheet.shape[2] < 1.1 * SHEET and (sheet == 7).any()


def test_a_sheet_that_is_too_large_shows_means():
    pictures = torch.zeros(2, 1, 6000, 6000, dtype=torch.uint8)
    pictures[0, :, ::2] = 200
    sheet = grid(pictures, columns=2)
    middle = sheet[:, sheet.shape[1] // 2]
    assert 90 <= middle[:, 100].min() <= middle[:, 100].max() <= 110 and (middle[:, -100] == 0).all()


def test_a_chart_of_very_many_bars():
    assert bars([0.0] * 10**5 + [1.0]).shape[2] < 5000


# Ends


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "new/picture.png"
    save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), path)
    good = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(np, "save", full)
    for write in (
        lambda: save_png(torch.ones(1, 8, 8, dtype=torch.uint8), path),
        lambda: save_array(np.zeros(3), path),
    ):
        with pytest.raises(OSError, match="No space left") as told:
            write()
        assert told.value.filename == str(path)
    assert path.read_bytes() == good and [file.name for file in path.parent.iterdir()] == ["picture.png"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("only root mounts a small disk")
    yield place
    os.chdir(tmp_path)
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("left", [0, 4, 40])
def test_a_full_disk(left, small_disk, run, nursery):
    """Each command ends with one line that names the file; of those before it, all are whole."""
    space = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(space.f_bavail * space.f_bsize - left * 1024))
    long = [*TINY, "--steps", 6, "--save_every", 2, "--val_every", 3]
    for script, *arguments in (("fit", *long), ("sample", run, "-n", 200, "--out", "s")):
        ended = nursery.run(ROOT / f"scripts/{script}.py", *arguments, cwd=small_disk, ok=False)
        assert ended.returncode == 2 and len(ended.errors.splitlines()) == 1, ended.said
        assert "No space left on device" in ended.errors and "small" not in ended.errors, ended.said
        assert "while writing" not in ended.errors
    assert not [path for path in small_disk.rglob("*.part*")]
    for path in small_disk.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()


def shell(command, folder):
    """A command line of a shell, in which ``$RUN`` is the program."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUN": f"{sys.executable} -m lightning_gen"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.stdout, done.stderr.splitlines(), done.returncode


def test_a_closed_output(tmp_path):
    assert shell("$RUN list >&-", tmp_path) == (
        "",
        ["error: standard output is closed: send it to a file, or to /dev/null"],
        2,
    )
    _, complaint, status = shell("$RUN list > /dev/full", tmp_path)
    assert status == 2 and len(complaint) == 1 and "No space left on device" in complaint[0]
    assert shell("$RUN fit --model vea 2>&-", tmp_path) == ("", [], 2)
    told, complaint, status = shell("set -o pipefail; (sleep 1; $RUN list) | true", tmp_path)
    assert (told, complaint, status) == ("", ["error: the program that read the output has ended"], 2)


def test_the_reader_of_the_output_leaves(monkeypatch):
    """As of ``fit | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    told = io.StringIO()
    with os.fdopen(writer, "w") as output, monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", told)
        exits.run_main(lambda argv: print("x" * 10**5))
    assert stop.value.code == 2 and told.getvalue() == "error: the program that read the output has ended\n"


def test_the_thread_of_tensorboard_says_nothing(capsys):
    class _AsyncWriterThread(threading.Thread):
        def run(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    with exits.silent_event_writer():
        thread = _AsyncWriterThread()
        thread.start()
        thread.join()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [RuntimeError, ImportError])
def test_ctrl_c_while_an_import_makes_other_errors_of_it(kind, tmp_path):
    """numpy and others turn an interruption of their import into an error of their own."""
    (tmp_path / "lightning.py").write_text(
        "import time\nprint('importing', flush=True)\ntry:\n    time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    raise {kind.__name__}('cannot import')\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/fit.py"), "--model", "vae"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 130


def test_a_users_own_program_is_told_of_commands_that_it_has(monkeypatch):
    for called in ("train.py", "", "/env/lib/python/ipykernel_launcher.py", "-c", "/env/bin/lightning-gen"):
        monkeypatch.setattr(sys, "argv", [called])
        assert program("train-extractor") == "lightning-gen train-extractor"
