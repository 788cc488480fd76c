"""Who started this process, and how many there are: Slurm, torchrun, Lightning itself, or a person."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple


class Launch(NamedTuple):
    """How this process was started.

    Args:
        kind: "slurm" (a task of an srun step), "torchrun", "child" (of Lightning's first rank) or "alone".
        processes_per_node: processes on each node, (n_1, ..., n_nodes); known for slurm and torchrun only.
        job: names what is restarted as a whole, the same after a requeue; "" where nothing restarts it.
        may_be_restart: whether this may be a restart, so that an earlier attempt is looked for.
    """

    kind: str
    processes_per_node: tuple[int, ...] = ()
    job: str = ""
    may_be_restart: bool = False

    @property
    def external(self) -> bool:
        """Whether all processes are there already, and none is to be started."""
        return self.kind in ("slurm", "torchrun")

    @property
    def world(self) -> int:
        """Number of processes; 1 where that is not known yet."""
        return sum(self.processes_per_node) or 1


def detect_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read the variables that the launchers set."""
    if {"TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= set(environ):
        here, world = int(environ["LOCAL_WORLD_SIZE"]), int(environ["WORLD_SIZE"])
        name = environ["TORCHELASTIC_RUN_ID"]  # "none" without --rdzv-id: of every such run, so it names nothing
        nodes = (here,) * (world // here) + ((world % here,) if world % here else ())
        # Not by TORCHELASTIC_RESTART_COUNT: only the host whose process died counts it, and all ranks must agree.
        return Launch("torchrun", nodes, "" if name == "none" else f"torchrun {name}", name != "none")
    if "LOCAL_RANK" in environ and "SLURM_STEP_ID" not in environ:
        return Launch("child", (), *_slurm_job(environ))
    job = _slurm_job(environ)
    # a shell on a node (srun --pty bash) is a step as well, but what is typed there was started by a person
    if "SLURM_STEP_ID" in environ and "SLURM_PTY_PORT" not in environ:
        return Launch("slurm", tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1")), *job)
    return Launch("alone", (), *job)


def status_after(signum: int, launch: Launch, first_rank: bool) -> int:
    """The exit status of a process that a signal stopped at a boundary: 128 + its number, where that is not misread.

    torchrun takes any status but 0 for a failure and starts again; and the parent of a child ends it at once.
    """
    return 0 if launch.kind == "torchrun" or (launch.kind == "child" and not first_rank) else 128 + signum


def attempt_of(environ: Mapping[str, str] = os.environ) -> str:
    """What all ranks that were started together have in common, and no earlier start has; "" where there is no such.

    torchrun chooses a port for each start, unless it was told one: then an earlier attempt has the same name.
    """
    kind = detect_launch(environ).kind
    if kind == "torchrun":
        return " ".join(environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    if kind == "slurm":
        return " ".join(environ.get(key, "") for key in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
    return ""


def _slurm_job(environ: Mapping[str, str]) -> tuple[str, bool]:
    if "SLURM_JOB_ID" not in environ:
        return "", False
    name = f"slurm {environ.get('SLURM_CLUSTER_NAME', '')} {slurm_id(environ)}"
    return name, int(environ.get("SLURM_RESTART_COUNT", 0)) > 0


def slurm_id(environ: Mapping[str, str] = os.environ) -> str:
    """The job's number as ``scontrol`` takes it: of an array with the number of its task."""
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ["SLURM_JOB_ID"]


def tasks_per_node(text: str) -> tuple[int, ...]:
    """Slurm's "4(x2),1" -> (4, 4, 1)."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        counts += [int(found.group(1))] * int(found.group(2) or 1) if found else []
    return tuple(counts)
