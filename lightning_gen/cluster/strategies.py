"""Which of Lightning's strategies and environments a run on several devices gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from lightning_gen.cluster.flat import PATIENCE, FlatStrategy
from lightning_gen.cluster.launch import Launch
from lightning_gen.cluster.slurm import SlurmEnvironment

OURS = (None, "auto", "flat")


def select_strategy(asked: Any, players: int, patience: int | None) -> Any:
    """The strategy for several devices: ours where none is named.

    Args:
        asked: the value of ``--trainer.strategy``.
        players: of the model; with several, Lightning's "ddp" must look for unused parameters.
        patience: seconds that a rank waits for the others.
    """
    timeout = timedelta(seconds=patience or PATIENCE)
    if asked in OURS:
        return FlatStrategy(timeout=timeout)
    if asked == "ddp":
        return DDPStrategy(find_unused_parameters=players > 1, timeout=timeout)
    return asked


def cluster_environment(launch: Launch, trainer: Mapping[str, Any]) -> ClusterEnvironment | None:
    """How the processes of a run find each other; None leaves it to Lightning, or to the user's plugins."""
    plugins = trainer.get("plugins") or []
    if any("nvironment" in str(plugin) for plugin in (plugins if isinstance(plugins, list) else [plugins])):
        return None
    if launch.external:
        return SlurmEnvironment() if launch.kind == "slurm" else TorchElasticEnvironment()
    return LightningEnvironment() if "SLURM_JOB_ID" in os.environ else None  # a single process within a job
