"""One command for all scripts: its dispatch, its lists, what it answers without torch, and where it is installed."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys

import pytest
from processes import ROOT

from lightning_gen import datamodules, exits
from lightning_gen.commands import COMMANDS, call, overview
from lightning_gen.config.listing import all_of, cut, models_and_data
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.names import resolve
from lightning_gen.presets import FAMILIES, PRESETS

FORMS = {  # sys.argv[0] -> what a hint says
    "/env/bin/lightning-gen": "lightning-gen train-extractor",
    "/env/lib/python3.11/site-packages/lightning_gen/__main__.py": "python -m lightning_gen train-extractor",
    "/env/lib/python3.11/site-packages/lightning_gen/commands/fit.py": "python -m lightning_gen train-extractor",
    "scripts/fit.py": "python scripts/train_extractor.py",
    "/env/bin/pytest": "lightning-gen train-extractor",
}
HEAVY = {"torch", "lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib", "tensorboard", "numpy", "scipy"}


def imported(*words, status=0, environment=None):
    """The packages that a call of the interpreter imports."""
    command = [sys.executable, "-X", "importtime", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == status, result.stderr
    return set(re.findall(r"^import time:[ \d]+\|[ \d]+\| +(\w+)", result.stderr, re.M))


# Dispatch


def test_every_command_has_a_module_and_a_script():
    modules = {path.stem for path in (ROOT / "lightning_gen/commands").glob("*.py")} - {"__init__"}
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert modules == scripts == {name.replace("-", "_") for name in COMMANDS}
    for name in COMMANDS:
        own = (ROOT / f"lightning_gen/commands/{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        assert own.endswith(f'if __name__ == "__main__":\n    start("{name}")\n'), "python -m runs it, too"
        text = (ROOT / f"scripts/{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        assert text.endswith(
            f'from lightning_gen.commands import start\n\nif __name__ == "__main__":\n    start("{name}")\n'
        )


@pytest.mark.parametrize("called", FORMS)
def test_hints_repeat_the_form_of_the_call(called, monkeypatch):
    monkeypatch.setattr("sys.argv", [called])
    assert program("train-extractor") == FORMS[called]
    assert FORMS[called].removesuffix(" train-extractor") in overview() or "scripts" in FORMS[called]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_it_lists_them(arguments, capsys):
    call(arguments)
    said = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name}  " not in said] == []
    assert "fit --model vae" in said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["sampl", "RUN"], "unknown command 'sampl': did you mean 'sample'"),
        (["--model", "vae"], "--model: a command comes first, as in lightning-gen fit --model vae"),
        (["list", "ganz"], "unknown family or kind 'ganz': did you mean 'gan'"),
        (["list", "beta-vae"], "'beta-vae' is a model of the family 'vae'; its options: lightning-gen fit --help"),
        (["list", "gan", "vae"], "unrecognized arguments: vae"),
        (["fit", "--model", "vea"], "unknown model 'vea': did you mean 'vae'"),
        (["fit", "--help", "--model", "vea"], "unknown model 'vea'"),
        (["fit", "--model", "vae", "--data", "digit"], "unknown data set 'digit': did you mean 'digits'"),
        (["fit", "--modle", "vae"], "unknown option '--modle': did you mean '--model'"),
    ],
)
def test_mistakes(arguments, error):
    with pytest.raises(UserError, match=re.escape(error)):
        call(arguments)


def test_a_hyphen_or_an_underscore(capsys):
    for spelling in ("train-extractor", "train_extractor"):
        with pytest.raises(SystemExit) as stop:
            call([spelling, "--help"])
        assert stop.value.code == 0 and "usage: lightning-gen train-extractor" in capsys.readouterr().out


def test_the_version(capsys):
    import lightning_gen

    call(["--version"])
    assert capsys.readouterr().out == f"lightning-gen {lightning_gen.__version__}\n"


def test_the_rank_is_known_before_lightning_is(monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning.pytorch.utilities.rank_zero")
    for key in exits.RANKS:
        monkeypatch.delenv(key, raising=False)
    assert exits.rank() == 0
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert exits.rank() == 3 and not exits.is_global_zero()
    monkeypatch.setenv("LOCAL_RANK", "0")  # what Lightning asks first
    assert exits.is_global_zero()


# Lists


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("called", FORMS)
def test_lists_keep_to_the_width(width, called, monkeypatch):
    monkeypatch.setattr("sys.argv", [called])
    whole = models_and_data(width)
    pages = [whole, *(all_of(name, width) for name in (*FAMILIES, "image", "vector"))]
    assert max(len(line) for page in pages for line in page.splitlines()) <= width
    for name in datamodules.DATASETS:
        assert len(re.findall(rf"^  {name}  +\S", whole, re.M)) == 1
    for name, family in FAMILIES.items():
        assert re.search(rf"^  {family.title}, {len(family.rows) - 1} more: .* {name}$|list.py {name}$", whole, re.M)
        assert re.search(rf"^    {family.recommended}  +\S", whole, re.M)
        page = all_of(name, width)
        assert all(len(re.findall(rf"^  {row}  +\S", page, re.M)) == 1 for row in family.rows)
        assert len(page.splitlines()) == len(family.rows) + 2


def test_lengths_stand_beside_the_texts_however_wide_the_terminal():
    wide, wider = all_of("gan", 200), all_of("gan", 400)
    assert wide == wider and "..." not in wide
    head, _, *rows = wide.splitlines()
    assert head.endswith("  iterations on") and {row[len(head) - 5 :].split()[-1] for row in rows} == {"digits", "toy"}
    texts = [re.sub(r" +[\d,]+ \w+$", "", row) for row in rows]
    assert len(head) == max(map(len, texts)) + len("  iterations on")


def test_a_kind_of_data_names_a_model_of_other_data_that_takes_it():
    assert "others take it too: " in all_of("vector", 80) and "--model vae --data toy\n" in all_of("vector", 80)
    assert "others" not in all_of("image", 80)


def test_the_list_is_as_wide_as_the_terminal():
    pty, termios, fcntl = (pytest.importorskip(name) for name in ("pty", "termios", "fcntl"))
    for columns in (80, 120):
        reader, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
        subprocess.run(
            [sys.executable, "-m", "lightning_gen", "list"], stdout=terminal, env=environment, check=True, timeout=60
        )
        os.close(terminal)
        said = b""
        while b"paired " not in said.rpartition(b"unpaired")[2]:
            said += os.read(reader, 4096)
        os.close(reader)
        lines = said.decode().splitlines()
        assert columns - 20 < max(map(len, lines)) <= columns


def test_a_family_of_each_kind_of_row():
    assert sum(len(family.rows) for family in FAMILIES.values()) == len(PRESETS)
    assert not set(FAMILIES) & {row.kind for row in datamodules.DATASETS.values()}
    for family in FAMILIES.values():
        assert family.recommended in family.rows


@pytest.mark.parametrize("name", sorted(set(datamodules.DATASETS) - {"folder", "unpaired", "paired"}))
def test_the_table_says_the_kind_of_the_data(name):
    row = datamodules.DATASETS[name]
    assert resolve(row.target, {}, "data set")().spec.kind == row.kind


def test_cut():
    assert cut("one two three", 13) == "one two three"
    assert cut("one two three", 12) == "one two ..."


# Without torch


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("", 0),
        ("--version", 0),
        ("list", 0),
        ("list gan", 0),
        ("list --help", 0),
        ("fit", 0),
        ("fit --help", 0),
        ("fit --model vea", 2),
        ("fit --model vae --data digit", 2),
        ("fit --modle vae", 2),
        ("sampl", 2),
    ],
)
def test_what_needs_no_torch(arguments, status):
    assert not HEAVY & imported("-m", "lightning_gen", *arguments.split(), status=status)


def test_the_package_itself_imports_nothing():
    assert not HEAVY & imported("-c", "import lightning_gen; lightning_gen.__version__")


def test_the_model_of_a_help_is_imported():
    """The one test of this list that must see torch: the others could look in the wrong place."""
    assert "torch" in imported("-m", "lightning_gen", "fit", "--help", "--model", "vae")


def test_what_few_commands_need_is_imported_there():
    code = "import lightning_gen.commands as c, importlib\nfor name in ('fit', 'sample', 'reconstruct', 'translate'):"
    assert not {"sklearn", "tensorboard"} & imported(
        "-c", f"{code} importlib.import_module('lightning_gen.commands.' + name)"
    )


def test_ctrl_c_while_torch_is_imported_is_silent(tmp_path):
    (tmp_path / "lightning.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/fit.py"), "--model", "vae"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 130


# Where it is installed


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A project with a package of the name that our data sets had, whose modules must not be imported."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "datamodules").mkdir()
    for name in ("__init__", "digits", "spec", "errors"):
        (folder / f"datamodules/{name}.py").write_text("raise RuntimeError('of the project, not ours')\n")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installed wheel, with what it takes to run it from there."""
    setuptools = pytest.importorskip("setuptools", reason="the wheel is built with setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip(f"the wheel needs setuptools >= 77, here is {setuptools.__version__}")
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # a build leaves files beside the sources
    source.mkdir()
    for name in ("lightning_gen", "datamodules"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(place)]
    subprocess.run([*pip, *build], check=True, capture_output=True, timeout=300)
    (wheel,) = place.glob("*.whl")
    target = ["install", "--no-deps", "--target", str(place / "site"), str(wheel)]
    subprocess.run([*pip, *target], check=True, capture_output=True, timeout=300)
    return place / "site", {**os.environ, "PYTHONPATH": str(place / "site")}


def run_in(folder, command, environment=None):
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_wheel_works_from_any_folder(installed, theirs):
    site, environment = installed
    place = run_in(theirs, [sys.executable, "-c", "import lightning_gen; print(lightning_gen.__file__)"], environment)
    assert place.stdout.strip() == str(site / "lightning_gen/__init__.py")
    listing = run_in(theirs, [str(site / "bin/lightning-gen"), "list"], environment)
    assert listing.returncode == 0 and "models: lightning-gen fit --model NAME" in listing.stdout, listing.stderr
    words = ["--steps", "2", "--trainer.enable_progress_bar", "false"]
    trained = run_in(theirs, [str(site / "bin/lightning-gen"), "fit", "--model", "vae", *words], environment)
    assert trained.returncode == 0, trained.stderr
    assert "sample:     lightning-gen sample tb_logs/vae-digits/version_0 -n 64" in trained.stdout
    drawn = [sys.executable, "-m", "lightning_gen", "sample", "tb_logs/vae-digits/version_0", "-n", "1"]
    assert run_in(theirs, drawn, environment).returncode == 0


@pytest.mark.parametrize("form", [["-m", "lightning_gen", "fit"], [str(ROOT / "scripts/fit.py")]])
def test_a_project_with_datamodules_of_its_own(form, theirs):
    result = run_in(theirs, [sys.executable, *form, "--model", "vae", "--print_config"])
    assert "class_path: lightning_gen.datamodules.digits.Digits" in result.stdout, result.stderr


@pytest.mark.parametrize("width", [80, 140])
def test_the_help_is_as_wide_as_the_terminal_and_keeps_its_sentences(width, monkeypatch):
    from lightning_gen.config import help as pages

    monkeypatch.setenv("COLUMNS", str(width))
    text = pages._line(
        "--model.pack int", pages.first_sentence("seen at once (PacGAN, Lin et al. 2018). More; and more")
    )
    assert text == f"  {'--model.pack int':<30} seen at once (PacGAN, Lin et al. 2018)"
    long = pages._line("--model.a_long_name.KEY.OF.MANY VALUE", "word " * 40).splitlines()
    assert long[0] == "  --model.a_long_name.KEY.OF.MANY VALUE" and all(len(line) <= width for line in long)
    assert {line[:33] for line in long[1:]} == {" " * 33}
