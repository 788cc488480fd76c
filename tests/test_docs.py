"""The docs are true: commands parse, snippets run, tables are complete, links lead somewhere, budgets hold."""

import ast
import contextlib
import importlib
import inspect
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image
from processes import ROOT

from lightning_gen import datamodules
from lightning_gen.adversarial.augment import AUGMENTATIONS
from lightning_gen.adversarial.stability import VERDICTS
from lightning_gen.cluster import restart
from lightning_gen.commands import (
    benchmark,
    call,
    evaluate,
    fit,
    train_extractor,
    translate,
)
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.evaluation import report
from lightning_gen.evaluation.samplers import SAMPLERS
from lightning_gen.models.choices import CONDITIONS
from lightning_gen.models.solvers import SOLVERS
from lightning_gen.models.vqvae import VQ_NETWORKS
from lightning_gen.networks import NETWORKS, TRANSLATORS
from lightning_gen.networks.denoisers import DENOISERS
from lightning_gen.networks.quantizer import QUANTIZERS
from lightning_gen.objectives.adversarial import ADVERSARIAL
from lightning_gen.objectives.estimators import ESTIMATORS
from lightning_gen.objectives.generator import GENERATOR_TERMS
from lightning_gen.objectives.likelihoods import LIKELIHOODS
from lightning_gen.objectives.penalties import PENALTIES
from lightning_gen.objectives.priors import PRIORS
from lightning_gen.objectives.terms import CODE_TERMS, QUANTIZED_TERMS, TERMS
from lightning_gen.objectives.translation import TRANSLATION_TERMS
from lightning_gen.presets import PRESETS
from lightning_gen.storage import runs

READMES = ("README.md", "README.zh-CN.md")
PAGES = [*READMES, "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
OWN = "docs/your-own.md"
GAN_PAGE, VAE_PAGE, PAIR_PAGE, VQ_PAGE = "docs/gan.md", "docs/vae.md", "docs/translation.md", "docs/vq.md"
FLOW_PAGE = "docs/flow.md"
FAMILIES = {  # module of a preset's model -> its page; all others are of the VAEs
    "lightning_gen.models.gan": GAN_PAGE,
    "lightning_gen.models.vqvae": VQ_PAGE,
    "lightning_gen.models.flow": FLOW_PAGE,
    **{f"lightning_gen.models.{name}": PAIR_PAGE for name in ("cyclegan", "pix2pix", "cut")},
}
TABLES = {
    VAE_PAGE: (TERMS, CODE_TERMS, PRIORS, ESTIMATORS, LIKELIHOODS, NETWORKS, SAMPLERS),
    GAN_PAGE: (ADVERSARIAL, PENALTIES, GENERATOR_TERMS, AUGMENTATIONS, CONDITIONS, NETWORKS, VERDICTS),
    PAIR_PAGE: (TRANSLATION_TERMS, TRANSLATORS),
    VQ_PAGE: (QUANTIZERS, QUANTIZED_TERMS, VQ_NETWORKS),
    FLOW_PAGE: (SOLVERS, DENOISERS),
}


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.M | re.S)


def commands(page):
    return [line for block in blocks(page, "bash") for line in block.splitlines()]


def script_calls(page):
    """(script, arguments) of each call of a script, redirections left out."""
    for line in commands(page):
        for part in line.partition(" > ")[0].split(" && "):
            words = shlex.split(part.removeprefix("PYTHONPATH=. "))
            place = next((k for k, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word)), None)
            if place and words[0] in ("python", "srun", "torchrun"):
                yield words[place].removeprefix("scripts/").removesuffix(".py"), words[place + 1 :]


