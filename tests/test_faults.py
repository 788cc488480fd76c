"""Interruptions of runs on several processes: stopped together, resumed bit by bit, and what is lost is named."""

import os
import signal
import subprocess
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from processes import FIT, table
from test_resume import same

from lightning_gen.cluster.launcher import wait_then_kill
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
WAITS = "[{class_path: helpers.Waits, init_args: {iteration: %d}}]"


def hit(nursery, folder, victim, how, *arguments, at=None, launched=True):
    """Start a run of several processes, send one of them a signal: in an iteration, or else after two checkpoints.

    Args:
        launched: the first process starts the others, which takes them 5 s; else two are there already.

    Returns: the first process, which has ended, with what all have said and those that have survived it.
    """
    name = "hit"
    arguments = [*arguments, "--name", name, *([] if at is None else ["--trainer.callbacks", WAITS % at])]
    previous = folder / f"tb_logs/vae-digits-{name}/version_0/checkpoints/previous.ckpt"
    start = nursery.start if launched else partial(nursery.pair, by="lightning")
    started = start(FIT, *arguments, cwd=folder)
    process, *others = [started] if launched else started
    process.until((folder / f"rank{victim}.here").exists if at is not None else previous.exists)
    everyone = [process.pid, *(process.children() if launched else (other.pid for other in others))]
    os.kill(everyone[victim], how)
    (folder / "go").touch()
    process.wait()
    give_up = time.monotonic() + 60
    while (left := set(everyone) & set(table())) and time.monotonic() < give_up:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    process.left = left
    process.said = "".join(part.output + part.errors for part in (process, *others))
    return process


