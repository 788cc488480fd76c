"""All random numbers of a model, as a function of names and counters instead of a hidden state.

The noise of an iteration depends on (seed, iteration, optimizer step, stream) and is drawn for the global batch, of
which each rank and each accumulation chunk takes its slice: so a run on N devices is the run on one, and a resumed run
repeats the noise of the uninterrupted one. The noise of an indexed example depends on its index: sample k of seed s is
the same for any batch size and number of devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2**63) from any names and numbers, the same on every platform."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def indexed_noise(numbers: Iterable[int], shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal noise (N, *shape) on the CPU, one row for each example number, independent of its neighbours."""
    numbers = list(numbers)
    noise = torch.empty(len(numbers), *shape)
    generator = torch.Generator()
    for row, number in zip(noise, numbers, strict=True):
        generator.manual_seed(seed_of(*key, number))
        row.normal_(generator=generator)
    return noise


class BatchNoise:
    """Standard normal noise of the training iterations, sliced by rank and chunk.

    ``shard`` of ``num_shards`` is the slice of the global batch that is computed here.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.iteration = self.move = self.shard = 0
        self.num_shards = 1
        self.generator = torch.Generator(device=device)

    def seek(self, iteration: int, move: int, shard: int, num_shards: int) -> None:
        """Go to an optimizer step of an iteration and to a slice of the batch."""
        self.iteration, self.move, self.shard, self.num_shards = iteration, move, shard, num_shards

    def __call__(self, shape: tuple[int, ...], stream: str) -> Tensor:
        """Noise (B, ...) of this slice, where B is its number of examples."""
        self.generator.manual_seed(seed_of(self.seed, self.iteration, self.move, stream))
        size = shape[0]
        noise = torch.randn(
            (size * self.num_shards, *shape[1:]), generator=self.generator, device=self.generator.device
        )  # the global batch
        return noise if self.num_shards == 1 else noise[self.shard * size : (self.shard + 1) * size]


def seed_default_generators(*key: int | str) -> None:
    """Seed what dropout and a user's own ``torch.randn`` draw from; a hundred times cheaper than torch.manual_seed."""
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # first asking is_available() would cost 0.04 ms
        torch.cuda.manual_seed(seed)