CALLED = ("README.md", VAE_PAGE, GAN_PAGE, PAIR_PAGE, VQ_PAGE, "docs/evaluation.md", "docs/cluster.md")
CALLS = [(page, *call) for page in CALLED for call in script_calls(page)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's folder: what the docs speak of is there, and nothing is remembered from other folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    known = set(sys.modules)
    (tmp_path / "pictures/cats").mkdir(parents=True)
    (tmp_path / "pictures/dogs").mkdir()
    for k in range(12):
        image = Image.fromarray(np.full((20, 30, 3), 20 * k, np.uint8))
        image.save(tmp_path / "pictures" / ("cats" if k % 2 else "dogs") / f"{k}.png")
    for side in ("photos", "paintings", "drawings", "more_photos", "side_by_side"):
        (tmp_path / side).mkdir()
        for k in range(12):
            wide = 2 if side == "side_by_side" else 1
            Image.fromarray(np.full((72, 72 * wide, 3), 20 * k, np.uint8)).save(tmp_path / side / f"{k}.png")
    image.save("one.png")
    image.save("three.png")
    image.save("two.jpg")
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(50, 6)))
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def plan(*arguments):
    return cli.resolve_config(*parse_short_options([str(a) for a in arguments]))


def test_both_readmes_have_the_same_commands_and_snippets():
    english, chinese = READMES
    assert commands(english) == commands(chinese)
    assert blocks(english, "python") == blocks(chinese, "python")


def test_the_first_lines_set_up_everything():
    first, second, *_ = commands("README.md")
    assert first == "pip install -e . && python scripts/fit.py --model vae"
    assert second == 'pip install -e ".[dev]" && python -m pytest -n 2'
    assert [line for line in text_of("README.md").splitlines() if "python -m pytest" in line] == [second]
    assert "grep -m 1 'python -m pytest' README.md" in text_of(".ci/run")  # which takes it from there


PARSED = {  # what takes minutes is only parsed
    "benchmark": lambda arguments: benchmark._benchmark(*benchmark._parse(arguments), None),
    "train_extractor": train_extractor._parse,
    "evaluate": evaluate._parse,
}


@pytest.mark.parametrize(("page", "script", "arguments"), CALLS)
def test_every_command_is_understood(page, script, arguments, place, capsys):
    """fit.py plans the run, with all checks of its options; others are parsed, or run on models of two iterations."""
    if script == "list":
        call([script, *arguments])
        assert capsys.readouterr().out.count("\n  ") > 3
    elif "--help" in arguments:
        with contextlib.suppress(SystemExit):
            call([script, *arguments])
        assert "usage: " in capsys.readouterr().out
    elif script == "fit":
        understood(arguments, place)
    elif script in PARSED:
        PARSED[script](arguments)
    elif script == "translate":
        small = [
            "--model.network_args.width",
            "4",
            "--model.network_args.blocks",
            "1",
            "--model.critic_args.width",
            "4",
        ]
        sides = ["--data", "unpaired", "--data.a", "photos", "--data.b", "paintings", "--data.size", "32"]
        fit.main([str(word) for word in ("--model", "cyclegan", *sides, *small, "--steps", 2)])
        translate.main(arguments)
        assert len(list((place / "translated").glob("[0-9]*.png"))) == 12
    else:
        for model in re.findall(r"tb_logs/([\w-]+)-digits", " ".join(arguments)) or ["vae"]:
            fit.main(["--model", model, "--steps", "2"])
        call([script, *arguments])
        assert list(place.rglob("comparison.png" if script == "compare" else "grid.png"))


def understood(arguments, place):
    usual = plan("--model", "vae").config
    sides = plan("--model", "cyclegan", "--data", "unpaired", "--data.a", "photos", "--data.b", "paintings").config
    for config in (usual, sides):
        runs.write_config(config, runs.new_folder(config))
    (place / "mine.yaml").write_text(runs.dump(usual))
    given, rest = parse_short_options(arguments)
    if "resume" in given:
        saved = cli.read_config(str(runs.find_run_folder(given.pop("resume")) / runs.CONFIG))
        assert not restart.config_changes(saved, cli.resolve_config(given, rest, base=saved).config, restart.MAY_CHANGE)
    else:
        cli.resolve_config(given, rest)