def last(folder, name, model="vae"):
    return read_checkpoint(folder / f"tb_logs/{model}-digits-{name}/version_0/checkpoints/last.ckpt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, nursery):
    """The run that nobody interrupts, on two processes."""
    folder = tmp_path_factory.mktemp("whole")
    nursery.fit(*VAE, "--name", "whole", cwd=folder, ranks=2)
    return last(folder, "whole")


@pytest.mark.parametrize(("victim", "how"), [(1, signal.SIGTERM), (0, signal.SIGUSR1), (1, signal.SIGINT)])
def test_a_signal_to_one_rank_stops_all_at_the_same_boundary(tmp_path, nursery, whole, victim, how):
    run = hit(nursery, tmp_path, victim, how, *VAE, "--trainer.devices", 2, at=33, launched=how == signal.SIGTERM)
    assert run.returncode == 128 + how and not run.left, run.said
    assert "everything is saved" in run.said and "Traceback" not in run.said
    assert 0 < last(tmp_path, "hit")["lightning_gen"]["iteration"] < 120
    nursery.fit("--resume", "tb_logs/vae-digits-hit/version_0", cwd=tmp_path, ranks=2)
    for part in ("state_dict", "optimizer_states", "lightning_gen"):
        same(whole[part], last(tmp_path, "hit")[part])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_devices_in_the_middle_of_an_epoch(tmp_path, nursery, whole, before, after):
    """Order and noise stay; only rounding differs."""
    run = hit(nursery, tmp_path, 0, signal.SIGTERM, *VAE, "--trainer.devices", before, at=46, launched=before == 1)
    assert run.returncode == 143, run.said
    done = last(tmp_path, "hit")["lightning_gen"]["iteration"]
    assert done % 10, "digits have 10 batches an epoch; this stop is to be inside of one"
    resume = ["--resume", "tb_logs/vae-digits-hit/version_0", "--trainer.devices", after]
    assert f"going on from iteration {done}" in nursery.fit(*resume, cwd=tmp_path, ranks=after).output
    for name, value in whole["state_dict"].items():
        assert torch.allclose(value, last(tmp_path, "hit")["state_dict"][name], atol=2e-4), name


def test_a_gan_on_another_number_of_devices_in_the_middle_of_an_epoch(tmp_path, nursery):
    """Critic steps between, and averaged weights; without batch norm, which couples the examples of a batch."""
    gan = ["--model", "wgan-gp", "--model.network_args.norm", "none", "--val_every", 24, "--trainer.accelerator", "cpu"]
    nursery.fit(*gan, "--steps", 24, "--name", "whole", cwd=tmp_path, ranks=2)
    expected = last(tmp_path, "whole", "wgan-gp")["state_dict"]
    for before, after in ((2, 1), (1, 2)):
        name = f"from-{before}"
        options = ["--steps", 7, "--name", name, "--trainer.devices", before]  # digits have 22 batches an epoch
        nursery.fit(*gan, *options, cwd=tmp_path, ranks=before)
        options = ["--steps", 24, "--trainer.devices", after]
        again = nursery.fit("--resume", f"tb_logs/wgan-gp-digits-{name}/version_0", *options, cwd=tmp_path, ranks=after)
        assert "going on from iteration 7" in again.output
        for key, value in last(tmp_path, name, "wgan-gp")["state_dict"].items():
            assert torch.allclose(value, expected[key], atol=1e-3), (key, (value - expected[key]).abs().max())


def test_a_lost_rank_is_named(tmp_path, nursery):
    run = hit(nursery, tmp_path, 1, signal.SIGKILL, *LONG, "--data.batch_size", 120, "--trainer.devices", 3)
    assert run.returncode == 1 and not run.left, run.said
    assert "error: rank 1 of 3 no longer answers" in run.said and "--resume" in run.said
    assert "ranks 0, 1" not in run.said, "only the one that is lost"
    assert last(tmp_path, "hit")["lightning_gen"]["iteration"] % 20 == 0


def test_a_frozen_rank_is_named(tmp_path, nursery):
    """By ranks that start together: one that imported for longer than the patience would be named too."""
    ranks = nursery.pair(FIT, *LONG, "--name", "hit", "--patience", 20, cwd=tmp_path)
    ranks[0].until((tmp_path / "tb_logs/vae-digits-hit/version_0/checkpoints/previous.ckpt").exists)
    ranks[1].send_signal(signal.SIGSTOP)
    assert ranks[0].wait() == 1
    ranks[1].send_signal(signal.SIGKILL)
    said = ranks[0].errors
    assert "error: rank 1 of 2 no longer answers" in said and "--resume" in said and "ranks 0, 1" not in said, said
    assert last(tmp_path, "hit")["lightning_gen"]["iteration"] % 20 == 0


def test_the_launcher_leaves_no_frozen_rank_behind():
    with subprocess.Popen(["sleep", "600"]) as frozen, subprocess.Popen(["true"]) as ended:
        frozen.send_signal(signal.SIGSTOP)
        wait_then_kill([ended, frozen], patience=0.2)
        assert frozen.wait(60) == -signal.SIGKILL and ended.wait(60) == 0


def test_the_first_rank_is_lost(tmp_path, nursery):
    run = hit(nursery, tmp_path, 0, signal.SIGKILL, *LONG, "--trainer.devices", 2)
    assert run.returncode == -signal.SIGKILL and not run.left, run.said
    assert "error on rank 1: rank 0 of 2 no longer answers" in run.said


@pytest.mark.parametrize(("hook", "expected"), [("on_fit_start", 130), ("on_train_end", 130), ("on_fit_end", 130)])
def test_ctrl_c_around_the_training(tmp_path, nursery, hook, expected):
    """Before the first iteration and after the last there is nothing to save, and it is no failure (status 1)."""
    press = f"[{{class_path: helpers.CtrlC, init_args: {{hook: {hook}}}}}]"
    run = nursery.fit(*VAE, "--steps", 20, "--trainer.callbacks", press, cwd=tmp_path, ok=False)
    assert run.returncode == expected and "Traceback" not in run.said, run.said


def test_nan_on_one_rank_stops_all(tmp_path, nursery):
    options = [*VAE, "--trainer.callbacks", "[helpers.NaNOnTheSecondRank]", "--name", "nan"]
    run = nursery.fit(*options, cwd=tmp_path, ranks=2, ok=False)
    assert run.returncode == 2, run.said
    assert "error on rank 1: the loss of player 'vae' became NaN or infinite at iteration 60" in run.said
    assert "error: " in run.said and "Traceback" not in run.said
    assert last(tmp_path, "nan")["lightning_gen"]["iteration"] <= 60


def test_a_full_disk_ends_all_ranks(tmp_path, nursery):
    """The first rank says what to do; the other one does not wait for ever."""
    nursery.fit(*VAE, "--steps", 20, "--name", "full", cwd=tmp_path)
    folder = tmp_path / "tb_logs/vae-digits-full/version_0"
    before = (folder / "checkpoints/last.ckpt").read_bytes()
    full = ["--trainer.callbacks", f"[{{class_path: helpers.NoRoom, init_args: {{size: {len(before) // 2}}}}}]"]
    run = nursery.fit("--resume", folder, "--steps", 60, "--trainer.devices", 2, *full, cwd=tmp_path, ok=False)
    assert run.returncode == 2 and "error: could not save" in run.said and "File too large" in run.said, run.said
    assert (folder / "checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.parametrize("where", ["read-only", "/sys"])
def test_a_read_only_folder(tmp_path, script, where):
    """Root may write into a folder that is read-only, but not make one in /sys; others neither."""
    if where == "/sys":
        (tmp_path / "tb_logs").symlink_to("/sys")
    elif os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    else:
        (tmp_path / "tb_logs").mkdir(0o500)
    said = script("fit", *VAE, ok=False)
    assert said.returncode == 2 and "error: cannot make a run folder" in said.stderr


def test_a_left_over_checkpoint_of_lightnings_requeue(tmp_path, script):
    """Lightning would load it in place of the run's own, train nothing and end with status 0."""
    (tmp_path / "tb_logs").mkdir()
    (tmp_path / "tb_logs/hpc_ckpt_1.ckpt").touch()
    said = script("fit", *VAE, ok=False)
    assert said.returncode == 2
    assert said.stderr.startswith("error: tb_logs/hpc_ckpt_1.ckpt is a checkpoint of Lightning's")


def test_a_file_where_the_run_folders_should_be(tmp_path, script):
    (tmp_path / "tb_logs").touch()
    said = script("fit", *VAE, ok=False)
    assert said.returncode == 2 and "error: cannot make a run folder" in said.stderr


def test_the_data_vanish(tmp_path, nursery):
    """The pictures are deleted while two processes train on them: one clear line, and what was saved is good."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(64):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(pictures / f"{number:02}.png")
    options = ["--data", "pictures", "--data.size", 8, "--data.batch_size", 16, "--data.memory", 0]
    previous = tmp_path / "tb_logs/vae-pictures/version_0/checkpoints/previous.ckpt"
    ranks = nursery.pair(FIT, *LONG, *options, cwd=tmp_path)
    ranks[0].until(previous.exists)
    pictures.rename(tmp_path / "gone")
    assert ranks[0].wait() == 2 and ranks[1].wait() in (1, 2)  # the second one may only see the first one leave
    said = "".join(rank.output + rank.errors for rank in ranks)
    assert "no example of training batch" in said and "Traceback" not in said, said
    read_checkpoint(previous.with_name("last.ckpt"))


def test_killed_at_any_time(tmp_path, nursery):
    """kill -9 at three moments; benchmarks/faults.py does it a hundred times."""
    steps = ["--model", "vae", "--steps", 1000, "--save_every", 25, "--val_every", 500]
    nursery.fit(*steps, "--name", "whole", cwd=tmp_path)
    reference, rng = last(tmp_path, "whole"), np.random.default_rng(0)
    folder = tmp_path / "tb_logs/vae-digits-hit/version_0"
    saved = folder / "checkpoints/last.ckpt"
    process = nursery.start(FIT, *steps, "--name", "hit", cwd=tmp_path)
    process.until(saved.exists)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for _ in range(2):
        before = read_checkpoint(saved)["lightning_gen"]["iteration"], saved.stat().st_mtime_ns
        process = nursery.start(FIT, "--resume", folder, cwd=tmp_path)
        process.until(lambda before=before: saved.stat().st_mtime_ns != before[1])
        time.sleep(rng.uniform(0, 0.1))  # a few checkpoints long
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert read_checkpoint(saved)["lightning_gen"]["iteration"] > before[0]
    nursery.fit("--resume", folder, cwd=tmp_path)
    for part in ("state_dict", "optimizer_states", "lightning_gen"):
        same(reference[part], last(tmp_path, "hit")[part])
