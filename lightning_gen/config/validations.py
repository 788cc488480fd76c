"""How often a run validates, and on how many examples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning_gen.datamodules.base import DataModule

VALIDATIONS = 20  # in a run, unless --val_every says otherwise
SHARE = 10  # of the examples that training sees, validation sees at most one in so many
WHOLE = 1000  # validation examples up to which a validation takes all
LEAST = 100  # examples of a validation


def validation_interval(config: dict[str, Any], steps: int) -> int:
    """Iterations between two validations of a run of so many."""
    return min(steps, config["val_every"] or max(1, steps // VALIDATIONS))


def limit_validation(data: Any, config: dict[str, Any], steps: int, earlier: Mapping[str, Any] | None = None) -> None:
    """Fix the number of examples of each validation: ``--val_examples``, or by default a tenth of what training sees.

    It follows from the length of the run, the interval, the batch and the data alone, so it is the same on all devices;
    it is recorded in the configuration where it leaves examples out. A run that goes on keeps it, whatever its interval
    is then, so that its values can be compared.

    Args:
        data: of the run; those of another kind than ours are validated as a whole.
        config: of the run.
        steps: length of the run in iterations.
        earlier: the configuration of a run that goes on from a checkpoint; one that records no number takes all.
    """
    if not isinstance(data, DataModule):
        return
    given = config.get("val_examples") or (earlier or {}).get("val_examples")
    if given:
        data.validation_size = partial(min, given)
    elif earlier is None:
        data.validation_size = partial(default_size, seen=validation_interval(config, steps) * data.batch_size)


def default_size(size: int, seen: int) -> int:
    """Examples of a validation, of so many, where training sees ``seen`` examples until the next one."""
    return size if size <= WHOLE else min(size, max(LEAST, seen // SHARE))
