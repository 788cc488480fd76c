"""Runs of version 0.1 (tests/data/version_0.1): loaded, sampled, continued, repeated to the values that 0.1 gave."""

import json
import shutil

import pytest
import torch
import yaml
from processes import ROOT

from lightning_gen import load
from lightning_gen.commands import call
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules import earlier, resolve_dataset
from lightning_gen.datamodules.digits import Digits
from lightning_gen.storage import runs

OLD = ROOT / "tests/data/version_0.1"
OURS = "lightning_gen.datamodules.digits.Digits"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Copies of the runs in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize(("name", "y"), [("vae", None), ("cvae", [3, 7])])
def test_its_samples_are_those_of_its_time(name, y):
    expected = torch.tensor(json.loads((OLD / "samples.json").read_text())[name])
    samples = load(OLD / name).sample(2, seed=0, **({} if y is None else {"y": torch.tensor(y)}))
    assert torch.allclose(samples.flatten(1), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["vae", "cvae"])
def test_its_configuration_repeats_the_run(name, old):
    assert "class_path: datamodules.digits.Digits" in (old / name / "config.yaml").read_text()
    plan = cli.resolve_config(*parse_short_options(["--config", str(old / name / "config.yaml")]))
    assert plan.config["data"]["class_path"] == OURS and isinstance(cli.instantiate_data(plan), Digits)
    before, later = runs.read_config(old / name), {"balance": False}  # options that have come since
    before["data"]["init_args"] |= later
    assert before | {"threads": None, "val_examples": None} == plan.config


def test_it_is_resumed_and_sampled_by_the_commands(old, capsys):
    call(["fit", "--resume", str(old / "vae"), "--steps", "60", "--trainer.enable_progress_bar", "false"])
    assert "going on from iteration 40" in capsys.readouterr().out
    loss = json.loads((old / "vae/summary.json").read_text())["final"]["val/loss"]
    assert loss == pytest.approx(223.40509, abs=1e-3)  # what 0.1 reached by the same command
    assert yaml.safe_load((old / "vae/config.yaml").read_text())["data"]["class_path"] == OURS
    call(["sample", str(old / "cvae"), "-n", "2", "--class", "3", "--out", "drawn"])
    assert len(list(old.parent.glob("drawn/0000*.png"))) == 2


def test_what_is_the_users_stays_theirs(tmp_path, monkeypatch):
    config = {"dataset": "digits", "data": {"class_path": "datamodules.mine.Faces", "init_args": {"size": 8}}}
    assert earlier.current(config) == config
    assert earlier.current({"data": {"class_path": "datamodules.digits.Digits"}}) == {"data": {"class_path": OURS}}
    typed = {"dataset": "datamodules.digits.Digits", "data": {"class_path": "datamodules.digits.Digits"}}
    assert earlier.current(typed) == {"dataset": OURS, "data": {"class_path": OURS}}
    assert resolve_dataset("datamodules.digits.Digits") == (OURS, {})
    (tmp_path / "datamodules").mkdir()
    for name in ("__init__", "digits"):
        (tmp_path / f"datamodules/{name}.py").write_text("raise RuntimeError('it is not imported to be found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert earlier.current(typed) == typed  # a name that they typed where they have such a folder
    assert resolve_dataset("datamodules.digits.Digits") == ("datamodules.digits.Digits", {})
    named = {"dataset": "digits", "data": {"class_path": "datamodules.digits.Digits"}}
    assert earlier.current(named)["data"]["class_path"] == OURS  # a name of our table
