"""Interruptions of runs on several processes: stopped together, resumed bit by bit, and what is lost is named."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_resume import same

from lightning_gen.storage.checkpoints import read_checkpoint

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds the ranks in Linux' /proc")
VAE = ["--model", "vae", "--steps", 120, "--val_every", 60, "--save_every", 10, "--trainer.accelerator", "cpu"]
LONG = [
    "--model",
    "vae",
    "--steps",
    100_000,
    "--val_every",
    100_000,
    "--save_every",
    20,
    "--trainer.accelerator",
    "cpu",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}


def start(folder, *arguments):
    command = [sys.executable, str(ROOT / "scripts/fit.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    )


def fit(folder, *arguments):
    with start(folder, *arguments) as process:
        output = process.communicate(timeout=200)[0]
    return process.returncode, output


def ranks(process):
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [process.pid, *map(int, children)]


def hit(folder, name, victim, how, *arguments):
    """Start a run of several processes, send one of them a signal after two checkpoints; status, output, survivors."""
    previous = folder / f"tb_logs/vae-digits-{name}/version_0/checkpoints/previous.ckpt"
    with start(folder, *arguments, "--name", name) as process:
        give_up = time.monotonic() + 120
        while not previous.exists():
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)
        everyone = ranks(process)
        os.kill(everyone[victim], how)
        output = process.communicate(timeout=120)[0]
    give_up = time.monotonic() + 10
    while (left := [pid for pid in everyone if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < give_up:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return process.returncode, output, left


def last(folder, name, model="vae"):
    return read_checkpoint(folder / f"tb_logs/{model}-digits-{name}/version_0/checkpoints/last.ckpt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody interrupts, on two processes."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = fit(folder, *VAE, "--name", "whole", "--trainer.devices", 2)
    assert status == 0, output
    return last(folder, "whole")


@pytest.mark.parametrize(("victim", "how"), [(1, signal.SIGTERM), (0, signal.SIGUSR1), (1, signal.SIGINT)])
def test_a_signal_to_one_rank_stops_all_at_the_same_boundary(tmp_path, whole, victim, how):
    status, output, left = hit(tmp_path, "hit", victim, how, *VAE, "--steps", 120, "--trainer.devices", 2)
    assert status == 128 + how and not left, output
    assert "everything is saved" in output and "Traceback" not in output
    assert 0 < last(tmp_path, "hit")["lightning_gen"]["iteration"] < 120
    status, output = fit(tmp_path, "--resume", "tb_logs/vae-digits-hit/version_0")
    assert status == 0, output
    for part in ("state_dict", "optimizer_states", "lightning_gen"):
        same(whole[part], last(tmp_path, "hit")[part])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_devices_in_the_middle_of_an_epoch(tmp_path, whole, before, after):
    """Order and noise stay; only rounding differs."""
    # 7, so that one process does not take ten iterations at once
    status, _, _ = hit(tmp_path, "hit", 0, signal.SIGTERM, *VAE, "--save_every", 7, "--trainer.devices", before)
    assert status == 143
    done = last(tmp_path, "hit")["lightning_gen"]["iteration"]
    assert done % 10, "digits have 10 batches an epoch; this stop is to be inside of one"
    status, output = fit(tmp_path, "--resume", "tb_logs/vae-digits-hit/version_0", "--trainer.devices", after)
    assert status == 0 and f"going on from iteration {done}" in output, output
    for name, value in whole["state_dict"].items():
        assert torch.allclose(value, last(tmp_path, "hit")["state_dict"][name], atol=2e-4), name


def test_a_gan_on_another_number_of_devices_in_the_middle_of_an_epoch(tmp_path):
    """Critic steps between, and averaged weights; without batch norm, which couples the examples of a batch."""
    gan = ["--model", "wgan-gp", "--model.network_args.norm", "none", "--val_every", 24]
    gan += ["--trainer.accelerator", "cpu", "--trainer.devices"]
    assert fit(tmp_path, *gan, 2, "--steps", 24, "--name", "whole")[0] == 0
    expected = last(tmp_path, "whole", "wgan-gp")["state_dict"]
    for before, after in ((2, 1), (1, 2)):
        name = f"from-{before}"
        assert fit(tmp_path, *gan, before, "--steps", 7, "--name", name)[0] == 0  # digits have 22 batches an epoch
        folder = f"tb_logs/wgan-gp-digits-{name}/version_0"
        status, output = fit(tmp_path, "--resume", folder, "--steps", 24, "--trainer.devices", after)
        assert status == 0 and "going on from iteration 7" in output, output
        for key, value in last(tmp_path, name, "wgan-gp")["state_dict"].items():
            assert torch.allclose(value, expected[key], atol=1e-3), (key, (value - expected[key]).abs().max())


@pytest.mark.parametrize(
    ("victim", "how", "devices", "options"),
    [(1, signal.SIGKILL, 3, ()), (1, signal.SIGSTOP, 2, ("--patience", 12))],
    ids=["killed", "frozen"],
)
def test_a_lost_rank_is_named(tmp_path, victim, how, devices, options):
    batch = ["--data.batch_size", 120]
    status, output, left = hit(tmp_path, "hit", victim, how, *LONG, *batch, "--trainer.devices", devices, *options)
    assert status == 1 and not left, output
    assert f"error: rank 1 of {devices} no longer answers" in output and "--resume" in output
    assert f"ranks 0, {victim}" not in output, "only the one that is lost"
    assert last(tmp_path, "hit")["lightning_gen"]["iteration"] % 20 == 0


def test_the_first_rank_is_lost(tmp_path):
    status, output, left = hit(tmp_path, "hit", 0, signal.SIGKILL, *LONG, "--trainer.devices", 2)
    assert status == -signal.SIGKILL and not left, output
    assert "error on rank 1: rank 0 of 2 no longer answers" in output


@pytest.mark.parametrize(("hook", "expected"), [("on_fit_start", 130), ("on_train_end", 0), ("on_fit_end", 130)])
def test_ctrl_c_around_the_training(tmp_path, hook, expected):
    """Before the first iteration and after the last there is nothing to save, and it is no failure (status 1)."""
    press = f"[{{class_path: helpers.CtrlC, init_args: {{hook: {hook}}}}}]"
    status, output = fit(tmp_path, *VAE, "--steps", 20, "--trainer.callbacks", press)
    assert status == expected and "Traceback" not in output, output


def test_nan_on_one_rank_stops_all(tmp_path):
    options = [*VAE, "--trainer.devices", 2, "--trainer.callbacks", "[helpers.NaNOnTheSecondRank]", "--name", "nan"]
    status, output = fit(tmp_path, *options)
    assert status == 2, output
    assert "error on rank 1: the loss of player 'vae' became NaN or infinite at iteration 60" in output
    assert "error: " in output and "Traceback" not in output
    assert last(tmp_path, "nan")["lightning_gen"]["iteration"] <= 60


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_all_ranks(tmp_path):
    """The first rank says what to do; the other one does not wait for ever."""
    assert fit(tmp_path, *VAE, "--steps", 20, "--name", "full")[0] == 0
    folder = tmp_path / "tb_logs/vae-digits-full/version_0"
    before = (folder / "checkpoints/last.ckpt").read_bytes()
    (folder / "checkpoints/.last.ckpt.part").symlink_to("/dev/full")
    status, output = fit(tmp_path, "--resume", folder, "--steps", 60, "--trainer.devices", 2)
    assert status == 2 and "error: could not save" in output and "No space left" in output, output
    assert (folder / "checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    (tmp_path / "tb_logs").mkdir()
    (tmp_path / "tb_logs").chmod(0o500)
    status, output = fit(tmp_path, *VAE)
    assert status == 2 and "error: cannot make a run folder" in output and "Traceback" not in output


def test_a_left_over_checkpoint_of_lightnings_requeue(tmp_path):
    """Lightning would load it in place of the run's own, train nothing and end with status 0."""
    (tmp_path / "tb_logs").mkdir()
    (tmp_path / "tb_logs/hpc_ckpt_1.ckpt").touch()
    status, output = fit(tmp_path, *VAE)
    assert status == 2 and output.startswith("error: tb_logs/hpc_ckpt_1.ckpt is a checkpoint of Lightning's"), output


