"""The threads of a run on the CPU: chosen once, said, stored with the run, and taken over when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_gen.cluster import preflight
from lightning_gen.cluster.launch import Launch
from lightning_gen.exits import is_global_zero
from lightning_gen.storage import runs
from lightning_gen.training import threads


def use_threads(
    config: dict[str, Any],
    options: Mapping[str, Any],
    model: Any,
    data: Any,
    launch: Launch,
    resumed: Path | None = None,
) -> None:
    """Compute with the threads of a run, and store their number in its configuration; nothing on a GPU.

    Args:
        config: of the run; ``threads`` is a number, "auto" or None.
        options: of the Trainer, resolved.
        model: whose iterations are counted.
        data: of the run.
        launch: how its processes were started.
        resumed: folder of the run that goes on; one of 0.1, which stored no number, keeps torch's default.
    """
    known = runs.read_config(resumed).get("threads") if resumed else None
    asked = config.get("threads") or known
    if preflight.on_gpu(options) or (resumed and not asked):
        return
    processes = preflight.processes_here(options, launch)
    chosen = threads.choose(asked, model, getattr(data, "batch_size", 1), processes)
    threads.use(chosen, processes)
    config["threads"] = chosen.number
    if is_global_zero():
        why = "as before" if resumed and chosen.number == known else chosen.reason
        changed = f"; {known} until here: the last digits change" if known not in (None, chosen.number) else ""
        print(f"{chosen.number} thread{'s' if chosen.number > 1 else ''} ({why}){changed}")
