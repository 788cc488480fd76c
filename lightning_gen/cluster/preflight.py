"""Mistakes of a start on several devices that would otherwise train the wrong thing, or hang, silently.

All of it is read from the environment and the options, before anything is loaded or connected. What is wrong on all
ranks the first one reports; what depends on the machine, the rank on it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_gen.cluster.launch import Launch
from lightning_gen.cluster.slurm import SlurmEnvironment
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.exits import rank_local_error

SHELLS = ("bash", "interactive")  # names of jobs that Lightning takes for a shell


def resolve_trainer_options(
    trainer: Mapping[str, Any], launch: Launch, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The Trainer's options with ``devices`` and ``num_nodes`` as given by the launcher, or as requested.

    Raises:
        UserError: they contradict each other, or the launch cannot work.
    """
    settled = dict(trainer)
    if settled.get("limit_train_batches") == 0:
        raise UserError(
            f"--trainer.limit_train_batches 0: nothing would be trained; {program('evaluate')} measures a run"
        )
    if launch.kind == "slurm":
        _check_slurm_step(environ)
    if launch.kind in ("alone", "child"):
        _check_alone(settled, environ)
    if launch.kind == "torchrun":
        _check_restarts(environ)
    if launch.external:
        _check_layout(launch)
        given = _asked(settled)
        for name, there in {
            "devices": launch.processes_per_node[0],
            "num_nodes": len(launch.processes_per_node),
        }.items():
            if name not in given:
                settled[name] = there
            elif _count(given[name]) != there:
                raise _contradiction(launch, name, _count(given[name]), there)
        _check_gpus(settled, launch, "devices" in given, environ)
        _check_names(launch, environ)
    return settled


def world_size(trainer: Mapping[str, Any], launch: Launch) -> int:
    """Number of processes of a run with these settled options."""
    if launch.external:
        return launch.world
    devices = trainer.get("devices")
    if devices in (None, "auto", -1, "-1"):
        devices = (
            max(1, torch.cuda.device_count()) if trainer.get("accelerator") in (None, "auto", "gpu", "cuda") else 1
        )
    count = _count(devices)
    if count < 1:
        raise UserError(f"--trainer.devices {devices}: give at least 1, or auto for all that there are")
    return count * int(trainer.get("num_nodes") or 1)


def on_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a run with these options computes on another device than the CPU."""
    asked = trainer.get("accelerator") or "auto"
    return asked != "cpu" and (asked != "auto" or torch.cuda.is_available() or torch.backends.mps.is_available())


def processes_here(trainer: Mapping[str, Any], launch: Launch) -> int:
    """Number of processes of the run on this machine."""
    return launch.processes_per_node[0] if launch.external else world_size({**trainer, "num_nodes": 1}, launch)


def refuse_requeue_checkpoints(*folders: Path) -> None:
    """Refuse Lightning's files of a requeued job: they would be loaded in place of the run's own checkpoint.

    Raises:
        UserError: there is one.
    """
    for folder in folders:
        if foreign := sorted(folder.glob("hpc_ckpt_*.ckpt")):
            raise UserError(
                f"{foreign[0]} is a checkpoint of Lightning's requeue, which would be loaded unasked in place of this "
                "run's: move it away, or start from its weights with --init"
            )


def _asked(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The requested numbers of devices and nodes, without those that are left open."""
    open_ones = {"devices": (None, "auto", -1, "-1"), "num_nodes": (None, 1)}  # 1 is the Trainer's default
    return {name: trainer[name] for name, defaults in open_ones.items() if trainer.get(name) not in defaults}


def _count(devices: Any) -> int:
    """Number of devices of ``2``, ``"2"``, ``[0, 1]`` or ``"0,1"``.

    Raises:
        UserError: it is nothing of these.
    """
    if isinstance(devices, (list, tuple)):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    try:
        return int(devices or 0)
    except ValueError:
        raise UserError(f"the Trainer refuses its options: devices {devices!r} is no number, list or 'auto'") from None


def _contradiction(launch: Launch, name: str, asked: int, there: int) -> UserError:
    what = "processes on each node" if name == "devices" else "nodes"
    program = "srun" if launch.kind == "slurm" else "torchrun"
    option = {
        ("slurm", "devices"): f"--ntasks-per-node={asked}",
        ("slurm", "num_nodes"): f"--nodes={asked}",
        ("torchrun", "devices"): f"--nproc-per-node={asked}",
        ("torchrun", "num_nodes"): f"--nnodes={asked}",
    }[launch.kind, name]
    return UserError(
        f"--trainer.{name} {asked}, but {program} started {there} {what}: give {program} {option}, or leave out "
        f"--trainer.{name}, which follows from {program}"
    )


