"""Shared by all tests: one thread, a quiet Trainer, tiny data, and the scripts as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_gen.datamodules.custom import Arrays

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden losses anew")


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
def script(tmp_path):
    """Runs a script in an empty folder, as a user does."""

    def call(name, *arguments, ok=True, **environment):
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
        )
        assert not ok or result.returncode == 0, result.stdout + result.stderr
        return result

    return call
