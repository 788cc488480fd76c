"""The scripts as a user calls them: what they write, and one clear line for each mistake."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import ROOT
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG

from lightning_gen import exits
from lightning_gen.compression import stack
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.errors import UserError
from lightning_gen.presets import FAMILIES, PRESETS
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import load, read_checkpoint

SHORT = ["--model", "vae", "--steps", 60, "--val_every", 30]


def plan(*arguments):
    return cli.resolve_config(*parse_short_options([str(a) for a in arguments])).config


def model_of(*arguments):
    return plan(*arguments)["model"]["init_args"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, nursery):
    """A short finished run."""
    folder = tmp_path_factory.mktemp("run")
    return folder / "tb_logs/vae-digits/version_0", nursery.fit(*SHORT, cwd=folder).output


def test_a_run_writes_what_it_promises(run):
    folder, output = run
    for name in ("config.yaml", "samples.png", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / name).exists(), name
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["iterations"] == 60 and summary["images"] == 60 * 128
    assert summary["final"]["val/loss"] >= summary["best"]["val/loss"] > 0
    assert {"model", "data", "seed", "seconds", "images_per_second", "environment"} <= set(summary)
    assert summary["images"] / summary["images_per_second"] < summary["seconds"]  # validations are left out of the rate
    assert "scripts/sample.py" in output and "--data mnist" in output and "--resume" in output


def test_tensorboard_holds_curves_and_pictures(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars, pictures, hyper = {}, {}, []
    for file in run[0].glob("events*"):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            scalars[tag] = sorted({*scalars.get(tag, ()), *(e.step for e in events.Scalars(tag))})
        with contextlib.suppress(KeyError):
            hyper += events.PluginTagToContent("hparams")
        pictures |= {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}
    assert scalars["train/loss"] == [50]
    assert scalars["val/loss"] == [30, 60]
    assert {"train/reconstruction", "train/kl", "train/images_per_second", "val/nll_is8"} <= set(scalars)
    assert set(hyper) == {SESSION_START_INFO_TAG, SESSION_END_INFO_TAG}  # no columns that would hold for all runs
    final = {f"val/{tag.removeprefix('final/')}": steps for tag, steps in scalars.items() if tag.startswith("final/")}
    assert final == {name: [60] for name in json.loads((run[0] / "summary.json").read_text())["final"]}
    for tag in ("samples", "reconstructions", "traversals", "interpolations"):
        assert pictures[tag] == [30, 60], tag


def test_columns_of_the_table_of_runs_begin_with_what_tells_them_apart():
    first = ["Batch size", "Data", "Learning rate", "Preset"]
    for words, rate in (("vae", 0.001), ("vae --model.lr 2e-4", 2e-4), ("gan --model.lr 1e-3..0", "1e-3..0")):
        row = runs.table_row(plan("--model", *words.split()))
        assert sorted(row)[:4] == first and row["Learning rate"] == rate and row["Batch size"] == 128
        assert row["model.log_every"] == 50 and {type(value) for value in row.values()} <= {int, float, str}
    two = runs.table_row(plan("--model", "vae-gan", "--model.optimizers.encoder.lr", 0.5))
    assert two["Learning rate"].count(", ") == 1


def test_config_gives_back_the_identical_run(run, script, tmp_path):
    folder, _ = run
    script("fit", "--config", folder / "config.yaml")
    again = tmp_path / "tb_logs/vae-digits/version_0"
    assert (again / "config.yaml").read_text(encoding="utf-8") == (folder / "config.yaml").read_text(encoding="utf-8")
    one, two = (read_checkpoint(f / "checkpoints/last.ckpt")["state_dict"] for f in (folder, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_sample(run, script, tmp_path):
    folder, _ = run
    script("sample", folder, "-n", 10, "--seed", 4, "--out", tmp_path / "a", "--traverse", "--interpolate")
    script("sample", folder / "checkpoints/best.ckpt", "-n", 5, "--seed", 4, "--out", tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == [f"{k:05d}.png" for k in range(10)] + ["grid.png", "interpolations.png", "traversals.png"]
    for k in range(5):
        first, second = (pixels(tmp_path / side / f"{k:05d}.png") for side in "ab")
        assert first.shape == (8, 8)
        assert abs(first - second).max() <= 1
    with Image.open(tmp_path / "a/00003.png") as picture:
        text = picture.text
    assert text["seed"] == "4" and text["number"] == "3" and text["model"] == "VAE"
    assert re.fullmatch("[0-9a-f]{64}", text["checkpoint_sha256"])
    assert "trainedAlgorithmicMedia" in text["XML:com.adobe.xmp"]


def test_reconstruct(run, script, tmp_path):
    folder, _ = run
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.jpg")
    script("reconstruct", folder, tmp_path / "red.png", tmp_path / "grey.jpg", "--out", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["grey.png", "grid.png", "red.png"]
    with Image.open(tmp_path / "out/red.png") as picture:
        assert picture.size == (8, 8) and picture.text["original"] == "red.png"


def test_resume_extends_and_init_starts_from_weights(run, script, tmp_path):
    folder, _ = run
    (tmp_path / "tb_logs").mkdir()
    copy = tmp_path / "tb_logs/vae-digits/version_0"
    shutil.copytree(folder, copy)
    assert "60 of 60 iterations; extend it with a larger --steps" in script("fit", "--resume", copy, ok=False).stderr
    refused = script("fit", "--resume", copy, "--steps", 80, "--model.lr", 0.1, ok=False)
    assert refused.returncode == 2 and "model.init_args.lr: None -> 0.1" in refused.stderr
    script("fit", "--resume", copy, "--steps", 80)
    assert json.loads((copy / "summary.json").read_text(encoding="utf-8"))["iterations"] == 80
    script("fit", "--model", "vae", "--steps", 1, "--model.lr", 0.0, "--init", folder, "--name", "tuned")
    tuned = load(tmp_path / "tb_logs/vae-digits-tuned/version_0").state_dict()
    start = load(folder).state_dict()
    assert all(torch.allclose(tuned[n], start[n]) for n in start if "kl_per" not in n)
    config = yaml.safe_load((tmp_path / "tb_logs/vae-digits-tuned/version_0/config.yaml").read_text(encoding="utf-8"))
    assert config["init"] == str(folder)
    other = script("fit", "--model", "vae", "--model.latent_dim", 3, "--init", folder, ok=False)
    assert other.returncode == 2 and "another architecture" in other.stderr


def test_extension_to_any_length_keeps_iterations_and_validations(script, tmp_path):
    """The number of iterations that one batch of the Trainer holds differs before and after: 5, then 1."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    script("fit", "--model", "vae", "--steps", 50, "--val_every", 25)
    folder = tmp_path / "tb_logs/vae-digits/version_0"
    result = script("fit", "--resume", folder / "checkpoints/last.ckpt", "--steps", 104)
    assert "going on from iteration 50" in result.stdout
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["lightning_gen"]["iteration"] == 104
    steps = [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("val/loss")]
    assert sorted(steps) == [25, 50, 75, 100, 104]  # each once
    (folder / "checkpoints/last.ckpt").write_bytes(b"PK broken")
    refused = script("fit", "--resume", folder, "--steps", 120, ok=False)
    assert refused.returncode == 2 and "previous.ckpt" in refused.stderr
    script("fit", "--resume", folder / "checkpoints/previous.ckpt", "--steps", 120)
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["lightning_gen"]["iteration"] == 120


