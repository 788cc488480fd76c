"""Shared by all tests: one thread, a quiet Trainer, tiny data, and the commands as a user calls them."""

import logging
import os
import random
import signal
import sys
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning as L
import numpy as np
import pytest
import torch
from processes import Nursery
from sklearn.datasets import load_digits

from lightning_gen import commands, exits
from lightning_gen.datamodules.custom import Arrays

LOGGERS = ("lightning.pytorch", "lightning.fabric")
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden losses anew")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one worker, so that what they share is made once; in the order of the files' names."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def undisturbed():
    """Each test begins with the same random numbers, and leaves behind what it found, so that their order is free."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    environment, path, folder = dict(os.environ), sys.path[:], os.getcwd()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.chdir(folder)
    sys.path[:] = path
    for name in {*os.environ, *environment} - {"PYTEST_CURRENT_TEST"}:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    torch.set_num_threads(1)


@pytest.fixture
def trainer(tmp_path):
    """Makes Trainers that say and write nothing."""

    def make(**options):
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
        }
        return L.Trainer(**{**quiet, **options})

    return make


@pytest.fixture(scope="session")
def images28(tmp_path_factory):
    """A .npz of 200 real digits, enlarged to 28x28 with a black border."""
    digits = load_digits()
    large = np.kron(digits.images[:200] * 255 / 16, np.ones((3, 3))).round().astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "digits28.npz"
    np.savez(path, x=np.pad(large, ((0, 0), (2, 2), (2, 2))), y=digits.target[:200])
    return path


@pytest.fixture
def data28(images28):
    return lambda **options: Arrays(str(images28), batch_size=32, **options)


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, as a user does, but in this process."""

    def run(name, *arguments, ok=True):
        capsys.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            exits.run_main(lambda argv: commands.call([name, *argv]))
        said = capsys.readouterr()
        assert not ok or stop.value.code == 0, said.out + said.err
        return SimpleNamespace(returncode=stop.value.code, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """Starts processes, see processes.py."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.end()
