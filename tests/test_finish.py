"""What was killed at its end is finished, what was edited is refused, and nothing is promised that is not there."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import FIT

from lightning_gen.cluster.launcher import checkpoint_folder
from lightning_gen.storage.checkpoints import how_to_go_on, read_checkpoint

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
RUN = ["--model", "vae", "--model.network_args.hidden", "[8]", "--steps", 10, "--val_every", 5]
FOLDER = "tb_logs/vae-digits/version_0"
OTHERS = ("environment", "seconds", "images_per_second")  # of a summary: they are of the process that wrote it


@pytest.fixture(scope="module")
def whole(tmp_path_factory, nursery):
    """A finished run."""
    place = tmp_path_factory.mktemp("whole")
    nursery.fit(*RUN, cwd=place)
    return place / FOLDER


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, at its place."""
    shutil.copytree(whole, tmp_path / FOLDER)
    return tmp_path / FOLDER


def summary(folder):
    return {k: v for k, v in json.loads((folder / "summary.json").read_text()).items() if k not in OTHERS}


def one_line(said, text):
    assert said.returncode == 2 and re.fullmatch(rf"error: {text}\n", said.stderr), said.stderr + said.stdout


# Killed at the end


def test_a_run_without_its_summary_is_finished(run, whole, script):
    """As after kill -9 between the last checkpoint and the end: the same summary, and the same picture."""
    for name in ("summary.json", "samples.png"):
        (run / name).unlink()
    before = (run / "checkpoints/last.ckpt").read_bytes()
    said = script("fit", "--resume", FOLDER)
    assert f"{FOLDER} has all of its iterations, but no summary.json of them: finishing it" in said.stdout
    assert summary(run) == summary(whole) and (run / "samples.png").read_bytes() == (whole / "samples.png").read_bytes()
    assert summary(run)["final"] and summary(run)["best"]["val/loss"] is not None
    assert (run / "checkpoints/last.ckpt").read_bytes() == before, "nothing is trained"
    one_line(script("fit", "--resume", FOLDER, ok=False), rf"{FOLDER} is complete: 10 of 10 iterations; extend it .*")


def test_a_run_that_was_extended_is_finished(run, whole, script):
    """The summary that is there is of its first 10 iterations."""
    script("fit", "--resume", FOLDER, "--steps", 20)
    expected = summary(run)
    for broken in ((whole / "summary.json").read_bytes(), b"{", b"[]"):
        (run / "summary.json").write_bytes(broken)
        assert "finishing it" in script("fit", "--resume", FOLDER).stdout
        assert summary(run) == expected and expected["iterations"] == 20


def test_seconds_of_a_run_that_is_finished_later_are_those_of_its_training(run, whole, script):
    (run / "summary.json").unlink()
    script("fit", "--resume", FOLDER)
    now, before = (json.loads((folder / "summary.json").read_text()) for folder in (run, whole))
    assert 0 < now["seconds"] <= before["seconds"] and now["images_per_second"] > 0


PIX2PIX = (
    "--model pix2pix --data outline-shapes --data.paired true --data.size 32 --data.batch_size 2 --model.network unet"
)
PIX2PIX += " --model.network_args.width 4 --model.critic_args.width 4 --model.critic_args.layers 1"


@pytest.mark.parametrize(
    ("arguments", "name", "picture"),
    [
        (PIX2PIX, "pix2pix-outline-shapes", "translations.png"),
        (
            "--model gan --data toy --model.network_args.hidden [4] --trainer.limit_val_batches 1",
            "gan-toy",
            "density.gif",
        ),
    ],
)
def test_pictures_of_other_models_are_made_too(tmp_path, script, arguments, name, picture):
    """Translations of the same held-out pictures, and the animation."""
    script("fit", *arguments.split(), "--steps", 2, "--val_every", 1)
    folder = tmp_path / f"tb_logs/{name}/version_0"
    before = (folder / picture).read_bytes()
    for file in ("summary.json", picture):
        (folder / file).unlink()
    script("fit", "--resume", folder)
    assert (folder / "summary.json").exists() and (folder / picture).read_bytes() == before


