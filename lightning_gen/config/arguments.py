"""Command-line parsing without torch: the short options, and errors for unknown names."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from lightning_gen.datamodules.errors import UserError, unknown

SECTIONS = ("model", "data", "trainer")
# options that stand as they are
OPTIONS = (
    "seed",
    "name",
    "init",
    "val_every",
    "val_examples",
    "save_every",
    "watch",
    "best_by",
    "on_collapse",
    "patience",
    "threads",
)
TOP = ("preset", "dataset", "steps", "epochs", *OPTIONS)  # of config.yaml
SHORT_OPTIONS = {
    "model": (str, "NAME", "a model of the list, or an import path of your own class"),
    "data": (str, "NAME", "a data set of the list, a folder of images, a .npy file, or an import path"),
    "steps": (int, "N", "length of the run in iterations"),
    "epochs": (int, "N", "length of the run in passes over the training data"),
    "seed": (int, "N", "seed of weights, noise and data order (default 0)"),
    "name": (str, "TAG", "tag added to the run's folder"),
    "config": (str, "FILE", "options from a file, such as a run's config.yaml"),
    "resume": (str, "RUN", "go on with a stopped run in its folder; with a larger --steps extend it"),
    "init": (str, "CHECKPOINT", "start from the weights of a checkpoint"),
    "val_every": (int, "N", "iterations between validations (default: 20 in a run)"),
    "val_examples": (
        int,
        "N",
        "examples of a validation (default: of more than 1,000 at most a tenth of what training sees until the next)",
    ),
    "save_every": (int, "N", "iterations between checkpoints (default 500)"),
    "watch": (str, "METRIC@N", "measure N samples at each validation: fd@1000, kd@1000, both with a comma, or none"),
    "best_by": (
        str,
        "VALUE",
        "choose best.ckpt by this value (default val/loss): the lowest, or of max:VALUE the highest",
    ),
    "on_collapse": (str, "warn|stop", "what to do when a GAN collapses or diverges (default warn)"),
    "patience": (int, "SECONDS", "how long the devices wait for one of them that is silent (default 1800)"),
    "threads": (str, "N", "threads of the CPU (default auto: by the work of an iteration)"),
}
ON_COLLAPSE = ("warn", "stop")


class Parser(argparse.ArgumentParser):
    """argparse that raises ``UserError``."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse_short_options(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Take the short options out of the arguments.

    Returns:
        the short options that were given, and the remaining ``--section.option`` arguments.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    for name, (kind, _, _) in SHORT_OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--print_config", action="store_true")
    parser.add_argument("--help", "-h", nargs="?", const="short", choices=["short", "all"])
    given, rest = parser.parse_known_args(argv)
    for token in rest:
        option = token.split("=")[0]
        if token.startswith("-") and not re.match(r"-?\d", token[1:]) and option[2:].split(".")[0] not in SECTIONS:
            raise unknown(
                "option", option, [f"--{name}" for name in SHORT_OPTIONS] + [f"--{s}.OPTION" for s in SECTIONS]
            )
    return {name: value for name, value in vars(given).items() if value is not None and value is not False}, rest
