"""What is measured: a model beside its data, and this process's share of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from datamodules.base import DataModule
from datamodules.errors import UserError
from lightning_gen.metrics.base import Rows
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import Extractor
from lightning_gen.module import GenerativeModule
from lightning_gen.noise import numbered
from lightning_gen.protocols import Posterior, Samples, SamplesClasses
from lightning_gen.render import to_uint8

AT_ONCE = 256  # examples in one pass; fixed, because a batch's size moves results in the last digits
TRAIN_ROWS, TRAIN_BYTES = 60_000, 500_000_000  # of training examples that samples are compared with
Track = Callable[[Any, str], Any]  # a progress bar round an iterable, with its title


def share(n: int, rank: int, world: int) -> list[range]:
    """This rank's part of rows 0 to n - 1: whole chunks, one after the other, so that ranks in order give all rows."""
    chunks = [range(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE)]
    return chunks[len(chunks) * rank // world : len(chunks) * (rank + 1) // world]


@dataclass(slots=True)
class Described:
    """Examples as a metric sees them: features (n, D) in float64, log-probabilities (n, C) and labels (n,) or None."""

    features: Tensor
    log_probs: Tensor | None
    y: Tensor | None


@dataclass
class Subject:
    """A model, what it is compared with, and how.

    Args:
        model: in eval mode, on its device.
        data: as the model was trained on them, for likelihoods and latents; samples, which are means, are compared with
            the originals before random binarisation.
        extractor: what turns examples into features, or the reason why there is none.
        n: number of samples, and of reference examples.
        seed: of the samples.
        draws: importance draws for each k, in all; with a larger k come fewer examples.
        k: numbers of importance samples.
        rank: this process.
        world: number of processes.
        track: shows progress.
        split: of the held-out examples that samples are compared with.
    """

    model: GenerativeModule
    data: DataModule
    extractor: Extractor | str
    n: int
    seed: int = 0
    k: tuple[int, ...] = (500, 5000)
    draws: int = 5_000_000
    rank: int = 0
    world: int = 1
    track: Track = lambda iterable, _: iterable
    split: str = "test"
    _described: dict[str, Described] = field(default_factory=dict)
    _codes: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.model.spec.shape != self.data.spec.shape:
            raise UserError(
                f"the model makes examples of shape {self.model.spec.shape}, the reference has {self.data.spec.shape}: "
                "evaluate on data of the model's shape"
            )
        self.originals = self.data.originals()
        self.asked, self.n = self.n, min(self.n, self.originals.size(self.split))

    # Examples

    def chunks(self, n: int, title: str) -> Iterator[range]:
        """This rank's rows among n, with a progress bar."""
        return self.track(share(n, self.rank, self.world), title)

    def samples(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """Generated examples with these numbers, as ``comparable``, and the classes that were asked for."""
        if not isinstance(self.model, Samples):
            raise Inapplicable(f"{type(self.model).__name__} makes no new examples")
        y = torch.tensor(rows) % self.classes if self.classes else None
        device = self.model.device
        x = self.model.sample(len(rows), y=None if y is None else y.to(device), seed=self.seed, start=rows.start)
        if x.shape[1:] != self.data.spec.shape:
            raise UserError(
                f"the model's samples have shape {tuple(x.shape[1:])}, the reference {self.data.spec.shape}"
            )
        return self.comparable(x), y

    @property
    def classes(self) -> int:
        """Number of classes that the model can be asked for."""
        return self.model.classes if isinstance(self.model, SamplesClasses) else 0

    def comparable(self, x: Tensor) -> Tensor:
        """Examples as they are compared: images rounded to 256 levels, as they would be stored; on the CPU."""
        spec = self.model.spec
        return to_uint8(x) if spec.kind == "image" and spec.values != "real" else x.detach().float().cpu()

    def real(self, split: str, rows: range) -> tuple[Tensor, Tensor | None]:
        """Real examples, as ``comparable``, and their classes."""
        batch = self.originals.examples(split, torch.tensor(rows))
        return self.comparable(batch["x"]), batch.get("y")

    def test_batches(self, n: int, title: str) -> Iterator[dict[str, Tensor]]:
        """The first n test examples as the model sees them, this rank's share."""
        for rows in self.chunks(min(n, self.data.size("test")), title):
            batch = self.data.examples("test", torch.tensor(rows))
            yield {key: value.to(self.model.device) for key, value in batch.items()}

    # Features

    def described(self, source: str) -> Described:
        """This rank's share of "generated", "reference", "floor", "held_out" or "train" examples as features."""
        if isinstance(self.extractor, str):
            raise Inapplicable(self.extractor)
        if source not in self._described:
            self._described[source] = self._describe(source)
        return self._described[source]

    def _describe(self, source: str) -> Described:
        extractor = self.extractor
        assert isinstance(extractor, Extractor)
        parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        for examples, y in self._examples(source):
            features, log_probs = extractor.both(examples.to(self.model.device))
            parts.append((features.cpu(), None if log_probs is None else log_probs.cpu(), y))
        if not parts:  # more ranks than chunks
            features, log_probs = extractor.both(self.real(self.split, range(1))[0].to(self.model.device))
            y = torch.zeros(0, dtype=torch.int64) if self.data.spec.num_classes else None
            parts = [(features[:0].cpu(), None if log_probs is None else log_probs[:0].cpu(), y)]
        columns = list(zip(*parts, strict=True))
        return Described(torch.cat(columns[0]), _cat(columns[1]), _cat(columns[2]))

    def _examples(self, source: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        title = f"features of the {source} examples"
        if source == "generated":
            for rows in self.chunks(self.n, "samples and their features"):
                yield self.samples(rows)
        elif source == "floor":
            for rows in self.chunks(self.floor_size, title):
                yield self._floor(rows)
        else:
            split, n = ("train", self.train_rows) if source == "train" else (self.split, self.n)
            for rows in self.chunks(n, title):
                yield self.real(split, rows)

    @property
    def train_rows(self) -> int:
        """Number of training examples that samples are compared with: all, as far as the memory allows."""
        width = 8 * max(64, int(torch.tensor(self.data.spec.shape).prod()) if self._is_raw else 64)
        return min(self.originals.size("train"), TRAIN_ROWS, TRAIN_BYTES // width)

    @property
    def _is_raw(self) -> bool:
        return isinstance(self.extractor, Extractor) and self.extractor.name == "raw"

    @property
    def floor_size(self) -> int:
        """As many real examples outside the reference as there are samples: the validation, then the training ones."""
        return min(self.n, self.originals.size("val") + self.originals.size("train"))

    def _floor(self, rows: range) -> tuple[Tensor, Tensor | None]:
        border = self.originals.size("val")
        own = [rows[: max(0, border - rows.start)], rows[max(0, border - rows.start) :]]
        parts = []
        if len(own[0]):
            parts.append(self.real("val", own[0]))
        if len(own[1]):
            parts.append(self.real("train", range(own[1].start - border, own[1].stop - border)))
        return torch.cat([x for x, _ in parts]), _cat([y for _, y in parts])

    def digest(self) -> str:
        """SHA-256 of the reference examples, the same for any number of ranks."""
        own = []
        for rows in self.chunks(self.n, "reading the reference"):
            own.append(sha256(self.real(self.split, rows)[0].numpy().tobytes()).hexdigest())
        everyone: list[Any] = [own]
        if self.world > 1:
            everyone = [None] * self.world
            torch.distributed.all_gather_object(everyone, own)
        return sha256("".join(part for one in everyone for part in one).encode()).hexdigest()

    # Codes

    def codes(self) -> dict[str, Tensor]:
        """Of the first n test examples of all ranks: mean, log_var, z (n, Z), log_prob, kl (n,), factors (n, F)."""
        model = self.model
        if not isinstance(model, Posterior):
            raise Inapplicable(f"{type(model).__name__} has no Gaussian posterior")
        if self._codes is None:
            known = ("factors",) if self.data.spec.factors else ()
            rows = Rows("mean", "log_var", "z", "log_prob", "kl", *known)
            for batch in self.test_batches(self.n, "codes of the test examples"):
                numbers = batch["index"].tolist()
                mean, log_var = model.posterior(batch["x"])
                noise = numbered(numbers, tuple(mean.shape[1:]), self.seed, "code").to(mean.device)
                log_prob, kl = model.elbo(batch["x"], numbers)
                z = mean + (log_var / 2).exp() * noise
                columns = {"mean": mean, "log_var": log_var, "z": z, "log_prob": log_prob, "kl": kl}
                factors = {name: batch[name].cpu() for name in known}
                rows.update(**{name: column.double().cpu() for name, column in columns.items()}, **factors)
            self._codes = rows.compute()
        return self._codes


def _cat(parts: Any) -> Tensor | None:
    return None if any(part is None for part in parts) else torch.cat(list(parts))
