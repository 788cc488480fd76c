"""The order of the training examples: a function of seed and position, so that one counter resumes it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor


def derive_seed(*numbers: int | str) -> int:
    """One seed in [0, 2**56) from several numbers or words; hash-based: nearby inputs give independent seeds."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=7).digest(), "little")


def rank_slice(count: int, rank: int, world: int) -> slice:
    """The contiguous share of ``count`` items that belongs to one rank; shares differ by at most one item."""
    return slice(rank * count // world, (rank + 1) * count // world)


def fixed_split(size: int, val: int, test: int) -> dict[str, Tensor]:
    """Positions of the train, val and test examples: disjoint, together all, and the same for every run.

    Args:
        size: number of examples.
        val: number of validation examples.
        test: number of test examples.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(derive_seed("split", size)))
    parts = order.split([test, val, size - val - test])
    return {"train": parts[2], "val": parts[1], "test": parts[0]}


def fixed_choice(size: int, most: int | None) -> Tensor:
    """Positions (n,), in order, of at most so many of ``size`` examples: drawn once, the same for every run."""
    if most is None or most >= size:
        return torch.arange(size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(derive_seed("choice", size)))
    return order[:most].sort().values


class Order:
    """The endless training stream perm(seed, 0), perm(seed, 1), ... cut into global batches of B examples.

    Batch n holds elements nB..(n+1)B of the stream: every batch is full, no example is ever dropped, and a batch
    may straddle several passes, so that any size >= 1 works with any batch size.

    Args:
        size: number of examples N.
        batch_size: examples per global batch B.
        seed: seed of the permutations.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)
        self._generator = torch.Generator()

    def permutation(self, epoch: int) -> Tensor:
        """Order of pass ``epoch`` (N,); the last one is cached."""
        if epoch != self._epoch:
            self._generator.manual_seed(derive_seed(self.seed, epoch, "order"))
            self._permutation = torch.randperm(self.size, generator=self._generator)
            self._epoch = epoch
        return self._permutation

    def batch(self, n: int, rank: int = 0, world: int = 1, batches_per_fetch: int = 1) -> Tensor:
        """Positions of one rank's share of global batch ``n``, (B / world,); for one rank also of several batches."""
        assert batches_per_fetch == 1 or world == 1, "only one rank gets several batches at once"
        share = rank_slice(self.batch_size, rank, world)
        at, end = n * self.batch_size + share.start, (n + batches_per_fetch - 1) * self.batch_size + share.stop
        parts = []
        while at < end:
            epoch, offset = divmod(at, self.size)
            parts.append(self.permutation(epoch)[offset : offset + end - at])
            at += len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class BalancedOrder:
    """The endless training stream in which each K examples in a row are one of each of K classes, in a random order.

    The k-th example of a class is the k-th of an endless stream of its own, perm(seed, class, 0), perm(seed, class, 1),
    ...: all examples of a class are drawn before one is drawn again. So batch n is a function of n, as in ``Order``.

    Args:
        y: (N,) class ids; negative ones are never drawn.
        batch_size: examples per global batch B.
        seed: seed of the permutations.
    """

    def __init__(self, y: Tensor, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        counts = y[y >= 0].unique(return_counts=True)[1]  # of the classes that are there
        self.members = y.argsort(stable=True)[len(y) - int(counts.sum()) :].split(counts.tolist())
        self._generator = torch.Generator()
        self._classes = Order(len(self.members), 1, derive_seed(seed, "classes"))
        self._rows: dict[int, tuple[int, list[int]]] = {}  # of each class its current pass, as positions

    def batch(self, n: int, rank: int = 0, world: int = 1, batches_per_fetch: int = 1) -> Tensor:
        """As of ``Order``."""
        assert batches_per_fetch == 1 or world == 1, "only one rank gets several batches at once"
        share, rows = rank_slice(self.batch_size, rank, world), []
        at, end = n * self.batch_size + share.start, (n + batches_per_fetch - 1) * self.batch_size + share.stop
        while at < end:
            round_, offset = divmod(at, len(self.members))
            chosen = self._classes.permutation(round_)[offset : offset + end - at].tolist()
            rows += [self._example(c, round_) for c in chosen]
            at += len(chosen)
        return torch.tensor(rows, dtype=torch.int64)

    def _example(self, c: int, k: int) -> int:
        """The position of the k-th example that is drawn of a class."""
        epoch, offset = divmod(k, len(self.members[c]))
        if self._rows.get(c, (-1, []))[0] != epoch:
            self._generator.manual_seed(derive_seed(self.seed, "class", c, epoch))
            permutation = torch.randperm(len(self.members[c]), generator=self._generator)
            self._rows[c] = epoch, self.members[c][permutation].tolist()
        return self._rows[c][1][offset]


class SideOrders:
    """The endless training streams of unpaired data, one for each side, which run on independently.

    Args:
        sizes: number of examples of side a and of side b.
        batch_size: examples of each side per global batch B.
        seed: seed of the permutations.
    """

    def __init__(self, sizes: tuple[int, int], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.sides = [Order(size, batch_size, derive_seed(seed, side)) for size, side in zip(sizes, "ab", strict=True)]

    def batch(self, n: int, rank: int = 0, world: int = 1, batches_per_fetch: int = 1) -> Tensor:
        """As of ``Order``, with a column for each side: (B / world, 2)."""
        return torch.stack([side.batch(n, rank, world, batches_per_fetch) for side in self.sides], 1)


def limited(limit: int | float, count: int) -> int:
    """Batches of ``count`` that a Trainer's limit leaves: a number of them, or a share of at most 1.0."""
    return min(limit, count) if isinstance(limit, int) else max(1, int(limit * count))


class Repeated:
    """The first batches of an order, again and again.

    Args:
        order: of all.
        period: number of batches.
    """

    def __init__(self, order: BatchOrder, period: int) -> None:
        self.order, self.period, self.batch_size = order, period, order.batch_size

    def batch(self, n: int, rank: int = 0, world: int = 1, batches_per_fetch: int = 1) -> Tensor:
        """As of ``Order``, of batch n modulo the period."""
        numbers = range(n, n + batches_per_fetch)
        return torch.cat([self.order.batch(k % self.period, rank, world) for k in numbers])


class BatchOrder(Protocol):
    """An order of training batches."""

    batch_size: int

    def batch(self, n: int, rank: int = 0, world: int = 1, batches_per_fetch: int = 1) -> Tensor:
        """What to fetch for one rank's share of global batch ``n``, or of ``batches_per_fetch`` batches."""
        ...


def endless(order: BatchOrder, n: int, rank: int, world: int, batches_per_fetch: int) -> Iterator[list]:
    """Batches n, n + 1, ... of an order without end, as lists; ``batches_per_fetch`` of them at once."""
    while True:
        yield order.batch(n, rank, world, batches_per_fetch).tolist()
        n += batches_per_fetch
