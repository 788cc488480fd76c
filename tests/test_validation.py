"""Validation values: exact means, and ratios that are quotients of means."""

import math

import pytest
import torch

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
