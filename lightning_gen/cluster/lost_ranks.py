"""Names the ranks that are gone or silent when the connection between the ranks breaks."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist

from lightning_gen.cluster.launcher import SubprocessLauncher, checkpoint_folder, wait_then_kill
from lightning_gen.datamodules.errors import UserError
from lightning_gen.exits import RankLost
from lightning_gen.storage.checkpoints import how_to_go_on
from lightning_gen.training.finite import NonFinite

DESCRIPTORS = "/proc/self/fd"
WAIT = 4.0  # seconds that the others have to answer
BROKEN = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out waiting|tcpstore", re.IGNORECASE
)


@contextlib.contextmanager
def report_lost_ranks(trainer: L.Trainer) -> Iterator[None]:
    """From here on an error is one of this rank, and a broken connection names those that broke it.

    Raises:
        RankLost: another rank does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size > 1 and is_connection_error(error):
            raise lost_ranks_error(trainer.global_rank, trainer.world_size, checkpoint_folder(trainer)) from error
        raise
    except UserError as error:
        if isinstance(error, NonFinite):
            error = NonFinite(f"{error}. {how_to_go_on(checkpoint_folder(trainer))}")
        error.rank_local = True
        if trainer.world_size > 1:
            with contextlib.suppress(RuntimeError, ValueError):
                _store().set(f"failed/{trainer.global_rank}", str(error))
        raise error from None
    finally:
        if sys.exc_info()[0] and isinstance(trainer.strategy.launcher, SubprocessLauncher):
            wait_then_kill(trainer.strategy.launcher.procs)


def is_connection_error(error: BaseException) -> bool:
    """Whether an exchange with the other ranks failed, and not a computation of this one."""
    # DistError is a RuntimeError, and gloo raises plain ones
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or bool(BROKEN.search(str(error))))


def lost_ranks_error(rank: int, world: int, folder: Path | None) -> UserError:
    """Check which ranks still write to the TCPStore, and name those that do not, or that gave a reason."""
    missing = missing_ranks(rank, world)
    for other in missing:
        with contextlib.suppress(RuntimeError, ValueError):
            if _store().check([f"failed/{other}"]):
                return UserError(f"rank {other} stopped: {_store().get(f'failed/{other}').decode()}")
    names = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}" if missing else "a rank"
    return RankLost(
        f"{names} of {world} no longer answer{'' if len(missing) > 1 else 's'}: killed, out of memory, frozen, or its "
        f"node is gone; its own output says more. {how_to_go_on(folder)}"
    )


def missing_ranks(rank: int, world: int) -> list[int]:
    """The ranks that do not answer within ``WAIT`` seconds; the first one, if the store itself is gone."""
    missing: list[int] = []
    try:
        store = _store()
        store.set(f"present/{rank}", "1")
        _hang_up()
        give_up = time.monotonic() + WAIT
        while time.monotonic() < give_up:
            missing = [other for other in range(world) if other != rank and not store.check([f"present/{other}"])]
            if not missing:
                break
            time.sleep(0.5)
    except (RuntimeError, ValueError):  # the process that keeps the store is gone
        return missing or [0]
    return missing


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _hang_up() -> None:
    """Close the connections to the other ranks, so that ranks that wait for this one notice as well.

    Taking the process group down does not: gloo keeps them open until the process ends. The store's stays.
    """
    store = int(os.environ.get("MASTER_PORT", 0))
    for descriptor in map(int, os.listdir(DESCRIPTORS) if os.path.isdir(DESCRIPTORS) else ()):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            ends = connection.getsockname(), connection.getpeername()
            if connection.family in (socket.AF_INET, socket.AF_INET6) and store not in (end[1] for end in ends):
                connection.shutdown(socket.SHUT_RDWR)
