"""What lies in a folder that was given by somebody else executes nothing, and what is damaged is one line."""

import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml
from PIL import Image
from processes import ROOT

import lightning_gen
from lightning_gen import names
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.errors import UserError
from lightning_gen.storage.checkpoints import load

TINY = ["--model", "vae", "--model.network_args.hidden", "[8]", "--model.latent_dim", 2]
SHORT = [*TINY, "--steps", 2, "--trainer.enable_progress_bar", "false"]
LEAVES_A_FILE = "open('executed', 'w').close()\n"
TOUCH = "class_path: os.system, init_args: {command: touch executed}"
POPEN = "class_path: subprocess.Popen, init_args: {args: [touch, executed]}"
CUSTOM = "class_path: lightning_gen.datamodules.custom.Custom"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, nursery):
    """A short finished run."""
    folder = tmp_path_factory.mktemp("trained")
    nursery.fit(*SHORT, cwd=folder)
    return folder / "tb_logs/vae-digits/version_0"


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of it, in a folder with a module that leaves a file when it is imported."""
    monkeypatch.delitem(sys.modules, "payload", raising=False)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "payload.py").write_text(f"{LEAVES_A_FILE}\nclass Payload:\n    pass\n")
    (tmp_path / "run/payload.py").write_text(LEAVES_A_FILE)
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    yield tmp_path / "run"
    assert not list(tmp_path.rglob("executed")) and "payload" not in sys.modules


def replace(run, content):
    """Put another checkpoint in the place of all of a run; returns its path."""
    path = run / "checkpoints/last.ckpt"
    for other in path.parent.glob("*.ckpt"):
        other.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


def one_line(result, text=""):
    said = result.stderr.splitlines()
    assert result.returncode == 2 and len(said) == 1 and said[0].startswith("error: ") and text in said[0], result
    return said[0]


# Configurations

OWN_FILES = [  # of fit --config
    f"trainer: {{callbacks: [{{{TOUCH}}}]}}",
    f"trainer: {{callbacks: {{{POPEN}}}}}",
    f"trainer: {{logger: {{{POPEN}}}}}",
    f"trainer: {{plugins: [{{{POPEN}}}]}}",
    f"trainer: {{strategy: {{{TOUCH}}}}}",
    f"trainer: {{profiler: {{{POPEN}}}}}",
    'trainer: {callbacks: [{class_path: builtins.exec, init_args: {source: \'open("executed", "w")\'}}]}',
    "trainer: {callbacks: [{class_path: pathlib.Path}]}",
    f"data: {{{CUSTOM}, init_args: {{train: {{{TOUCH}}}}}}}",
    f"data: {{{CUSTOM}, init_args: {{train: {{{POPEN}}}}}}}",
    f"data: {{{CUSTOM}, init_args: {{train: os.system}}}}",
    f"data: {{{TOUCH}}}",
    f"model: {{{POPEN}}}",
    f"model: {{init_args: {{network: {{{POPEN}}}}}}}",
    f"model: {{init_args: {{network_args: {{dropout: [{{{TOUCH}}}]}}}}}}",
    f"model: {{init_args: {{terms: {{kl: {{{POPEN}}}}}}}}}",
    f"trainer: {{callbacks: [{{class_path: test_trust.Takes, init_args: {{something: {{{POPEN}}}}}}}]}}",
]


class Takes(lightning_gen.GenerativeModule.__mro__[-1]):
    """No callback."""


@pytest.mark.parametrize("text", OWN_FILES)
def test_a_class_path_is_a_class_of_the_kind_that_its_place_takes(text, run, script, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    one_line(script("fit", *TINY, "--steps", 1, "--config", "mine.yaml", ok=False))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--trainer.callbacks", "os.system"),
        ("--trainer.callbacks.class_path", "os.system"),
        ("--trainer.callbacks", f"[{{{POPEN}}}]"),
        ("--trainer.logger", "subprocess.run"),
        ("--data.train", "subprocess.Popen", "--data", "lightning_gen.datamodules.custom.Custom"),
        ("--model.network", "subprocess.run"),
        ("--model.likelihood", "os.system"),
        ("--model.prior", "builtins.exec"),
        ("--model.network_args.activation", "os.getcwd"),
    ],
)
def test_so_it_is_on_the_command_line(arguments, run, script):
    one_line(script("fit", *SHORT, *arguments, ok=False))


def test_an_object_in_the_arguments_of_another_is_checked_before_either_is_made(tmp_path, monkeypatch):
    (tmp_path / "my_calls.py").write_text(
        "import lightning as L\nclass Call(L.Callback):\n    made = []\n"
        "    def __init__(self, inner: L.Callback | None = None, other=None):\n        self.made.append(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    outer = "[{class_path: my_calls.Call}, {class_path: my_calls.Call, init_args: {%s: {class_path: %s}}}]"

    def plan(*inner):
        return cli.resolve_config(*parse_short_options(["--model", "vae", "--trainer.callbacks", outer % inner]))

    assert len(plan("inner", "my_calls.Call").parsed.trainer.callbacks) == 2
    for inner in (("inner", "subprocess.Popen"), ("other", "subprocess.Popen"), ("other", "my_calls.Call")):
        with pytest.raises(UserError, match=r"trainer\.callbacks"):
            plan(*inner)
    assert not sys.modules["my_calls"].Call.made


@pytest.mark.parametrize("command", [("sample", "--sampler", "gmm", "--out", "o"), ("evaluate", "--metrics", "elbo")])
@pytest.mark.parametrize(
    "entry",
    [
        "trainer: {callbacks: [{class_path: run.payload.X}], logger: {class_path: payload.Payload}}",
        "data: {class_path: run.payload.X, init_args: {}}",
        f"data: {{{CUSTOM}, init_args: {{train: {{class_path: payload.Payload}}}}}}",
    ],
)
def test_a_runs_configuration_imports_nothing(entry, command, run, script):
    config = yaml.safe_load((run / "config.yaml").read_text()) | yaml.safe_load(entry)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    name, *options = command
    result = script(name, "run", *options, ok=False)
    if entry.startswith("data"):
        one_line(result, "--trust")
    else:
        assert result.returncode == 0, result.stderr


# Checkpoints


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def zipped(**members):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def changed(good, section, **entries):
    return {**good, section: {**good[section], **entries}}


HOSTILE = {
    "a pickled object": lambda good: {**good, "more": Evil()},
    "a pickled object in its place": lambda good: changed(good, "hyper_parameters", latent_dim=Evil()),
    "a pickle alone": lambda good: pickle.dumps(Evil()),
    "a pickle in a tensor's place": lambda good: changed(good, "state_dict", extra=Evil()),
    "model os.system": lambda good: changed(
        {**good, "hyper_parameters": {"command": "touch executed"}}, "lightning_gen", model="os.system"
    ),
    "model payload": lambda good: changed(good, "lightning_gen", model="payload.Payload"),
    "model in the run": lambda good: changed(good, "lightning_gen", model="run.payload.X"),
    "model behind ours": lambda good: changed(good, "lightning_gen", model="lightning_gen.exits.os.system"),
    "model a function of ours": lambda good: changed(good, "lightning_gen", model="lightning_gen.commands.call"),
    "network payload": lambda good: changed(good, "hyper_parameters", network="payload.Payload"),
    "likelihood": lambda good: changed(good, "hyper_parameters", likelihood="subprocess.Popen"),
    "term": lambda good: changed(good, "hyper_parameters", terms={"payload.Payload": 1}),
    "activation": lambda good: changed(good, "hyper_parameters", network_args={"activation": "payload.Payload"}),
    "kind of data": lambda good: changed(
        good, "hyper_parameters", spec={**good["hyper_parameters"]["spec"], "kind": "payload.Payload"}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_checkpoint_executes_nothing(name, run, script):
    content = HOSTILE[name](torch.load(run / "checkpoints/last.ckpt", weights_only=True))
    path = replace(run, content)
    said = one_line(script("sample", "run", "--out", "o", "-n", 2, ok=False))
    for command in (("reconstruct", "run", "p.png", "--out", "o"), ("evaluate", "run", "--metrics", "elbo")):
        assert one_line(script(*command, ok=False)) == said
    with pytest.raises(UserError):
        load(path)


DAMAGED = {
    **{
        f"without {key}": lambda good, key=key: {k: v for k, v in good.items() if k != key}
        for key in ("hyper_parameters", "state_dict", "lightning_gen")
    },
    **{
        f"without its {key}": lambda good, key=key: {
            **good,
            "lightning_gen": {k: v for k, v in good["lightning_gen"].items() if k != key},
        }
        for key in ("model", "iteration", "images")
    },
    "no mapping": lambda good: [good],
    "an unknown option": lambda good: changed(good, "hyper_parameters", bogus=1),
    "an option of another type": lambda good: changed(good, "hyper_parameters", latent_dim="x"),
    "options with numbers as names": lambda good: {**good, "hyper_parameters": {**good["hyper_parameters"], 3: 4}},
    "no spec": lambda good: changed(good, "hyper_parameters", spec=5),
    "terms that are none": lambda good: changed(good, "hyper_parameters", terms=3),
    "a model larger than its weights": lambda good: changed(good, "hyper_parameters", latent_dim=10**10),
    "weights that are texts": lambda good: {**good, "state_dict": dict.fromkeys(good["state_dict"], "x")},
    "weights with numbers as names": lambda good: {**good, "state_dict": {1: 2}},
    "weights of another shape": lambda good: {**good, "state_dict": dict.fromkeys(good["state_dict"], torch.ones(3))},
    "a count that is none": lambda good: changed(good, "lightning_gen", iteration="x"),
    "empty": lambda good: b"",
    "text": lambda good: b"hello",
    "null bytes": lambda good: bytes(1000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_one_line_for_every_command(name, run, trained, script):
    replace(run, DAMAGED[name](torch.load(run / "checkpoints/last.ckpt", weights_only=True)))
    for command in (
        ("sample", "run", "-n", 2, "--out", "o"),
        ("reconstruct", "run", "p.png", "--out", "o"),
        ("translate", "run", "p.png", "--out", "o"),
        ("compress", "encode", "run", "p.png", "--out", "f"),
        ("evaluate", "run", "--metrics", "elbo"),
        ("compare", "run", trained, "-n", 2),
    ):
        one_line(script(*command, ok=False))
    if "option" not in name and name not in ("no spec", "terms that are none", "a model larger than its weights"):
        one_line(script("fit", *SHORT, "--init", "run", ok=False))
        one_line(script("fit", "--resume", "run", "--steps", 4, "--trainer.enable_progress_bar", "false", ok=False))


@pytest.mark.parametrize(
    "entry", ["loops", "callbacks", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"]
)
def test_what_the_trainer_restores_may_be_anything(entry, run, script):
    good = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    replace(run, {**good, entry: 3})
    resume = ("fit", "--resume", "run", "--steps", 4, "--trainer.enable_progress_bar", "false")
    assert "does not fit this run" in one_line(script(*resume, ok=False))


@pytest.mark.parametrize("what", ["other files in a zip", "compressed", "a folder", "truncated"])
def test_a_file_that_is_no_checkpoint(what, run, script):
    path = run / "checkpoints/last.ckpt"
    content = path.read_bytes()
    replace(run, content[: len(content) // 2])
    if what == "other files in a zip":
        zipped(hello="world")(path)
    elif what == "compressed":
        path.write_bytes(content)
        with zipfile.ZipFile(path) as good, zipfile.ZipFile(run / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in good.infolist():
                packed.writestr(entry.filename, good.read(entry))
        os.replace(run / "packed", path)
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    one_line(script("sample", "run", "--out", "o", ok=False))


# The working folder

SHADOWS = (
    "constriction",
    "torch",
    "numpy",
    "yaml",
    "PIL",
    "lightning",
    "rich",
    "matplotlib",
    "sklearn",
    "jsonargparse",
)


def test_a_file_of_a_packages_name_in_the_working_folder_is_not_executed(trained, tmp_path, nursery):
    pytest.importorskip("constriction")
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"{LEAVES_A_FILE}raise ImportError('of the working folder')\n")
    encode = ["encode", trained, "--split", "test", "-n", 5, "--out", "f", "--no-others"]
    nursery.run(ROOT / "scripts/compress.py", *encode, cwd=tmp_path)
    nursery.run(ROOT / "scripts/sample.py", trained, "-n", 2, "--sampler", "gmm", "--out", "s", cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for form in (["-m", "lightning_gen", "fit"], [str(ROOT / "scripts/fit.py")]):
        words = [sys.executable, *form, "--model", "vae", "--print_config"]
        result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert result.returncode == 0 and "latent_dim" in result.stdout, result.stderr
    assert not (tmp_path / "executed").exists()


def test_a_name_that_the_user_typed_is_found_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "my_shapes.py").write_text("import my_sizes\nclass Shape:\n    size = my_sizes.SIZE\n")
    (tmp_path / "my_sizes.py").write_text("SIZE = 3\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('the working folder is last')\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(UserError, match="cannot import"):
        names.resolve("no_such_module.Shape", {}, "shape")
    names.resolve("collections.OrderedDict", {}, "class")
    assert sys.path == before  # no name has asked for it
    with names.trusted_imports(["others"]), pytest.raises(UserError, match="asks to import"):
        names.resolve("my_shapes.Shape", {}, "shape")
    assert sys.path == before and "my_shapes" not in sys.modules
    assert names.resolve("my_shapes.Shape", {}, "shape").size == 3
    assert sys.path == [*before, str(tmp_path)]


def test_the_users_own_modules_reach_the_workers_of_a_loader(tmp_path, nursery):
    (tmp_path / "my_set.py").write_text(
        "import torch\nfrom lightning_gen.datamodules.custom import Custom\n\n"
        "class Rows:\n    def __len__(self):\n        return 64\n"
        "    def __getitem__(self, k):\n        import my_numbers\n\n"
        "        return torch.full((2,), my_numbers.ONE * k)\n\n"
        "class Mine(Custom):\n    def __init__(self, **options):\n        super().__init__(Rows(), **options)\n"
    )
    (tmp_path / "my_numbers.py").write_text("ONE = 0.01\n")
    words = ["--data", "my_set.Mine", "--data.num_workers", 1, "--data.batch_size", 16]
    nursery.fit(*SHORT, *words, "--trainer.accelerator", "cpu", cwd=tmp_path)


def test_a_module_that_an_installed_one_hides_is_named(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("class Mine:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"colorsys\.py is not looked at, since 'colorsys' is installed or part of Python"
    ):
        names.resolve("colorsys.Mine", {}, "class")