def test_the_snippet_of_the_evaluation_page_runs(place):
    (snippet,) = blocks("docs/evaluation.md", "python")
    names = {}
    exec(compile(snippet, "docs/evaluation.md", "exec"), names)
    assert 0.8 < names["values"]["coverage"] <= 1


def test_the_evaluation_page_names_every_value(place):
    """Of a model on labelled images, of one on points, and what the groups are called."""
    text = text_of("docs/evaluation.md")
    quick = ["--steps", 2, "--model.network", "mlp", "--trainer.limit_val_batches", 1]
    for data in ("digits", "toy", "shapes"):
        folder = fit.train(plan("--model", "vae", "--data", data, *quick))
        evaluate.main([str(folder), "-n", "400", "--k", "3", "--draws", "100"])
        for name in report.read(folder / "evaluation.json")["values"]:
            shown = re.sub("^dci_.*", "dci_*", re.sub("_(digits_v1|raw)$", "_X", name.replace("_is3", "_is500")))
            assert f"`{shown}`" in text


def test_the_snippet_of_the_readme_runs(place):
    (snippet,) = blocks("README.md", "python")
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["pictures"].shape == (16, 1, 8, 8)
    assert names["model"].iteration == 50


def test_the_page_for_your_own_runs(place):
    """Snippets that begin with a file's name are files; the others run; then the commands do, but for four steps."""
    snippets = blocks(OWN, "python")
    for snippet in [*snippets, *blocks(OWN, "yaml")]:
        if found := re.match(r"# (\w+\.(py|yaml))\n", snippet):
            (place / found.group(1)).write_text(snippet)
            sys.modules.pop(found.group(1).removesuffix(".py"), None)  # another test's of that name
    assert len(list(place.glob("*.py"))) == 6
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{OWN} snippet {number}", "exec"), {"__name__": f"snippet_{number}"})
    fitted = 0
    for script, arguments in script_calls(OWN):
        if script == "fit":
            fit.main([*arguments, "--steps", "4"])
            fitted += 1
        elif script == "benchmark":
            b, budget = PARSED[script](arguments)
            assert [benchmark._check(b, budget, row) for row in b.rows] == [[], []]
        else:
            call([script, *arguments])
    assert len(list(place.glob("tb_logs/*/version_*/samples.png"))) == fitted
    values = report.read(place / "tb_logs/vae-digits/version_0/evaluation.json")["values"]
    ratio, level = values["sharpness.ratio"], values["sharpness.level"]
    assert ratio["better"] == "near 1" and level["better"] is None and "(my_metrics.sharpness)" in ratio["how"]
    assert ratio["floor"] == pytest.approx(1, abs=0.1) and "fd_digits_v1" in values


@pytest.mark.parametrize("page", READMES)
def test_the_tables_are_complete(page):
    rows = set(re.findall(r"^\| `([\w.-]+)` \|", text_of(page), re.M))
    scripts = {path.name for path in (ROOT / "scripts").glob("*.py")}
    assert set(PRESETS) | set(datamodules.DATASETS) | scripts <= rows


def page_of(preset):
    return FAMILIES.get(preset.model.rpartition(".")[0], VAE_PAGE)


@pytest.mark.parametrize("page", TABLES)
def test_a_family_page_is_complete(page):
    text = text_of(page)
    for table in TABLES[page]:
        assert [name for name in table if f"| `{name}` |" not in text] == []
    rows = [name for name, preset in PRESETS.items() if page_of(preset) == page]
    assert len(rows) >= 3
    assert [name for name in rows if f"| `{name}` |" not in text or text.count(f"`{name}`") < 2] == []


EVERYTHING = [  # that a game on images can log
    *("--model", "acgan", "--model.critic_args.norm", "none", "--model.codes.continuous", 1, "--model.n_critic", 2),
    *(word for name in PENALTIES for word in (f"--model.penalties.{name}", 0.1)),
    *("--model.terms.feature_matching", 1, "--model.ema.generator", 100, "--model.lr", "1e-3..0@100%"),
]


