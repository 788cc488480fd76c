"""Validation values: exact means, and ratios that are quotients of means."""

import math

import numpy as np
import pytest
import torch
import yaml

from lightning_gen.config.validations import limit_validation, validation_interval
from lightning_gen.datamodules.custom import Arrays
from lightning_gen.datamodules.loader import EvalLoader
from lightning_gen.datamodules.order import fixed_choice
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.training.validation import ExampleMeanValidation, Means, Ratio, perplexity

NATS, TOKENS = torch.tensor([2.0, 30.0, 4.0, 8.0, 5.0]), torch.tensor([1.0, 10.0, 2.0, 2.0, 5.0])


class Texts(ExampleMeanValidation):
    ratios = {  # noqa: RUF012
        "perplexity": Ratio("nats", "tokens", perplexity),
        "bits_per_token": Ratio("nats", "tokens", lambda nats: nats / math.log(2)),
        "absent": Ratio("nats", "seconds"),
    }


def means_of(*parts):
    means = Means()
    for part in parts:
        means.add({"nats": NATS[part], "tokens": TOKENS[part]})
    return means


@pytest.mark.parametrize("parts", [[range(5)], [range(2), range(2, 5)], [range(1), range(1, 4), range(4, 5)]])
def test_a_ratio_is_of_sums_for_any_batches(parts):
    values = Texts().validation_summary(means_of(*map(list, parts)).reduce())
    assert values["perplexity"] == pytest.approx(math.exp(49 / 20))
    assert values["bits_per_token"] == pytest.approx(49 / 20 / math.log(2))
    assert values["nats"] == pytest.approx(49 / 5) and "absent" not in values
    assert values["perplexity"] != pytest.approx(float((NATS / TOKENS).exp().mean()))  # what it is not


def test_a_ratio_over_two_ranks_of_uneven_shares(monkeypatch):
    ranks = [means_of([0, 1, 2, 3]), means_of([4])]

    def gathered(parts, mine):
        parts[:] = [(rank.sums, rank.count) for rank in ranks]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    for rank in ranks:
        assert Texts().validation_summary(rank.reduce(2))["perplexity"] == pytest.approx(math.exp(49 / 20))


def test_the_ends_of_a_ratio():
    assert math.isnan(Ratio("a", "b")({"a": 0.0, "b": 0.0}))
    assert perplexity(1e6) == math.inf and perplexity(0.0) == 1.0


# How many examples a validation takes


@pytest.mark.parametrize(
    ("config", "steps", "batch", "size", "expected"),
    [
        ({"val_every": None}, 100_000, 100, 100_000, 50_000),  # 5,000 iterations of 100 until the next one
        ({"val_every": None}, 1000, 100, 100_000, 500),
        ({"val_every": 900}, 1000, 100, 100_000, 9000),
        ({"val_every": 9000}, 1000, 100, 100_000, 10_000),
        ({"val_every": None}, 20, 8, 100_000, 100),
        ({"val_every": None}, 20, 8, 1000, 1000),  # a small set is validated as a whole
        ({"val_every": None}, 100_000, 100, 20_000, 20_000),
        ({"val_every": 20, "val_examples": 7}, 1000, 8, 100_000, 7),
        ({"val_every": 20, "val_examples": 7}, 1000, 8, 5, 5),
    ],
)
def test_validation_sees_a_tenth_of_what_training_sees(tmp_path, config, steps, batch, size, expected):
    np.save(tmp_path / "x.npy", np.zeros((10 * size, 1), np.float16))
    data = Arrays(str(tmp_path / "x.npy"), batch_size=batch)
    limit_validation(data, config, steps)
    assert sum(map(len, data.val_dataloader().shares)) == expected
    assert data.validation_examples == (None if expected == size else expected)
    assert len([line for line in data.notices() if "validation examples" in line]) == (expected < size)
    assert sum(map(len, data.test_dataloader().shares)) == size
    if size > 1000 and "val_examples" not in config and expected > 100:
        assert steps // validation_interval(config, steps) * expected <= steps * batch / 10


def test_without_a_run_all_examples_are_validated(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20_000, 2), np.float32))
    data = Arrays(str(tmp_path / "x.npy"), batch_size=500)
    assert sum(map(len, data.val_dataloader().shares)) == 2000
    assert not [line for line in data.notices() if "validation examples" in line]


def test_the_chosen_examples_are_the_same_for_any_devices():
    rows = fixed_choice(1000, 90)
    assert torch.equal(rows, fixed_choice(1000, 90)) and torch.equal(rows, rows.unique()) and len(rows) == 90
    assert rows.max() > 900 and rows.min() < 100, "of the whole split, which may be sorted by class"
    assert torch.equal(fixed_choice(5, 9), torch.arange(5)) and torch.equal(fixed_choice(5, None), torch.arange(5))
    source = Tensors(x=torch.arange(1000))
    for world in (1, 2, 4):
        ranks = [EvalLoader(source, 8, rank, world, 0, print, rows) for rank in range(world)]
        seen = torch.cat([batch["index"] for loader in ranks for batch in loader])
        assert torch.equal(seen.sort().values, rows)


def test_a_run_says_and_keeps_the_number(script, tmp_path):
    """The issue's case: a large array was validated as a whole after each of few iterations."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40_000, 2)).astype(np.float32))
    options = ["--model", "vae", "--data", "x.npy", "--data.batch_size", 16, "--model.latent_dim", 2]
    out = script("fit", *options, "--steps", 20, "--val_every", 10).stdout
    line = "100 of 4,000 validation examples at each validation, always the same; --val_examples 4000 takes all"
    assert out.count(line) == 1
    (config,) = tmp_path.glob("tb_logs/*/version_0/config.yaml")
    assert yaml.safe_load(config.read_text())["val_examples"] == 100
    again = script("fit", "--resume", config.parent, "--steps", 20_000, "--print_config").stdout
    assert "val_examples: 100" in again
    assert line in script("fit", "--resume", config.parent, "--steps", 30).stdout
    whole = script("fit", *options, "--steps", 2, "--val_examples", 4000, "--name", "whole").stdout
    assert "validation examples at each" not in whole
    (config,) = tmp_path.glob("tb_logs/*-whole/version_0/config.yaml")
    assert yaml.safe_load(config.read_text())["val_examples"] == 4000, "all of them when it goes on, too"
    script("fit", *options, "--steps", 3000, "--val_every", 3000, "--name", "long")
    (config,) = tmp_path.glob("tb_logs/*-long/version_0/config.yaml")
    assert yaml.safe_load(config.read_text())["val_examples"] is None, "few beside 48,000 that are trained on"
    again = script("fit", "--resume", config.parent, "--steps", 3002, "--val_every", 1).stdout
    assert "validation examples at each" not in again, "its values are compared with those before"
    assert (
        "--val_examples 0: it must be a whole number" in script("fit", *options, "--val_examples", 0, ok=False).stderr
    )
