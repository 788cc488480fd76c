"""--threads: chosen by the work of an iteration, said, stored with the run, and taken over when it goes on."""

import pytest
import torch
import yaml
from helpers import make_older

from lightning_gen import VAE
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.config.cli import instantiate, resolve_config
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.presets import PRESETS
from lightning_gen.storage import runs
from lightning_gen.training import threads

DIGITS = DataSpec((1, 8, 8), size=100, num_classes=10)


@pytest.fixture
def desktop(monkeypatch):
    """A machine of 32 cores, whose user has said nothing."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 32)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 32)


def worth(monkeypatch, flops):
    monkeypatch.setattr(threads, "flops_per_iteration", lambda model, batch_size: flops)


def test_flops_of_a_small_network():
    """Of a linear layer 2 x weights forwards, and backwards as much for its weights, and again for its input."""
    model = VAE(DIGITS, latent_dim=3, network_args={"hidden": [5]})
    first, others = 64 * 5, 5 * 6 + 3 * 5 + 5 * 64  # data need no gradient
    assert threads.flops_per_iteration(model, 10) == 10 * (2 * 2 * first + 3 * 2 * others)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_work_of_every_preset_is_counted(name):
    model, _ = instantiate(resolve_config(*parse_short_options(["--model", name, "--steps", "1"])))
    before, state = {key: str(value) for key, value in model.state_dict().items()}, torch.get_rng_state()
    one, two = threads.flops_per_iteration(model, 8), threads.flops_per_iteration(model, 16)
    assert 0 < one < two <= 2 * one
    assert {key: str(value) for key, value in model.state_dict().items()} == before
    assert torch.equal(torch.get_rng_state(), state) and not model._trainer


def test_threads_follow_the_work(monkeypatch, desktop):
    for flops, count in ((1e6, 1), (1.9 * threads.PER_THREAD, 1), (5.5 * threads.PER_THREAD, 5), (1e15, 32)):
        worth(monkeypatch, flops)
        assert threads.choose(None, None, 128).number == threads.choose("auto", None, 128).number == count
    assert threads.choose(None, None, 128, processes=8).number == 4  # which share the cores
    assert threads.choose(None, None, 128, processes=64).number == 1
    assert threads.choose(7, None, 128) == threads.Threads(7, "--threads")


def test_the_users_own_number_in_the_environment_is_kept(monkeypatch, desktop):
    worth(monkeypatch, 1e15)
    monkeypatch.setenv("OMP_NUM_THREADS", "32")
    assert threads.choose("auto", None, 128) == threads.Threads(32, "OMP_NUM_THREADS")
    assert threads.choose(3, None, 128).number == 3


def test_a_model_whose_work_cannot_be_counted_says_so(desktop):
    class Odd(VAE):
        def loss_vae(self, batch, shared):
            return self.somewhere.loss

    model = Odd(DIGITS, latent_dim=2)
    count, reason = threads.choose("auto", model, 128)
    assert count == 1 and reason == "the work of an iteration could not be counted: AttributeError"


@pytest.mark.parametrize("asked", [0, -1, "many", "1.5", True, 10**9])
def test_other_values_are_refused(asked):
    with pytest.raises(UserError, match=f"--threads {asked}: give auto, or a number of at least 1"):
        threads.checked(asked)


def test_checked():
    assert [threads.checked(asked) for asked in (None, "auto", "3", 3)] == [None, "auto", 3, 3]


OPTIONS = ["--model", "vae", "--data.batch_size", "8", "--steps", "2", "--trainer.accelerator", "cpu"]


def test_a_run_says_stores_and_takes_over_its_threads(script, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)  # several on a busy machine would take their time
    said = script("fit", *OPTIONS, "--threads", "2")
    assert "2 threads (--threads)" in said.stdout.splitlines() and taken == [2]
    (run,) = tmp_path.glob("tb_logs/*/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["threads"] == 2
    said = script("fit", "--resume", run, "--steps", "4")
    assert "2 threads (as before)" in said.stdout.splitlines() and taken == [2, 2]
    said = script("fit", "--resume", run, "--steps", "6", "--threads", "1")
    assert "1 thread (--threads); 2 until here: the last digits change" in said.stdout.splitlines()
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    script("evaluate", run, "--metrics", "latents", "-n", "8")
    assert taken[2:] == [1, 1]
    said = script("fit", *OPTIONS)
    assert any(line.startswith("1 thread (") for line in said.stdout.splitlines())


def test_a_run_of_0_1_goes_on_with_what_torch_takes(script, tmp_path):
    script("fit", *OPTIONS)
    (run,) = tmp_path.glob("tb_logs/*/version_0")
    make_older(run, "threads")
    said = script("fit", "--resume", run, "--steps", "4")
    assert not any("thread" in line for line in said.stdout.splitlines() if "weights" not in line)


def test_evaluation_follows(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    threads.follow({"threads": 2})
    assert torch.get_num_threads() == 1  # the tests' own OMP_NUM_THREADS
    monkeypatch.delenv(threads.VARIABLE)
    threads.follow({"threads": 2})
    assert torch.get_num_threads() == 2
    threads.follow({"threads": 64})
    assert torch.get_num_threads() == 2
    for none in ({}, {"threads": None}, {"threads": "auto"}, {"threads": -1}):
        threads.follow(none)
        assert torch.get_num_threads() == 2


def test_threads_make_no_other_experiment():
    config = {"seed": 0, "threads": None}
    assert runs.same_experiment(config, {"seed": 0, "threads": 3}) and runs.same_experiment(config, {"seed": 0})
    assert runs.same_experiment({**config, "val_examples": 100}, {"seed": 0, "val_examples": None})
    assert not runs.same_experiment(config, {"seed": 1, "threads": None})
