"""Show the models and data sets: what scripts/list.py does."""

from __future__ import annotations

from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser
from lightning_gen.config.listing import all_of, models_and_data, terminal_width
from lightning_gen.datamodules import DATASETS
from lightning_gen.datamodules.errors import program
from lightning_gen.presets import FAMILIES


def main(argv: list[str]) -> None:
    """Parse, print."""
    kinds = dict.fromkeys(row.kind for row in DATASETS.values())
    parser = Parser(
        prog=program("list"),
        description="Show one model of each family and the data sets, or all of one family or of one kind of data.",
        allow_abbrev=False,
    )
    choices = f"a family ({', '.join(FAMILIES)}) or a kind of data ({', '.join(kinds)})"
    parser.add_argument("choice", metavar="FAMILY|KIND", nargs="?", help=choices)
    given = parser.parse_args(argv)
    width = terminal_width()
    print(all_of(given.choice, width) if given.choice else models_and_data(width))


if __name__ == "__main__":
    start("list")
