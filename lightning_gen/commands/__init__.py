"""The commands: one file each, none imports another; ``start`` picks the one that is called."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, NoReturn

from lightning_gen.config.listing import table, terminal_width
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.exits import run_main, silent_ctrl_c
from lightning_gen.names import resolve


class Command(NamedTuple):
    """A row of the table of commands.

    Args:
        about: one line for the list.
        first: import path of a function that is called with the arguments before the command is imported: it answers
            what needs no torch, and returns whether that was all.
    """

    about: str
    first: str = ""


COMMANDS: dict[str, Command] = {  # the name, with hyphens, of each module of this folder
    "fit": Command("train a model", first="lightning_gen.config.help.answer"),
    "list": Command("show the models and data sets, or those of one family"),
    "sample": Command("draw new examples from a trained model"),
    "reconstruct": Command("pass pictures of your own through a trained model"),
    "translate": Command("translate pictures of any size from one side to the other"),
    "compress": Command("encode examples into a file without loss, and decode it"),
    "evaluate": Command("measure a trained model against held-out data"),
    "compare": Command("set runs side by side: options, values, samples and curves"),
    "benchmark": Command("train and measure models under one budget"),
    "rate-distortion": Command("plot rate against distortion of VAEs and VQ-VAEs"),
    "train-extractor": Command("train a feature extractor on labelled images of your own"),
}


def start(command: str = "") -> NoReturn:
    """Run what the command line asks for, and end the process: of ``python -m lightning_gen`` and of the scripts.

    Args:
        command: its name, where the script says it; otherwise the first argument does.
    """
    if command and not sys.flags.safe_path and Path(sys.path[0]) == Path(sys.argv[0]).resolve().parent:
        del sys.path[0]  # the script's folder, which Python put there
    run_main(lambda argv: call([command, *argv] if command else argv))


def call(argv: list[str]) -> None:
    """Run the command that the first argument names, with the others.

    Raises:
        UserError: there is no such command, or its options are impossible.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return
    if argv[0] == "--version":
        print(f"lightning-gen {version('lightning-gen')}")
        return
    name, rest = argv[0].replace("_", "-"), argv[1:]
    if name.startswith("-"):
        raise UserError(f"{argv[0]}: a command comes first, as in {program('fit')} {' '.join(argv)}")
    if name not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    with silent_ctrl_c():
        if COMMANDS[name].first and resolve(COMMANDS[name].first, {}, "function")(rest):
            return
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
    module.main(rest)


def overview() -> str:
    """The commands, a line each, and how to go on."""
    steps = {
        program("fit") + " --model vae": "train a first model",
        program("list"): "the models and data sets",
        program("COMMAND") + " --help": "the options of a command",
    }
    width = terminal_width()
    rows = table({name: command.about for name, command in COMMANDS.items()}, width)
    return "\n".join([f"usage: {program('COMMAND')} [options]", "", *rows, "", *table(steps, width)])
