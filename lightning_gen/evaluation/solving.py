"""How a flow makes its samples: the options of its solver, chosen after training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lightning_gen.datamodules.errors import UserError
from lightning_gen.models.solvers import SOLVERS
from lightning_gen.protocols import Solves
from lightning_gen.storage.checkpoints import find_checkpoint
from lightning_gen.storage.loaded import load_on, provenance

OPTIONS = ("solver", "nfe", "shift", "guidance", "guidance_from", "guidance_to")


def add_solver(parser: argparse.ArgumentParser) -> None:
    """The options of ``attach_solver``."""
    group = parser.add_argument_group("solver of a flow (default: as the model was made with)")
    group.add_argument("--solver", choices=list(SOLVERS), help="from noise to data")
    group.add_argument("--nfe", type=int, help="evaluations of the network for a sample, 1 to 1000")
    group.add_argument("--shift", type=float, help="placement of the steps: below 1 later, towards the data")
    group.add_argument("--guidance", type=float, help="scale of guidance towards the class; 1 is none")
    group.add_argument("--guidance_from", type=float, help="time from which it is used, 0 noise to 1 data")
    group.add_argument("--guidance_to", type=float, help="time to which it is used")
    group.add_argument(
        "--weak", metavar="RUN", help="guide away from this weaker run, not from samples without a class"
    )


def attach_solver(model: Any, given: Any) -> dict[str, Any]:
    """Let a flow make its samples by the given options; nothing of it is saved with the model.

    Args:
        model: any; only one that ``Solves`` takes options.
        given: the parsed command line, with ``trust`` and ``device``.

    Returns:
        its entries in a file of samples; nothing for models of other kinds.

    Raises:
        UserError: options of a model that has no solver, an impossible one, or a weak model of other data.
    """
    asked = {name: value for name in OPTIONS if (value := getattr(given, name)) is not None}
    if not isinstance(model, Solves):
        if asked or given.weak:
            raise UserError(f"--{next(iter(asked), 'weak')}: {type(model).__name__} has no solver; flows have")
        return {}
    weak = {}
    if given.weak:
        path = find_checkpoint(given.weak, "best")
        model.weak = load_on(path, given.device, given.trust)  # type: ignore[attr-defined]
        _check_weak(model, given.weak)
        weak = {"weak": provenance(model.weak, path)["checkpoint_sha256"]}  # type: ignore[attr-defined]
    model.sampling = model.sampling._replace(**asked).check(bool(model.condition_spec), bool(given.weak))  # type: ignore[attr-defined]
    return model.sampling._asdict() | weak


def _check_weak(model: Any, run: str) -> None:
    """Refuse a guide that estimates something else.

    Raises:
        UserError: that says what differs.
    """
    weak = model.weak
    if not isinstance(weak, Solves):
        raise UserError(f"--weak {run} is a {type(weak).__name__}: give a run of a flow")
    ours: Sequence[Any] = (model.spec.shape, model.condition_spec, model.path, model.scale)
    if (weak.spec.shape, weak.condition_spec, weak.path, weak.scale) != ours:  # type: ignore[attr-defined]
        raise UserError(
            f"--weak {run} is of another shape, path or set of classes than this model: give a run of the same"
        )