@posix
def test_sigterm_while_a_run_is_finished(tmp_path, nursery):
    """At once, with 143 and the way on, which finishes it."""
    options = ["--model", "helpers.SlowToFinish", "--data", "digits", "--steps", 4, "--val_every", 4]
    process = nursery.start(FIT, *options, cwd=tmp_path)
    process.until((tmp_path / "finishing").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143, process.errors
    assert "stopped by SIGTERM; everything is saved. Go on with:" in process.output and not process.errors
    folder = tmp_path / "tb_logs/slowtofinish-digits/version_0"
    assert not (folder / "summary.json").exists() and not list(folder.rglob("*.part"))
    (tmp_path / "go").touch()
    assert "finishing it" in nursery.fit("--resume", folder, cwd=tmp_path).output
    assert summary(folder)["iterations"] == 4


@posix
@pytest.mark.parametrize("hook", ["on_train_end", "on_validation_end"])
def test_sigterm_after_the_last_iteration(tmp_path, nursery, hook):
    """Noted after the last boundary, or before it: 143 like everywhere."""
    ends = f"[{{class_path: helpers.Terminated, init_args: {{hook: {hook}}}}}]"
    run = nursery.fit(*RUN, "--val_every", 10, "--trainer.callbacks", ends, cwd=tmp_path, ok=False)
    assert run.returncode == 143 and "everything is saved. Go on with:" in run.output and not run.errors, run.said
    assert read_checkpoint(tmp_path / FOLDER / "checkpoints/last.ckpt")["lightning_gen"]["iteration"] == 10
    assert not (tmp_path / FOLDER / "summary.json").exists()
    nursery.fit("--resume", FOLDER, "--trainer.callbacks", "null", cwd=tmp_path)
    assert summary(tmp_path / FOLDER)["iterations"] == 10


# Edited


def edited(run, **changes):
    """config.yaml with other values at these dotted places."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in changes.items():
        *path, name = key.split("__")
        place = config
        for part in path:
            place = place[part]
        place[name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__init_args__lr": 0.5}, r"model\.init_args\.lr: None -> 0\.5"),
        ({"model__init_args__latent_dim": 3}, r"model\.init_args\.latent_dim: 16 -> 3"),
        ({"model__init_args__ema": {"vae": 5.0}}, r"model\.init_args\.ema\.vae: None -> 5\.0"),
        ({"data__init_args__batch_size": 7}, r"data\.init_args\.batch_size: 128 -> 7"),
        ({"seed": 3}, r"seed: 0 -> 3"),
        ({"best_by": "val/elbo"}, r"best_by: None -> 'val/elbo'"),
        ({"seed": 3, "model__init_args__latent_dim": 3}, r"model\.init_args\.latent_dim: 16 -> 3, seed: 0 -> 3"),
        ({"model__class_path": "lightning_gen.models.gan.GAN"}, r"model\.class_path: '.*' -> '.*'"),
    ],
)
def test_an_edited_configuration_is_refused(run, script, changes, said):
    edited(run, **changes)
    refused = script("fit", "--resume", FOLDER, "--steps", 20, ok=False)
    text = rf"{FOLDER}/config\.yaml was edited since {FOLDER}/checkpoints/last\.ckpt was written: {said}\. --resume "
    text += rf"goes on with the same experiment: undo this, or start a new run from its weights, with --init {FOLDER}"
    one_line(refused, text)
    assert summary(run)["iterations"] == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer": [1]}, r"trainer in the configuration of {} is damaged: it is \[1\], and not a mapping of options"),
        ({"trainer": None}, r"trainer in the configuration of {} is damaged: it is None, and not a mapping of options"),
        ({"model": "x"}, r"model in the configuration of {} is damaged: it is 'x', and not a mapping of options"),
        ({"data": None}, r"data in the configuration of {} is damaged: it is None, and not a mapping of options"),
        ({"preset": 3}, r"preset in the configuration of {} is damaged: it is 3, and not a name"),
        ({"dataset": ["a"]}, r"dataset in the configuration of {} is damaged: it is \['a'\], and not a name"),
    ],
)
def test_a_configuration_of_another_form_is_refused(run, script, changes, said):
    edited(run, **changes)
    text = said.format(FOLDER)
    one_line(script("fit", "--resume", FOLDER, "--steps", 20, ok=False), text)
    one_line(script("fit", "--resume", FOLDER, "--print_config", ok=False), text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer__max_steps": 5}, r"trainer\.max_steps in .* is not used here: use --steps"),
        ({"model__init_args": [1]}, "model in .* holds class_path and init_args: .*"),
        ({"data": {"class": "x"}}, "data in .* holds class_path and init_args: .*"),
        ({"speed": 9}, r"unknown key of the configuration 'speed'.*"),
    ],
)
def test_entries_that_no_configuration_has_are_refused(run, script, changes, said):
    edited(run, **changes)
    one_line(script("fit", "--resume", FOLDER, "--steps", 20, ok=False), said)


def test_what_may_change_is_said(run, script):
    """As after --steps 20 that was killed before its first checkpoint: the file says 20, the checkpoint 10."""
    edited(run, steps=20, save_every=3)
    said = script("fit", "--resume", FOLDER).stdout
    assert "config.yaml differs from the checkpoint in what may change: save_every: 500 -> 3, steps: 10 -> 20\n" in said
    assert summary(run)["iterations"] == 20
    assert "differs" not in script("fit", "--resume", FOLDER, "--steps", 25).stdout


def test_a_checkpoint_of_before_goes_on_with_one_line(run, script):
    last = run / "checkpoints/last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["lightning_gen_config"]
    for name in ("final", "monitor"):
        del next(value for key, value in state["callbacks"].items() if "Checkpoints" in key)[name]
    torch.save(state, last)
    edited(run, seed=0)
    said = script("fit", "--resume", FOLDER, "--steps", 20).stdout
    assert "holds no configuration: whether config.yaml was edited is not known" in said
    assert summary(run)["iterations"] == 20 and "lightning_gen_config" in read_checkpoint(last)


# Promises


def test_the_last_checkpoint_is_good_where_there_is_one(tmp_path):
    assert how_to_go_on(tmp_path) == "No checkpoint was saved yet: start the run again"
    assert how_to_go_on(tmp_path, "wait, then ") == "No checkpoint was saved yet: wait, then start the run again"
    (tmp_path / "best.ckpt").touch()
    assert how_to_go_on(tmp_path).startswith("No checkpoint"), "a run goes on from its last state"
    (tmp_path / "previous.ckpt").touch()
    assert how_to_go_on(tmp_path) == f"The last checkpoint is good: go on with --resume {tmp_path.parent}"
    assert how_to_go_on(None) == "What was saved before is whole"


def test_of_a_trainer_without_our_checkpoints_nothing_is_known(trainer):
    assert checkpoint_folder(trainer()) is None


@pytest.mark.parametrize(
    ("every", "said"), [(500, "No checkpoint was saved yet: start"), (20, "The last checkpoint is good: go on")]
)
def test_a_run_that_diverges(tmp_path, script, every, said):
    options = [
        *RUN,
        "--steps",
        100,
        "--val_every",
        100,
        "--trainer.callbacks",
        "[helpers.NaNAt]",
        "--save_every",
        every,
    ]
    ended = script("fit", *options, ok=False)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and ended.stderr.startswith("error: the loss of")
    assert said in ended.stderr and "became NaN or infinite at iteration 60" in ended.stderr
    assert ("The last checkpoint is good" in ended.stderr) is (tmp_path / FOLDER / "checkpoints/last.ckpt").exists()


@pytest.fixture
def diverged(run):
    """The run with NaN weights in all checkpoints."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        state["state_dict"] = {
            k: v.fill_(np.nan) if v.is_floating_point() else v for k, v in state["state_dict"].items()
        }
        torch.save(state, path)
    return run


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (
            "sample",
            [FOLDER, "-n", 4, "--out", "made"],
            rf"samples of {FOLDER}/checkpoints/\w+\.ckpt: 4 of 4 are not finite",
        ),
        ("reconstruct", [FOLDER, "a.png", "--out", "made"], r"reconstructions by \S+: 1 of 1 are not finite"),
        ("compare", [FOLDER, "other", "--out", "made"], r"samples of \S+: 16 of 16 are not finite"),
        ("compress", ["encode", FOLDER, "a.png", "--out", "made"], ".*not finite"),
    ],
)
def test_what_a_diverged_model_makes_is_not_written(tmp_path, diverged, whole, script, command, arguments, said):
    if command == "compress":
        pytest.importorskip("constriction")
    shutil.copytree(whole, tmp_path / "other")
    Image.new("L", (8, 8), 99).save(tmp_path / "a.png")
    refused = script(command, *arguments, ok=False)
    one_line(refused, f"{said}.*diverged.*")
    assert not (tmp_path / "made").exists()