def test_a_file_where_the_run_folders_should_be(tmp_path):
    (tmp_path / "tb_logs").touch()
    status, output = fit(tmp_path, *VAE)
    assert status == 2 and "error: cannot make a run folder" in output and "Traceback" not in output


def test_the_data_vanish(tmp_path):
    """The pictures are deleted while two processes train on them: one clear line, and what was saved is good."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(64):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(pictures / f"{number:02}.png")
    options = ["--data", "pictures", "--data.size", 8, "--data.batch_size", 16, "--data.memory", 0]
    previous = tmp_path / "tb_logs/vae-pictures/version_0/checkpoints/previous.ckpt"
    with start(tmp_path, *LONG, *options, "--trainer.devices", 2) as process:
        give_up = time.monotonic() + 120
        while not previous.exists():
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)
        pictures.rename(tmp_path / "gone")
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert "no example of training batch" in output and "Traceback" not in output, output
    read_checkpoint(previous.with_name("last.ckpt"))


def test_killed_at_any_time(tmp_path):
    """kill -9 at three random moments; benchmarks/faults.py does it a hundred times."""
    steps = ["--model", "vae", "--steps", 3000, "--save_every", 25, "--val_every", 500]
    assert fit(tmp_path, *steps, "--name", "whole")[0] == 0
    reference, rng = last(tmp_path, "whole"), np.random.default_rng(int(time.time()))
    seconds = json.loads((tmp_path / "tb_logs/vae-digits-whole/version_0/summary.json").read_text())["seconds"]
    folder = tmp_path / "tb_logs/vae-digits-hit/version_0"
    with start(tmp_path, *steps, "--name", "hit") as process:
        while not (folder / "checkpoints/last.ckpt").exists():
            time.sleep(0.05)
        process.kill()
    for _ in range(2):
        with start(tmp_path, "--resume", folder) as process:
            before = (folder / "checkpoints/last.ckpt").stat().st_mtime
            while process.poll() is None and (folder / "checkpoints/last.ckpt").stat().st_mtime == before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, seconds / 4))
            process.kill()
        read_checkpoint(folder / "checkpoints/last.ckpt")
    fit(tmp_path, "--resume", folder)
    for part in ("state_dict", "optimizer_states", "lightning_gen"):
        same(reference[part], last(tmp_path, "hit")[part])
