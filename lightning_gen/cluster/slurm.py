"""Slurm: the environment of a task, and requeueing the job."""

from __future__ import annotations

import os
import re
import subprocess

from lightning.fabric.plugins.environments import SLURMEnvironment

from lightning_gen.cluster.launch import slurm_id

PORTS = 10_000  # from 15,000 on


class SlurmEnvironment(SLURMEnvironment):
    """Lightning's, without its handlers of signals, which save between two players' steps and may hang.

    The port depends on the step too, so that two steps of a job do not meet on one. The preflight checks the numbers
    of tasks.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @property
    def main_port(self) -> int:
        """The user's MASTER_PORT, or one that follows from job and step."""
        if "MASTER_PORT" not in os.environ:
            job, step = int(os.environ.get("SLURM_JOB_ID", 0)), int(os.environ.get("SLURM_STEP_ID", 0))
            os.environ["MASTER_PORT"] = str(15_000 + (job + 97 * step) % PORTS)
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def _validate_srun_used() -> None:
        """Checked by the preflight."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """The preflight has checked the layout of tasks."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Done by the preflight."""


def is_preempted() -> bool:
    """Whether Slurm takes the nodes for a more urgent job and would put this one back into the queue.

    It does so only to jobs that it must kill: one that saves and ends by itself is a finished job.
    """
    done, text = _scontrol("show", "job", slurm_id())
    found = re.search(r"\bPreemptTime=(\S+)", text)
    return done and found is not None and found.group(1) not in ("None", "N/A") and "Requeue=1" in text


def requeue() -> str:
    """Put this job back into the queue; Slurm ends it then.

    Returns:
        why it could not be done, "" if it was.
    """
    done, text = _scontrol("requeue", slurm_id())
    return "" if done else " ".join(text.split())


def _scontrol(*arguments: str) -> tuple[bool, str]:
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, done.stdout if done.returncode == 0 else done.stderr
