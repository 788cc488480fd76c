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
        ("0..1@25% x4", {0: 0, 5: 0.2, 24: 0.96, 25: 0, 30: 0.2, 75: 0, 99: 0.96, 100: 1, 500: 1}),
        ("0..1@12.5%  x4", {0: 0, 5: 0.4, 20: 1, 25: 0, 30: 0.4, 49: 1, 50: 0, 100: 1}),
        ("0..1@5%..15% x2", {0: 0, 5: 0, 10: 0.5, 15: 1, 49: 1, 50: 0, 60: 0.5, 99: 1}),
        ("1..0@10 x5", {0: 1, 5: 0.5, 10: 0, 19: 0, 20: 1, 99: 0, 100: 0}),
        ("0..1@50% cos x2", {0: 0, 25: 0.5, 50: 0, 75: 0.5, 100: 1}),
        ("0..1@40 x1", {0: 0, 20: 0.5, 40: 1, 60: 1}),
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


@pytest.mark.parametrize(
    "text", ["fast", "1..", "0..1", "0..1@", "..1@5", "0..1@5 sin", "0..1@5 x", "0..1@5 x-2", "4 x2", None, True, ""]
)
def test_refuses(text):
    with pytest.raises(UserError, match="neither a number nor a ramp"):
        schedule(text)


def test_share_of_an_endless_run():
    with pytest.raises(UserError, match="--steps"):
        schedule("0..1@50%")(3, None)


@pytest.mark.parametrize("total", [10, 97, 1000])
@pytest.mark.parametrize("repeats", [1, 2, 3, 7])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_repeated_ramp_is_one_ramp_of_a_part_of_the_run(total, repeats, share):
    """Each N-th of the run is the ramp of a run that is N times as short; its end is the end of the last."""
    percent = f"{100 * share / repeats:.6f}%"
    whole, part = schedule(f"0..3@{percent} x{repeats}"), schedule(f"0..3@{100 * share:g}%")
    for iteration in range(total):
        place = iteration % (total / repeats)
        if total / repeats - place > 1e-6:  # floats may put the first iteration of a part at the end of the last
            assert whole(iteration, total) == pytest.approx(part(place, total / repeats), abs=1e-4)
        assert 0 <= whole(iteration, total) <= 3
    assert whole(total, total) == whole.end == 3


def test_a_repeated_ramp_follows_the_length_of_the_run():
    assert schedule("0..1@100 x4").relative and not schedule("2..2@100 x4").relative
    assert schedule("0..1@33.33% x3")(0, 100) == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: schedule("0..1@50% x4"), r"repeated x4 must end by 25%"),
        (lambda: schedule("0..1@50%..100% x2"), r"repeated x2 must end by 50%"),
        (lambda: schedule("0..1@50% x0"), "at least once, x1"),
        (
            lambda: schedule("0..1@300 x4")(0, 1000),
            "to iteration 300 .*x4 in 1,000 iterations: it must end by iteration 250",
        ),
        (lambda: schedule("0..1@300 x4")(0, None), "needs a run of known length: give --steps"),
    ],
)
def test_impossible_repeats(make, said):
    with pytest.raises(UserError, match=said) as error:
        make()
    assert "\n" not in str(error.value)