@pytest.mark.parametrize(
    ("page", "arguments", "least"),
    [
        (VAE_PAGE, ["--model", "vae"], 8),
        (VQ_PAGE, ["--model", "vq-vae"], 15),
        (FLOW_PAGE, ["--model", "flow"], 2),
        (GAN_PAGE, EVERYTHING, 30),
        (GAN_PAGE, ["--model", "r3gan-toy"], 20),
        (PAIR_PAGE, ["--model", "cyclegan", "--model.network_args.width", 4, "--data.batch_size", 1], 25),
        (PAIR_PAGE, ["--model", "cut", "--model.network_args.width", 4, "--data.batch_size", 1], 15),
        (PAIR_PAGE, ["--model", "pix2pix", "--model.network_args.width", 4, "--data.batch_size", 1], 15),
    ],
)
def test_a_family_page_names_what_a_run_logs(page, arguments, least, place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = text_of(page)
    folder = fit.train(plan(*arguments, "--steps", 2, "--val_every", 2, "--model.log_every", 1))
    (events, *_) = sorted(folder.glob("events*"))
    tags = EventAccumulator(str(events)).Reload().Tags()
    logged = [tag for tag in tags["scalars"] if re.match("train|val", tag)]
    assert len(logged) > least
    shown = [re.sub("val/fd_.*@.*", "val/fd_X@N", tag) for tag in logged]
    assert [tag for tag in shown if f"`{tag}`" not in text] == []
    assert [tag for tag in tags["images"] if f"**{tag}**" not in text] == []


def test_the_snippet_of_the_gan_page_runs(place):
    (snippet,) = blocks(GAN_PAGE, "python")
    names = {}
    exec(compile(snippet, GAN_PAGE, "exec"), names)
    assert names["threes"].shape == (16, 1, 8, 8) and names["logits"].shape == (16,)
    assert names["threes"].abs().max() <= 1


def test_the_snippet_of_the_translation_page_runs(place):
    (snippet,) = blocks(PAIR_PAGE, "python")
    names = {}
    exec(compile(snippet, PAIR_PAGE, "exec"), names)
    assert names["filled"].shape == (4, 3, 32, 32) and names["filled"].abs().max() <= 1


def test_the_snippet_of_the_vq_page_runs(place):
    (snippet,) = blocks(VQ_PAGE, "python")
    names = {}
    exec(compile(snippet, VQ_PAGE, "exec"), names)
    assert names["tokens"].shape == (4, 16) and names["threes"].shape == (8, 1, 8, 8)
    assert names["pictures"].equal(names["model"].reconstruct(names["x"]))
    assert all(100 < bits < 150 for bits in names["bits"])  # 16 tokens of 8 bits, to a prior that knows nothing


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page):
    text, folder = text_of(page), (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert (folder / link).exists(), link
    for path in re.findall(r"`((?:lightning_gen|datamodules|scripts|tests|docs|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_pictures_are_small():
    for path in (ROOT / "docs/images").iterdir():
        assert path.stat().st_size < 300_000, path.name


def lines_of(*patterns):
    files = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}


def test_the_budgets_of_the_architecture_hold():
    assert max(lines_of("lightning_gen/models/*.py").values()) <= 300
    assert max(lines_of("lightning_gen/training/module.py").values()) <= 250
    assert max(lines_of("lightning_gen/**/*.py", "datamodules/*.py").values()) <= 400
    assert max(lines_of("lightning_gen/objectives/*.py").values()) <= 200
    core = ("training/module", "schedule", "config/cli")
    assert 0 < sum(lines_of(*(f"lightning_gen/{name}.py" for name in core)).values()) <= 800


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_a_benchmark_uses_of_the_package_exists(path):
    """Imports, and attributes of imported modules; nothing of it is run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lightning_gen"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("lightning_gen"):
                    importlib.import_module(alias.name)
    modules = {name: value for name, value in found.items() if inspect.ismodule(value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
