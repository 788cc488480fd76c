"""Every figure of the README's "Measured" is that of a cell of a clean commit, or stands on the page that it names."""

import json
import re
import statistics

import pytest
from processes import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.partition("## Measured")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TABLE.splitlines()
    if line.startswith("|") and not line.startswith(("| what", "|---"))
]
CELL = re.compile(r"\]\((benchmarks/results/[^)]+\.json)\)")
PAGE = re.compile(r"\]\(([^)]+\.md)\)")
HELD = ("value", "std", "floor")
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?")


def cells_of(row):
    return [json.loads((ROOT / path).read_text(encoding="utf-8")) for path in CELL.findall(row[-1])]


def numbers_of(cells):
    """What cells hold: values, errors and floors, as they are and in per cent, means over seeds, minutes of runs."""
    found, over_seeds = [], {}
    for cell in cells:
        found.append(cell["seconds"] / 60)
        for name, value in cell["evaluation"]["values"].items():
            own = [value[key] for key in HELD if isinstance(value.get(key), int | float)]
            found += own
            if own:
                over_seeds.setdefault((cell["model"], name), []).append(own[0])
    found += [statistics.fmean(values) for values in over_seeds.values()]
    return [*found, *(100 * number for number in found)]


def holds(text, numbers):
    """Whether a number as it is printed is one of these, rounded as it is."""
    digits, places = text.replace(",", ""), len(text.partition(".")[2])
    return any(f"{number:.{places}f}" == digits for number in numbers)


def test_there_are_figures():
    assert len(ROWS) >= 10 and sum(bool(CELL.search(row[-1])) for row in ROWS) >= 7


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_figure_is_that_of_its_cells(row):
    """Without cells, the numbers stand as they are on the page that the row names."""
    asked, cells = NUMBER.findall(row[1]), cells_of(row)
    assert asked
    if not cells:
        (page,) = PAGE.findall(row[-1])
        told = NUMBER.findall((ROOT / page).read_text(encoding="utf-8"))
        assert [number for number in asked if number not in told] == []
        return
    for cell in cells:
        assert "failed" not in cell and cell["commit"] and "+" not in cell["commit"], cell["model"]
    numbers = numbers_of(cells)
    assert [number for number in asked if not holds(number, numbers)] == []


def test_a_wrong_figure_would_be_seen():
    cells = [{"model": "a", "seconds": 120, "evaluation": {"values": {"fd": {"value": value}}}} for value in (3.0, 4.0)]
    numbers = numbers_of(cells)
    assert all(holds(text, numbers) for text in ("3.0", "4", "3.50", "2", "400"))
    assert not any(holds(text, numbers) for text in ("3.1", "3.51", "5", "0.3"))
