"""Loaders: iterables of batches, each rank its share. Not torch DataLoaders, so Lightning injects no sampler."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .errors import UserError
from .order import BatchOrder, endless, rank_slice
from .sources import Batch, Source

Note = Callable[[list[tuple[str, str]]], None]


@dataclass
class Position:
    """The whole state of a training stream: batches handed out since the start of the run.

    ``batches_per_fetch`` of them are handed out at once, one after the other in one batch of that many times the size;
    this saves a loop its costs for each batch, and changes no batch.
    """

    batches: int = 0
    batches_per_fetch: int = 1


class _Fetching(Dataset):
    """A source as seen by a torch DataLoader without automatic batching: one item is one batch."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: list) -> Batch:
        return self.source.fetch(torch.tensor(index))


def cores() -> int:
    """CPU cores that this process may use, which a cluster's job may have fewer of than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_workers(source: Source, indices: Iterable[list], num_workers: int, persistent: bool = False) -> DataLoader:
    """Fetch batches ahead in worker processes, in order.

    Args:
        source: the examples.
        indices: positions of each batch.
        num_workers: processes, at most one for each CPU core.
        persistent: keep the processes for the next iteration.
    """
    return DataLoader(
        _Fetching(source),
        batch_size=None,
        sampler=indices,
        num_workers=min(num_workers, cores()),
        persistent_workers=persistent,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=partial(_end_with, os.getpid()),
        generator=torch.Generator(),  # torch would draw the workers' seed from the global one and so shift it
    )


def _end_with(parent: int, _worker: int) -> None:
    """End a worker with the process that it works for.

    torch's own watch over the parent only leaves the worker's loop; then it waits to send what nobody reads any more,
    and keeps memory, and the output's other end, for ever.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class TrainLoader:
    """The training stream from the current position on; ``len`` batches make one Lightning epoch.

    Args:
        source: the examples.
        order: their order.
        position: of the stream; advanced when a batch is yielded, not when it is prefetched.
        rank: this process.
        world: number of processes.
        num_workers: processes that fetch ahead; 0 fetches here.
        record_skipped: callback for examples that the source skipped.
    """

    def __init__(
        self,
        source: Source,
        order: BatchOrder,
        position: Position,
        rank: int,
        world: int,
        num_workers: int,
        record_skipped: Note,
    ) -> None:
        self.source, self.order, self.position = source, order, position
        self.rank, self.world, self.num_workers, self.record_skipped = rank, world, num_workers, record_skipped
        self._ahead: Iterator[Batch] | None = None
        self._next = -1  # number of the batch that the workers deliver next

    def __len__(self) -> int:
        return max(1, len(self.source) // (self.order.batch_size * self.position.batches_per_fetch))

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(len(self)):
            batch = self._fetch(self.position.batches, self.position.batches_per_fetch)
            self.position.batches += self.position.batches_per_fetch
            yield batch

    def close(self) -> None:
        """Stop the workers."""
        self._ahead = None

    def _fetch(self, n: int, batches_per_fetch: int) -> Batch:
        """This rank's share of global batch ``n``, and of the others of its batches_per_fetch."""
        if self.num_workers == 0:
            batch = self.source.fetch(self.order.batch(n, self.rank, self.world, batches_per_fetch))
        else:
            if self._ahead is None or self._next != n:
                self._ahead = None  # stop the old workers before new ones start
                # endless: workers do not pause between epochs
                indices = endless(self.order, n, self.rank, self.world, batches_per_fetch)
                self._ahead = iter(in_workers(self.source, indices, self.num_workers))
            batch = next(self._ahead)
            self._next = n + batches_per_fetch
        if "skipped" in batch:
            self.record_skipped(batch.pop("skipped"))
            if not len(batch["index"]):
                raise UserError(f"no example of training batch {n} could be read")
        return batch


class EvalLoader:
    """Examples once, in order: each global batch is shared out, without padding and without duplicates.

    The last global batch is what remains; a rank that gets nothing of it has one batch less. Where there are so few
    examples that a rank gets none at all, it gets the first one under the index -1: Lightning refuses an empty loader.

    Args:
        source: the examples.
        batch_size: examples per global batch.
        rank: this process.
        world: number of processes.
        num_workers: processes that fetch ahead; 0 fetches here.
        record_skipped: callback for examples that the source skipped.
        rows: (n,) positions of the examples; by default all.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        rank: int,
        world: int,
        num_workers: int,
        record_skipped: Note,
        rows: Tensor | None = None,
    ) -> None:
        self.source, self.record_skipped = source, record_skipped
        batches = (torch.arange(len(source)) if rows is None else rows).split(batch_size)
        shares = [part[rank_slice(len(part), rank, world)] for part in batches]
        self.shares: list[Tensor] = [rows for rows in shares if len(rows)]
        self.stands_in = not self.shares and len(source) > 0
        if self.stands_in:
            self.shares = [torch.zeros(1, dtype=torch.int64)]
        self.num_workers = num_workers
        self._workers: DataLoader | None = None

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[Batch]:
        if self.num_workers > 0 and self._workers is None:
            indices = [rows.tolist() for rows in self.shares]
            self._workers = in_workers(self.source, indices, self.num_workers, persistent=True)
        for batch in map(self.source.fetch, self.shares) if self._workers is None else self._workers:
            if "skipped" in batch:
                self.record_skipped(batch.pop("skipped"))
            if self.stands_in:
                batch["index"] = torch.full_like(batch["index"], -1)
            if len(batch["index"]):
                yield batch

    def close(self) -> None:
        """Stop the workers."""
        self._workers = None