def _check_layout(launch: Launch) -> None:
    if len(set(launch.processes_per_node)) > 1:
        counts = ", ".join(map(str, launch.processes_per_node))
        raise UserError(f"{counts} processes on the nodes: all nodes need equally many, see --ntasks-per-node")


def _check_slurm_step(environ: Mapping[str, str]) -> None:
    if environ.get("SLURM_JOB_NAME") in SHELLS:
        raise UserError(
            f"the job is named {environ['SLURM_JOB_NAME']!r}, which Lightning takes for a shell: each task would train "
            "alone. Name it otherwise: srun --job-name=train, or in sbatch #SBATCH --job-name=train"
        )


def _check_alone(trainer: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    tasks = int(environ.get("SLURM_NTASKS") or 1)
    if tasks > 1 and "SLURM_STEP_ID" not in environ:
        raise UserError(
            f"the job has {tasks} tasks, but this is a single process: start it with srun, as in "
            f"srun {program('fit')} ..."
        )
    nodes = int(trainer.get("num_nodes") or 1)
    if nodes > 1 and not ("MASTER_ADDR" in environ and {"NODE_RANK", "GROUP_RANK", "RANK"} & set(environ)):
        raise UserError(
            f"--trainer.num_nodes {nodes}, but this process was started alone: start it on all nodes with srun or "
            "torchrun, see docs/cluster.md"
        )


def _check_restarts(environ: Mapping[str, str]) -> None:
    restarts = environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UserError(
            f"torchrun --max-restarts {restarts} hangs or fails at its first restart while the attempts share a store: "
            "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it, or leave out --max-restarts"
        )


def _check_gpus(trainer: Mapping[str, Any], launch: Launch, given: bool, environ: Mapping[str, str]) -> None:
    seen, needed = torch.cuda.device_count(), launch.processes_per_node[0]
    if trainer.get("accelerator") in (None, "auto") and not seen and int(environ.get("SLURM_GPUS_ON_NODE") or 0):
        raise rank_local_error(
            f"the job has GPUs on {socket.gethostname()}, but torch sees none there: is its CUDA build installed? "
            "--trainer.accelerator cpu trains without"
        )
    if trainer.get("accelerator") != "cpu" and seen > needed and not given:
        raise rank_local_error(
            f"{needed} processes on {socket.gethostname()}, which has {seen} GPUs: start one for each "
            f"(--ntasks-per-node={seen}, --nproc-per-node={seen}), or say --trainer.devices {needed}"
        )
    on_gpu = trainer.get("accelerator") in ("gpu", "cuda") or (trainer.get("accelerator") in (None, "auto") and seen)
    if on_gpu and seen < needed:
        raise rank_local_error(
            f"{needed} processes on {socket.gethostname()}, but each sees {seen} GPUs: give the job "
            f"--gpus-per-node={needed} (not --gpus-per-task, which hides the others), or fewer tasks"
        )


def _check_names(launch: Launch, environ: Mapping[str, str]) -> None:
    """Several nodes meet under the first one's name, and each is reached under its own."""
    if len(launch.processes_per_node) == 1:
        return
    master = environ.get("MASTER_ADDR") or _first_node(environ)
    if master and (address := _address(master)) is None:
        raise rank_local_error(
            f"the first node's name {master!r} is unknown on {socket.gethostname()}: add it to /etc/hosts or the name "
            "server, or export MASTER_ADDR with an address that all nodes reach"
        )
    if launch.kind == "torchrun" and master and address and address.startswith("127."):
        raise rank_local_error(
            f"the nodes are to meet at {master}, which is {address} on {socket.gethostname()}: each would wait for "
            "itself. Give torchrun --rdzv-endpoint with a name or address that all nodes reach"
        )
    own = _address(socket.gethostname())
    if own and own.startswith("127.") and "GLOO_SOCKET_IFNAME" not in environ and not torch.cuda.is_available():
        known = ", ".join(name for _, name in socket.if_nameindex() if name != "lo") or "none"
        raise rank_local_error(
            f"the name {socket.gethostname()!r} of this node stands for {own}, under which no other node reaches it: "
            f"export GLOO_SOCKET_IFNAME with one of its interfaces ({known}), or mend /etc/hosts"
        )


def _first_node(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or ""
    return SlurmEnvironment.resolve_root_node_address(nodes) if nodes else ""


def _address(name: str) -> str | None:
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError:
        return None
