"""An evaluation run: model, reference data, and this rank's chunks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.value_range import check_same_range
from lightning_gen.kinds import kind_of
from lightning_gen.metrics.base import GatherColumns
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import Extractor
from lightning_gen.networks.condition import condition_of, conditions_in_turn, labels_of
from lightning_gen.objectives.latent import reparameterise
from lightning_gen.protocols import Posterior, Samples, SamplesClasses
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE, check_finite
from lightning_gen.training.noise import indexed_noise

ORDER_SEED = 20131220  # seed of the order in which real examples are taken
TRAIN_ROWS, TRAIN_BYTES = 60_000, 500_000_000  # of training examples that samples are compared with
Track = Callable[[Any, str], Any]  # a progress bar round an iterable, with its title


def rank_chunks(n: int, rank: int, world: int) -> list[range]:
    """This rank's part of rows 0 to n - 1: whole chunks, one after the other, so that ranks in order give all rows."""
    chunks = [range(start, min(start + EVAL_BATCH_SIZE, n)) for start in range(0, n, EVAL_BATCH_SIZE)]
    return chunks[len(chunks) * rank // world : len(chunks) * (rank + 1) // world]


@lru_cache(maxsize=8)
def fixed_permutation(size: int) -> Tensor:
    """A split may be sorted by class: so the first rows are of a permutation, the same for all models and seeds."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(ORDER_SEED))


class ExampleBatch(NamedTuple):
    """Examples as they are compared: x (n, *shape), classes (n,) or None, and their numbers or positions (n,)."""

    x: Tensor
    y: Tensor | None
    positions: Tensor


class ExtractedFeatures(NamedTuple):
    """Examples as a metric sees them: features (n, D) and log-probabilities (n, C) in float64; the rest as above."""

    features: Tensor
    log_probs: Tensor | None
    y: Tensor | None
    positions: Tensor


@dataclass
class EvaluationRun:
    """A model, its reference data, and the settings of the evaluation.

    Args:
        model: a ``GenerativeModule`` in eval mode, on its device, or an adapter with its methods.
        data: as the model was trained on them, for likelihoods and latents; samples, which are means, are compared with
            the originals before random binarisation.
        extractor: the feature extractor, or the reason why there is none.
        n: number of samples, and of reference examples.
        seed: of the samples.
        draws: importance draws for each k, in all; with a larger k come fewer examples.
        k: numbers of importance samples.
        rank: this process.
        world: number of processes.
        track: shows progress.
        split: of the held-out examples that samples are compared with.
        name: of the model, by default that of its class.
        prefix: of the names of its values.
        remark: a remark on its samples beside each value.
        other_directions: further runs that are measured with it, those of a translator's other directions.
        reference_data: the data that all of them are compared with, where these are more than ``data``.
    """

    model: Any
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
    name: str = ""
    prefix: str = ""
    remark: str = ""
    other_directions: Sequence[EvaluationRun] = ()
    reference_data: Sequence[DataModule] = ()
    _described: dict[str, ExtractedFeatures] = field(default_factory=dict)
    _codes: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.name = self.name or type(self.model).__name__
        if self.data.spec.has_two_sides:
            raise UserError(
                f"{self.name} does not translate, and these data have two sides: a model such as cyclegan takes them"
            )
        if self.model.spec.shape != self.data.spec.shape:
            raise UserError(
                f"the model makes examples of shape {self.model.spec.shape}, the reference has {self.data.spec.shape}: "
                "evaluate on data of the model's shape"
            )
        check_same_range(self.model.spec, self.data.spec)
        self.data = self.data.in_units_of(self.model.spec)
        self.unbinarized_data = self.data.without_binarization()
        self.n = min(self.n, self.unbinarized_data.size(self.split))

    @property
    def all_runs(self) -> list[EvaluationRun]:
        """All that is measured."""
        return [self, *self.other_directions]

    # Examples

    def chunks(self, n: int, title: str) -> Iterator[range]:
        """This rank's rows among n, with a progress bar."""
        return self.track(rank_chunks(n, self.rank, self.world), title)

    def samples(self, rows: range) -> ExampleBatch:
        """Generated examples with these numbers.

        Raises:
            Inapplicable: the model makes none.
            UserError: they are not finite, or of another shape.
        """
        device = self.model.device
        if not isinstance(self.model, Samples):
            raise Inapplicable(f"{self.name} makes no new examples")
        numbers = torch.tensor(rows)
        y = conditions_in_turn(self.model, numbers, self._texts)
        asked = {} if y is None else {"y": y.to(device)}
        x = self.model.sample(len(rows), seed=self.seed, start=rows.start, **asked)
        if x.shape[1:] != self.data.spec.shape:
            raise UserError(
                f"the model's samples have shape {tuple(x.shape[1:])}, the reference {self.data.spec.shape}"
            )
        check_finite(x, "samples")
        return ExampleBatch(self.to_stored_levels(x), y if self.classes else None, numbers)

    def _texts(self, numbers: Tensor) -> Tensor | None:
        """For samples with these numbers (n,) the texts of real examples (n, L)."""
        size = self.unbinarized_data.size(self.split)
        return condition_of(self.unbinarized_data.examples(self.split, fixed_permutation(size)[numbers % size]))

    @property
    def classes(self) -> int:
        """Number of classes of a class-conditional model."""
        return self.model.classes if isinstance(self.model, SamplesClasses) else 0

    def to_stored_levels(self, x: Tensor) -> Tensor:
        """Examples as they are compared: as they would be stored, images rounded to 256 levels; on the CPU."""
        return kind_of(self.model.spec).stored(x, self.model.spec)

    def real(self, split: str, rows: range) -> ExampleBatch:
        """Real examples of a split, in a fixed random order; broken ones are left out."""
        return self.examples_at(split, fixed_permutation(self.unbinarized_data.size(split))[rows.start : rows.stop])

    def examples_at(self, split: str, positions: Tensor) -> ExampleBatch:
        """The examples at these positions of a split."""
        batch = self.unbinarized_data.examples(split, positions)
        return ExampleBatch(self.to_stored_levels(batch["x"]), labels_of(batch), batch["index"])

    def map_test_set(
        self,
        names: Sequence[str],
        n: int,
        title: str,
        work: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        data: DataModule | None = None,
    ) -> dict[str, Tensor]:
        """Columns (n, ...) of n test examples, of all ranks, on the CPU; ``work`` gives them for a batch.

        ``data`` may be others than those of the run.
        """
        data = self.data if data is None else data
        rows, size = GatherColumns(*names), data.size("test")

        def local() -> None:
            for part in self.chunks(min(n, size), title):
                batch = data.examples("test", fixed_permutation(size)[part.start : part.stop])
                if not len(batch["index"]):  # none could be read
                    continue
                columns = work({key: value.to(self.model.device) for key, value in batch.items()})
                rows.update(**{name: as_float64(column.cpu()) for name, column in columns.items()})

        self.run_on_all_ranks(local)
        return rows.compute()

    def run_on_all_ranks(self, work: Callable[[], Any]) -> Any:
        """Run on every rank; if one rank raises, raise on all, so that none waits for it for ever."""
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        if self.world > 1:
            everyone: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(
                everyone, error and (isinstance(error, Inapplicable), error_message(error))
            )
            if error is None and (found := next(filter(None, everyone), None)):
                raise (Inapplicable if found[0] else UserError)(found[1])
        if error is not None:
            raise error
        return result

    # Features

    def extract_features(self, source: str) -> ExtractedFeatures:
        """This rank's share of the "generated", "reference", "floor" or "train" examples as features."""
        if isinstance(self.extractor, str):
            raise Inapplicable(self.extractor)
        if source not in self._described:
            self._described[source] = self.run_on_all_ranks(lambda: self._describe(source))
        return self._described[source]

    def clear_samples(self) -> None:
        """The model has changed: extract the features of its samples again."""
        self._described.pop("generated", None)

    def _describe(self, source: str) -> ExtractedFeatures:
        parts = [self._features(examples) for examples in self._examples(source)]
        if not parts:  # more ranks than chunks: no rows, of the widths that the others have
            one = self._features(self.real(self.split, range(1)))
            asked = one.y if source != "generated" else torch.zeros(1, dtype=torch.int64) if self.classes else None
            parts = [ExtractedFeatures(*(column if column is None else column[:0] for column in one._replace(y=asked)))]  # type: ignore[arg-type]
        features, log_probs, y, positions = (_cat(column) for column in zip(*parts, strict=True))
        assert features is not None and positions is not None
        return ExtractedFeatures(features, log_probs, y, positions)

    def _features(self, examples: ExampleBatch) -> ExtractedFeatures:
        assert isinstance(self.extractor, Extractor)
        features, log_probs = self.extractor.features_and_log_probs(examples.x.to(self.float64_device))
        return ExtractedFeatures(
            features.cpu(), None if log_probs is None else log_probs.cpu(), examples.y, examples.positions
        )

    @property
    def float64_device(self) -> torch.device:
        """The model's, unless it does not support float64."""
        device = self.model.device
        return torch.device("cpu") if device.type == "mps" else device

    def _examples(self, source: str) -> Iterator[ExampleBatch]:
        if source == "generated":
            yield from map(self.samples, self.chunks(self.n, "samples and their features"))
        elif source == "floor":
            yield from map(self._floor, self.chunks(self.floor_size, "features of other real examples"))
        elif source == "train":
            for rows in self.chunks(self.train_rows, "features of the training examples"):
                yield self.real("train", rows)
        else:
            for rows in self.chunks(self.n, "features of the reference"):
                yield self.real(self.split, rows)

    @property
    def train_rows(self) -> int:
        """Number of training examples that samples are compared with: all, as far as the memory allows."""
        width = 8 * max(1, self.extract_features("reference").features.shape[1])  # bytes
        return min(self.unbinarized_data.size("train"), TRAIN_ROWS, TRAIN_BYTES // width)

    @property
    def floor_size(self) -> int:
        """As many real examples outside the reference as there are samples, if there are so many."""
        return min(self.n, self._validation + self.unbinarized_data.size("train"))

    @property
    def floor_of(self) -> str:
        """What the floor is measured of: "10,000 random training and validation examples"."""
        return f"{self.floor_size:,} random training{' and validation' if self._validation else ''} examples"

    @property
    def _validation(self) -> int:
        return self.unbinarized_data.size("val") if self.unbinarized_data.has_own_examples("val") else 0

    def _floor(self, rows: range) -> ExampleBatch:
        """A random draw of all examples outside the reference: one split alone may be of other writers or days."""
        border = self.unbinarized_data.size("train")
        drawn = fixed_permutation(border + self._validation)[rows.start : rows.stop]
        train, val = drawn[drawn < border], drawn[drawn >= border] - border
        parts = [self.examples_at(split, own) for split, own in (("train", train), ("val", val)) if len(own)]
        x, y, positions = (_cat(column) for column in zip(*parts, strict=True))
        assert x is not None and positions is not None
        return ExampleBatch(x, y, positions)

    def reference_hash(self) -> tuple[str, int]:
        """SHA-256 of the reference data, the same for any number of ranks, and how many could be read."""
        found = [self._digest(data) for data in self.reference_data or [self.unbinarized_data]]
        hashes = [text for text, _ in found]
        whole = hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()
        return whole, min(count for _, count in found)

    def _digest(self, data: DataModule) -> tuple[str, int]:
        positions = fixed_permutation(data.size(self.split))

        def local() -> list[tuple[str, int]]:
            chunks = self.chunks(self.n, "reading the reference")
            parts = (data.examples(self.split, positions[rows.start : rows.stop])["x"] for rows in chunks)
            return [(sha256(self.to_stored_levels(x).numpy().tobytes()).hexdigest(), len(x)) for x in parts]

        everyone: list[Any] = [self.run_on_all_ranks(local)]
        if self.world > 1:
            own, everyone = everyone[0], [None] * self.world
            torch.distributed.all_gather_object(everyone, own)
        found = [part for one in everyone for part in one]
        return sha256("".join(text for text, _ in found).encode()).hexdigest(), sum(count for _, count in found)

    # Codes

    def codes(self) -> dict[str, Tensor]:
        """Of n test examples of all ranks: mean, log_var, z (n, Z), and where known factors (n, F).

        Raises:
            Inapplicable: the model has no such codes.
            UserError: they are not finite.
        """
        if self._codes is None:
            model = self.model
            if not isinstance(model, Posterior):
                raise Inapplicable(f"{self.name} has no Gaussian posterior")
            known = ("factors",) if self.data.spec.factors else ()

            def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
                numbers = batch["index"].tolist()
                mean, log_var = model.posterior(batch["x"], condition_of(batch))
                noise = indexed_noise(numbers, tuple(mean.shape[1:]), self.seed, "code").to(mean.device)
                z = reparameterise(mean, log_var, noise)
                columns = {"mean": mean, "log_var": log_var, "z": z}
                return columns | {name: batch[name] for name in known}

            names = ("mean", "log_var", "z", *known)
            codes = self.map_test_set(names, self.n, "codes of the test examples", work)
            for name in ("mean", "log_var"):
                check_finite(codes[name], f"{name} of the test examples")
            self._codes = codes
        return self._codes


def _cat(column: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in column if part is not None]
    return torch.cat(known) if known else None


def error_message(error: Exception) -> str:
    """An error of a model or metric; of an internal one also its place in the program."""
    if isinstance(error, UserError | Inapplicable):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def as_float64(column: Tensor) -> Tensor:
    """Numbers in float64; integers as they are."""
    return column.double() if column.is_floating_point() else column
