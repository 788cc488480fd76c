"""Schedules: numbers and ramps."""

import pytest

from lightning_gen.datamodules.errors import UserError
from lightning_gen.schedule import schedule


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (4, {0: 4, 100: 4}),
        ("4", {0: 4, 100: 4}),
        ("0..1@10", {0: 0, 5: 0.5, 10: 1, 99: 1}),
        ("0..1@10..20", {0: 0, 10: 0, 15: 0.5, 20: 1}),
        ("1..0@50%..100%", {0: 1, 50: 1, 75: 0.5, 100: 0}),
        ("2e-3..0@100% cos", {0: 2e-3, 50: 1e-3, 100: 0}),
        ("-1..1@4", {0: -1, 2: 0, 4: 1}),
        ("0..1@0", {0: 1}),
    ],
)
def test_values(text, values):
    ramp = schedule(text)
    for iteration, value in values.items():
        assert ramp(iteration, 100) == pytest.approx(value)


def test_end_and_kind():
    assert schedule("0..3@10").end == 3
    assert schedule("0..3@10%").relative and not schedule("0..3@10").relative
    assert schedule(2).constant and not schedule("2..2@100%").relative


@pytest.mark.parametrize("text", ["fast", "1..", "0..1", "0..1@", "..1@5", "0..1@5 sin", None, True, ""])
def test_refuses(text):
    with pytest.raises(UserError, match="neither a number nor a ramp"):
        schedule(text)


def test_share_of_an_endless_run():
    with pytest.raises(UserError, match="--steps"):
        schedule("0..1@50%")(3, None)