def test_a_run_without_a_logger(script, tmp_path):
    script("fit", *SHORT, "--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    assert (tmp_path / "tb_logs/vae-digits/version_0/pictures/samples/00000060.png").exists()


def test_own_network_term_data_and_logger(script, tmp_path):
    (tmp_path / "pictures/cats").mkdir(parents=True)
    for k in range(12):
        Image.new("RGB", (20, 30), (k * 20, 0, 99)).save(tmp_path / f"pictures/cats/{k}.png")
    (tmp_path / "pictures/cats/broken.png").write_bytes(b"\x89PNG nothing")
    options = ["--model.network", "helpers.tiny", "--model.terms.helpers.roughness", 0.1, "--data.size", 16]
    csv = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.init_args.save_dir", "csv"]
    result = script("fit", *SHORT, "--data", "./pictures", *options, *csv)
    folder = tmp_path / "tb_logs/vae-pictures/version_0"
    assert re.search(r"1 .*broken\.png", result.stdout), result.stdout
    assert (folder / "pictures/samples/00000060.png").exists()  # the logger takes none
    assert list((tmp_path / "csv").rglob("metrics.csv"))
    terms = read_checkpoint(folder / "checkpoints/last.ckpt")["hyper_parameters"]["terms"]
    assert terms["kl"] == 1.0 and 0.1 in (terms.get("helpers.roughness"), terms.get("helpers", {}).get("roughness"))
    with pytest.raises(UserError, match=r"asks to import 'helpers"):
        load(folder)
    load(folder, trust=["helpers"])
    assert "--trust helpers" in result.stdout
    term = script("fit", *SHORT, "--model.terms.helpers.roughness", 0.1)
    assert "--trust helpers" in term.stdout


def test_nan_stops_the_script_with_one_line(script):
    options = ["--steps", 200, "--trainer.callbacks", "[helpers.NaNAt]", "--save_every", 40]
    result = script("fit", "--model", "vae", *options, ok=False)
    assert result.returncode == 2
    assert "player 'vae' became NaN or infinite at iteration 60" in result.stderr
    assert "Traceback" not in result.stderr


MISTAKES = {
    "--model vea": "unknown model 'vea': did you mean 'vae'? known: aae",
    "--model vae --data digts": "unknown data set 'digts': did you mean 'digits'",
    "--model vae --model.latent 3": "unknown option '--model.latent': did you mean '--model.latent_dim'",
    "--model vae --model.latent_dim x": "--model.latent_dim takes int (default 20), not 'x'",
    "--model vae --data.batch_size many": "--data.batch_size takes int (default 128), not 'many'",
    "--model vae --trainer.devces 2": "did you mean '--trainer.devices'",
    "--model vae --trainer.max_steps 3": "use --steps",
    "--model vae --trainer.gradient_clip_val 1": "use --model.clip",
    "--model vae --model.terms.tcc 3": "unknown term 'tcc'",
    "--model vae --model.network_args.hiden 3": "has no option 'hiden'",
    "--model vae --model.likelihood foo": "unknown likelihood 'foo'",
    "--model vae --model.lr fast": "neither a number nor a ramp",
    "--mdel vae": "did you mean '--model'",
    "--model vae --steps x": "--steps",
    "--model vae --steps 0": "at least 1",
    "--model vae --steps 5 --epochs 5": "not both",
    "--model vae --config nothing.yaml": "cannot read the configuration nothing.yaml",
    "--model vae --data nowhere/x.npy": "nowhere/x.npy",
    "--model vae --data folder --data.root .": "no image in",
    "--model vae --resume nowhere": "no run folder",
    "--model vae --init nowhere": "no run folder or checkpoint at nowhere",
    "--model no_such_module.Model": "no_such_module",
    "--model vae --model.network dcgan --data toy": "dcgan",
    "--model vae --model.latent_dim 0": "latent_dim 0: it must be at least 1",
    "--model vae --model.log_every 0": "log_every 0: it must be at least 1",
    "--model vae --model.accumulate 3": "--model.accumulate 3 does not divide --data.batch_size 128",
    "--model vae --model.lr -1": "must not be negative",
    "--model vae --data.batch_size 0": "batch_size 0 must be at least 1",
    "--model vae --trainer.devices 1.x": "the Trainer refuses its options",
    "--model vae --model.ema.vae x": "--model.ema takes",
    "--model vae --seed -1": "--seed -1: it must be a whole number",
    "--model vae --model.optimizers.vae.betas 0.9": "give two numbers in [0, 1)",
    "--model vae --model.optimizers.vae.eps x": "optimizers.vae.eps 'x': it must be a number",
    "--model vae --model.likelihood torch.nn.Linear": "is no Likelihood",
    "--model vae --model.network_args.activation os.path": "is no Module",
    "--model vae --trainer.precision bf16-true": "use 32-true, bf16-mixed or 16-mixed",
    "--model vae --trainer.logger lightning.pytorch.loggers.MLFlowLogger": "the Trainer refuses its options",
    "--model lightning_gen.training.module.GenerativeModule": "is a base class",
    "--model vae --model.clip -1": "clip -1.0",
    "--model vae --resume nowhere --config x": "drop --config",
    "--model vae stray": "unexpected argument 'stray'",
    "--model vae --model.latent_dim": "needs a value",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_one_line_for_a_mistake(arguments, script, tmp_path):
    said = script("fit", *arguments.split(), ok=False)
    assert said.returncode == 2
    assert MISTAKES[arguments] in said.stderr
    assert said.stderr.startswith("error: ") and said.stderr.count("\n") == 1
    assert not list(tmp_path.glob("tb_logs/*/*/*")), "a mistake leaves no run behind"


def test_a_locale_without_arrows(monkeypatch):
    """As LC_ALL=C where Python is told not to use UTF-8."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    with pytest.raises(SystemExit) as stop:
        exits.run_main(lambda _: print("2 \N{PLUS-MINUS SIGN} 1"))
    assert stop.value.code == 0 and written.getvalue().split() == [b"2", b"?", b"1"]


def test_a_missing_extra_is_said(run, script, tmp_path, monkeypatch):
    """Whether it is there or not; what goes on with it is tested in test_compress*.py, where it is there."""
    Image.new("L", (8, 8), 200).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "constriction", None)
    result = script("compress", "encode", run[0], "a.png", "--out", "new", ok=False)
    assert result.returncode == 2 and "pip install constriction" in result.stderr
    assert stack.initial_words(1).dtype == np.uint32


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_a_command_is_a_script(name, tmp_path, nursery):
    """In a process of its own; all else about commands is tested in this one."""
    run = nursery.run(ROOT / f"scripts/{name}.py", "--no_such_option", 1, cwd=tmp_path, ok=False)
    assert run.returncode == 2 and run.errors.startswith("error: ") and run.errors.count("\n") == 1, run.errors
    assert not list(tmp_path.iterdir())


def test_a_new_interpreter(tmp_path):
    """Which has imported nothing yet."""
    command = [sys.executable, str(ROOT / "scripts/fit.py"), "--model", "vea"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr


def test_layers():
    assert model_of("--model", "vae")["latent_dim"] == PRESETS["vae"].arguments["latent_dim"]
    assert model_of("--model", "vae", "--model.latent_dim", 3)["latent_dim"] == 3
    assert model_of("--model", "vae", "--model.terms.kl", "0..4@10")["terms"] == {"kl": "0..4@10"}
    assert model_of("--model", "vae", "--model.terms.kl.free_bits", 0.1)["terms"]["kl"] == {
        "weight": 1.0,
        "free_bits": 0.1,
    }
    optimizers = model_of("--model", "vae", "--model.optimizers.vae.lr", "1e-4")["optimizers"]
    assert optimizers["vae"]["lr"] == 1e-4 and optimizers["vae"]["betas"] == [0.9, 0.999]
    assert plan("--model", "vae-mnist")["data"]["init_args"]["binarize"] == "dynamic"
    assert plan("--model", "vae-mnist", "--data", "digits")["data"]["init_args"]["binarize"] == "none"


def test_a_partial_file_lies_between_preset_and_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"steps": 7, "model": {"init_args": {"latent_dim": 5, "terms": {"kl": 2}}}}))
    config = plan("--model", "vae", "--config", file, "--model.latent_dim", 6)
    assert config["steps"] == 7
    assert config["model"]["init_args"]["latent_dim"] == 6
    assert config["model"]["init_args"]["terms"] == {"kl": 2}


def test_options_of_a_network_stay_with_it(tmp_path):
    assert model_of("--model", "conv-vae")["network_args"]["width"] == 32
    assert model_of("--model", "conv-vae", "--model.network", "mlp")["network_args"] == {}
    chosen = plan("--model", "conv-vae", "--model.network", "mlp", "--model.network_args.dropout", 0.1)
    assert chosen["model"]["init_args"]["network_args"] == {"dropout": 0.1}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(chosen))
    assert plan("--config", file) == chosen
    file.write_text(yaml.safe_dump(plan("--model", "vae", "--model.terms.kl", "null")))
    assert plan("--config", file)["model"]["init_args"]["terms"] == {"kl": None}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("model: 3", "must be a mapping, not 3"),
        ("trainer: null", "must be a mapping"),
        ("preset: 5", "must be a name"),
        ("model: {latent_dim: 5}", "holds class_path and init_args"),
        ("model: {init_args: null}", "holds class_path and init_args"),
        ("save_every: 0", "--save_every 0"),
        ("trainer: {max_steps: 5}", "use --steps"),
        ("stepz: 5", "did you mean 'steps'"),
        ("[1, 2]", "is no mapping"),
        ("{", "is no YAML"),
    ],
)
def test_malformed_files(tmp_path, text, error):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=error):
        plan("--config", tmp_path / "bad.yaml")


def test_a_file_names_its_own_class_of_data(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {class_path: lightning_gen.datamodules.toy.Toy}\n")
    assert plan("--model", "vae", "--config", file)["dataset"] == "lightning_gen.datamodules.toy.Toy"


def test_a_file_of_another_model_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: beta-vae\n")
    with pytest.raises(UserError, match="contradicts 'beta-vae'"):
        plan("--model", "vae", "--config", file)


def test_removing_a_term(tmp_path):
    assert model_of("--model", "vae", "--model.terms.kl", "null")["terms"] == {"kl": None}


def test_lists_and_help(script):
    listing = script("fit").stdout
    assert all(family.recommended in listing for family in FAMILIES.values()) and "mnist" in listing
    assert listing.startswith(script("list").stdout) and "try: python scripts/fit.py --model vae" in listing
    text = script("fit", "--model", "beta-vae", "--help").stdout
    assert "--model.terms" in text and "'kl': 4.0" in text and "--resume RUN" in text
    assert len(script("fit", "--help", "all").stdout) > 2 * len(text)
    short = script("fit", "--help").stdout
    assert "--resume RUN" in short and "--help --model NAME" in short and "options of vae" not in short
