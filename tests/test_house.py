"""The rooms of the package: imports run down their floors, no circle, no command imports a command."""

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest
from processes import ROOT

FLOORS = (  # each imports from those after it alone
    *("commands", "benchmarking", "config", "callbacks", "cluster", "evaluation", "compression", "pictures", "presets"),
    *("models", "metrics", "adversarial", "networks", "storage", "training", "kinds", "drawing", "objectives"),
)
BELOW = {"names", "schedule", "protocols", "exits", "atomic"}  # files at the top, on which the rooms build
ENTRANCES = {"__init__", "__main__"}


def modules():
    """Dotted name -> path of every file of the package; the data sets lie in a folder of their own."""
    paths = [*(ROOT / "lightning_gen").rglob("*.py"), *(ROOT / "datamodules").rglob("*.py")]
    inside = [path.relative_to(ROOT) for path in paths if "lightning_gen/datamodules/" not in path.as_posix()]
    return {dotted(path): ROOT / path for path in inside}


def dotted(path):
    parts = [part for part in path.with_suffix("").parts if part != "__init__"]
    return ".".join(parts if parts[0] == "lightning_gen" else ["lightning_gen", *parts])


FILES = modules()


def imported(name: str) -> Iterator[str]:
    """The files of the package that a file imports, at its top or in a function."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inside = [f"{base}.{alias.name}" for alias in node.names]
            yield from (entry if entry in FILES else base for entry in inside if entry in FILES or base in FILES)


GRAPH = {name: {other for other in imported(name) if other != name} for name in FILES}


def room(name: str) -> str:
    """Of lightning_gen.models.vae "models"; of the package itself ""."""
    return name.partition(".")[2].partition(".")[0]


def floor(name: str) -> int:
    """Floors are counted from the top; the files below all rooms share one, the data sets lie beneath it."""
    return FLOORS.index(room(name)) if room(name) in FLOORS else len(FLOORS) + (room(name) not in BELOW)


def test_the_graph_is_read_right():
    assert "lightning_gen.models.vae_base" in GRAPH["lightning_gen.models.vae"]
    assert "lightning_gen.datamodules.spec" in GRAPH["lightning_gen.datamodules"]
    assert "lightning_gen.commands.fit" in FILES


def test_every_folder_is_a_room():
    folders = {path.name for path in (ROOT / "lightning_gen").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders == {*FLOORS, "datamodules"} and len(set(FLOORS)) == len(FLOORS)
    assert {path.stem for path in (ROOT / "lightning_gen").glob("*.py")} == BELOW | ENTRANCES


def test_every_room_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(
        ["lightning_gen", *(f"lightning_gen.{name}" for name in (*FLOORS, "datamodules"))]
    )


@pytest.mark.parametrize("name", [name for name in FILES if room(name) not in {"", *ENTRANCES}])
def test_imports_run_down_the_floors(name):
    for other in GRAPH[name]:
        assert room(other) == room(name) or floor(other) > floor(name), f"{name} imports {other}"


def test_no_command_imports_a_command():
    for name, others in GRAPH.items():
        if room(name) == "commands":
            assert not [o for o in others if room(o) == "commands" and o != "lightning_gen.commands"], name


def test_no_circle_of_files():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError


def test_data_sets_import_nothing_else_of_the_package():
    for name, others in GRAPH.items():
        if room(name) == "datamodules":
            assert all(room(other) == "datamodules" for other in others), name


@pytest.mark.parametrize("folder", ["networks", "objectives"])
def test_networks_and_objectives_know_nothing_of_lightning(folder):
    for path in (ROOT / "lightning_gen" / folder).glob("*.py"):
        assert not re.search(r"^\s*(from|import) lightning(\.|\s)", path.read_text(encoding="utf-8"), re.M), path.name
