"""Why a run ended: by all of its iterations, by a callback, by time; what its end says, and how it goes on."""

import json

import pytest

STOPPER = "lightning.pytorch.callbacks.EarlyStopping"
EARLY = f"[{{class_path: {STOPPER}, init_args: {{monitor: val/loss, patience: 2, min_delta: 1000}}}}]"
SHORT = ["--model", "vae", "--val_every", 10, "--trainer.accelerator", "cpu"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tb_logs/vae-digits/version_0"


def summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_early_stopping_is_named_and_the_run_goes_on(folder, script):
    output = script("fit", *SHORT, "--steps", 3000, "--trainer.callbacks", EARLY).stdout
    assert "stopped by EarlyStopping after 30 of 3,000 iterations" in output and "done: " not in output
    assert "because:    Monitored metric val/loss did not improve in the last 2 records" in output
    assert "go on: " in output and "--resume tb_logs/vae-digits/version_0\n" in output and "extend: " not in output
    first = summary(folder)
    assert first["ended"].startswith("EarlyStopping: ") and first["iterations"] == first["final_iteration"] == 30
    assert first["final"]["val/loss"] > 0
    output = script("fit", "--resume", folder).stdout
    assert "going on from iteration 30" in output and "stopped by EarlyStopping after 40 of 3,000" in output


def test_the_end_names_best_and_final_with_their_iterations(folder, script):
    output = script("fit", *SHORT, "--steps", 20, "--model.lr", "1e-3..0.1@10..20").stdout  # the last ones spoil it
    known = summary(folder)
    assert known["ended"] == "all iterations" and known["final_iteration"] == 20
    best, final = known["best"]["val/loss"], known["final"]["val/loss"]
    assert known["best"]["iteration"] == 10 and final > best
    line = f"best:       loss {best:.4g} at iteration 10 (best.ckpt); final {final:.4g} at 20 (last.ckpt)"
    assert line in output and "done: 20 iterations" in output and "extend: " in output
    assert ", iteration 10, " in script("sample", folder, "-n", 2).stdout
    assert ", iteration 20, " in script("sample", folder, "-n", 2, "--which", "last").stdout


def test_time_is_named_and_a_run_without_any_left_keeps_its_values(folder, script):
    words = ["--steps", 100_000, "--trainer.max_time", "00:00:00:01"]
    output = script("fit", *SHORT, *words).stdout
    assert "stopped by Timer after" in output and "the time of --trainer.max_time is over" in output
    assert "--trainer.max_time DD:HH:MM:SS, of a longer time" in output
    before = summary(folder)
    again = script("fit", "--resume", folder).stdout
    assert f"stopped by Timer after {before['iterations']:,} of 100,000" in again
    assert summary(folder)["final"] == before["final"] and before["final"]
