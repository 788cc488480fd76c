"""DataModule: base class of all data sets. A set adds its spec and its three splits."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal
from weakref import WeakSet

import lightning as L
import torch
from torch import Tensor

from . import identity, pixels, units
from .classes import describe_classes
from .errors import UserError, unknown
from .loader import EvalLoader, Position, TrainLoader
from .order import BalancedOrder, BatchOrder, Order, Repeated, derive_seed, fixed_choice, limited, rank_slice
from .sources import Batch, Source, Subset, binarize_source, labels_of
from .spec import DataSpec

EXAMPLES = ("x", "a", "b")  # entries of a batch that hold the examples
BINARIZE = ("none", "dynamic", "threshold")
EVAL_SEED = 20131220  # not the run's: likelihoods of different runs are of the same binary images
PROCESSES = 1024  # that read files, at most


class DataModule(L.LightningDataModule, ABC):
    """A data set in three fixed splits, as batches ``{"x", "index"}`` and, where known, ``y`` and ``factors``.

    ``x`` (B, *shape) stays in its stored dtype (images: uint8) until it is on the device, then float32: images in
    [-1, 1]. Data of two sides have ``a`` (B, *shape) and ``b`` (B, *shape_b) in its place. Images that are stored
    larger than the spec says are cropped, at a random place in training and at the centre otherwise.

    ``y`` (B,) int64 class ids, ``text`` (B, L) int64 tokens of a text condition, ``factors`` (B, F) int64, ``index``
    (B,) int64 position in the split. The position in the training stream is the datamodule's state, so a resumed run
    goes on with the next batch; another run with the same object goes on too, a fresh run wants a fresh object.

    Args:
        batch_size: examples per step, shared by all devices.
        seed: order of the training data, flips and binarisation.
        num_workers: processes that fetch ahead; 0 is the fastest for data held in memory.
        binarize: "dynamic" makes a pixel white with a probability equal to its brightness, drawn anew for each training
            batch and once for validation and test; "threshold" makes it white from 128 on.
        flip: mirror every other training image left to right, at random; both sides of a pair alike.
        balance: draw all classes equally often in training, whatever their size; validation and test stay as they are.
    """

    def __init__(
        self,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        binarize: Literal["none", "dynamic", "threshold"] = "none",
        flip: bool = False,
        balance: bool = False,
    ) -> None:
        super().__init__()
        if binarize not in BINARIZE:
            raise unknown("binarize", binarize, BINARIZE)
        if batch_size < 1 or not 0 <= num_workers <= PROCESSES:
            possible = f"at least 0 and at most {PROCESSES}"
            raise UserError(f"batch_size {batch_size} must be at least 1, num_workers {num_workers} {possible}")
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.binarize, self.flip, self.balance = binarize, flip, balance
        self.position = Position()
        self.validation_size: Callable[[int], int] | None = None  # examples of a validation, of so many; None: all
        self._splits: dict[str, Source] = {}
        self._is_unknown = False  # whether a run goes on that did not note its data
        # Weak: workers must stop when their loader is dropped, not when the garbage collector finds a cycle.
        self._loaders: WeakSet[TrainLoader | EvalLoader] = WeakSet()
        self._generators: dict[torch.device, torch.Generator] = {}

    @abstractmethod
    def describe(self) -> DataSpec:
        """The spec of the data as stored, known before ``setup``."""

    @abstractmethod
    def splits(self) -> dict[str, Source]:
        """Load the examples of "train", "val" and "test"; called once, by ``setup``."""

    @cached_property
    def stored_spec(self) -> DataSpec:
        """The spec of the data as stored, before they are binarised."""
        return self.describe()

    @cached_property
    def spec(self) -> DataSpec:
        """What one example looks like; available before ``setup``."""
        kind, values = self.stored_spec.kind, self.stored_spec.values
        if self.flip and kind != "image":
            raise UserError(f"flip needs images; {type(self).__name__} holds examples of kind {kind!r}")
        if self.balance and not self.stored_spec.num_classes:
            raise UserError(f"balance draws classes equally, and these data ({type(self).__name__}) have none")
        if self.binarize == "none":
            return self.stored_spec
        if kind != "image" or self.stored_spec.has_two_sides or values not in ("binary", "unit", "uint8"):
            raise UserError(
                f"binarize needs images of uint8 or of floats in [0, 1]; these are {kind}s of {values!r} values"
            )
        return self.stored_spec._replace(values="binary", range=(), bits=0)

    def setup(self, stage: str | None = None) -> None:
        """Load all splits, once; ``stage`` makes no difference."""
        if self._splits:
            return
        _ = self.spec  # first, so that impossible options fail before the work
        splits = self.splits()
        if not len(splits["train"]):
            raise UserError(f"{type(self).__name__} holds no training example")
        for name in ("val", "test"):
            if not len(splits[name]):
                warnings.warn(f"no {name} examples: training examples stand in for them", stacklevel=2)
                splits[name] = splits["train"]
            if self.binarize == "dynamic":
                splits[name], skipped = binarize_source(splits[name], self.stored_spec, derive_seed(EVAL_SEED, name))
                self.record_skipped(skipped)
        self._splits = splits

    def train_dataloader(self) -> TrainLoader:
        """The training stream from the current position on."""
        self.setup()
        rank, world = self._rank_and_world()
        source, period = self._splits["train"], self._period()
        order = Repeated(self._order(), period) if period else self._order()
        loader = TrainLoader(source, order, self.position, rank, world, self.num_workers, self.record_skipped)
        self._loaders.add(loader)
        return loader

    def val_dataloader(self) -> EvalLoader:
        """The validation examples once, in order; as many as ``validation_size`` says, the same each time.

        Of a Trainer that overfits batches, those of these.
        """
        period = self._period()
        if period and getattr(self.trainer, "overfit_batches", 0):
            self.setup()
            trainer: Any = self.trainer
            trainer.limit_val_batches = period  # read after this; a share would be taken of these few again
            rows = torch.cat([self._order().batch(n) for n in range(period)])
            source: Source = Subset(self._splits["train"], rows)
            if self.binarize == "dynamic":
                source, _ = binarize_source(source, self.stored_spec, derive_seed(EVAL_SEED, "overfit"))
            return self._eval_loader(source)
        return self._eval_loader("val", self.validation_examples)

    def test_dataloader(self) -> EvalLoader:
        """The test examples once, in order."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> EvalLoader:
        """The test examples once, in order."""
        return self._eval_loader("test")

    def teardown(self, stage: str) -> None:
        """Stop the workers; a loader that is used again starts them again."""
        for loader in list(self._loaders):
            loader.close()

    def example_files(self) -> dict[str, str]:
        """Name -> path of the files that the examples are read from, of a set of many; names hold in any place."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What the data are, see ``identity.py``: known without ``setup``, and cheap beside it."""
        files = self.example_files()
        return identity.of_spec(self.stored_spec) | ({"files": identity.of_files(files)} if files else {})

    @cached_property
    def digest(self) -> dict[str, Any]:
        """``identity``, taken once."""
        return self.identity()

    def state_dict(self) -> dict[str, Any]:
        """The position of the training stream; and, of the process that writes checkpoints, what the data are."""
        first = self._rank_and_world()[0] == 0
        return {"batches": self.position.batches} | ({"identity": self.digest} if first else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            UserError: these are not the data that were trained on.
        """
        if self.trainer is None or self.trainer.state.fn == "fit":  # other examples may be tested on
            self.check_identity(state_dict)
        self.position.batches = int(state_dict["batches"])

    def check_identity(self, state_dict: Mapping[str, Any]) -> None:
        """Compare the data with those of a checkpoint.

        Args:
            state_dict: what the checkpoint holds of them.

        Raises:
            UserError: they are not the same; says what has changed.
        """
        before = state_dict.get("identity")
        self._is_unknown = not isinstance(before, Mapping)
        if isinstance(before, Mapping) and (changed := identity.changes(before, self.digest, self.example_files())):
            raise UserError(
                f"the data have changed since the checkpoint was written: {'; '.join(changed)}. A run goes on with the "
                "same data alone: put them back, or start a new run from its weights, with --init RUN"
            )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are fetched on the CPU: there is nothing to move to it."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale, and augment training batches, on the device."""
        return self.transform(batch, training=self.trainer is not None and self.trainer.training)

    def transform(self, batch: Batch, training: bool = False) -> Batch:
        """A fetched batch as the model sees it: ``x`` (B, *shape) float32, or ``a`` and ``b``; tokens int64.

        Args:
            batch: with the examples as stored. It is not changed.
            training: it is the training batch handed out last: crop, flip and binarise at random.
        """
        seen = {**batch, **{name: self._seen(batch[name], name, training) for name in EXAMPLES if name in batch}}
        if self.stored_spec.condition != "text":  # a condition only where the spec says so
            seen.pop("text", None)
        return seen

    def _seen(self, x: Tensor, name: str, training: bool) -> Tensor:
        """One entry of a batch as the model sees it."""
        side = "" if name == "x" or self.stored_spec.pairs == "all" else name  # the sides of a pair move alike
        if self.stored_spec.kind == "image":
            height, width = (self.stored_spec.shape_b if name == "b" else self.stored_spec.shape)[-2:]
            larger = tuple(x.shape[-2:]) != (height, width)
            place = self._noise("crop" + side, (2,), x.device) if training and larger else None
            x = pixels.crop(x, height, width, place)
        if training and self.flip:
            x = pixels.flip(x, self._noise("flip" + side, (), x.device) < 0)
        x = units.to_model(x, self.stored_spec)
        if training and self.binarize == "dynamic":
            x = pixels.binarize(x, self._noise("binarize", tuple(x.shape[1:]), x.device))
        elif self.binarize == "threshold":
            x = pixels.threshold(x)
        return x.contiguous()  # networks give other last digits for other orders of memory

    def without_binarization(self) -> DataModule:
        """These data before random binarisation: themselves, or a copy that is loaded anew."""
        if self.binarize != "dynamic":
            return self
        plain = copy.copy(self)
        plain.binarize, plain.position, plain.trainer = "none", Position(), None
        plain._splits, plain._loaders, plain._generators = {}, WeakSet(), {}
        plain.__dict__.pop("spec", None)  # a cached property
        return plain

    def in_units_of(self, spec: DataSpec) -> DataModule:
        """These data as a model of this spec sees them: real columns are standardized by its mean and scale.

        Themselves where these are their own, else a copy that shares what is loaded.
        """
        own = self.stored_spec
        if own.values != "real" or own.shape != spec.shape or (own.mean, own.scale) == (spec.mean, spec.scale):
            return self
        other = copy.copy(self)
        other.__dict__["stored_spec"] = own._replace(mean=spec.mean, scale=spec.scale)  # a cached property
        other.__dict__.pop("spec", None)
        return other

    def size(self, split: str) -> int:
        """Number of examples of "train", "val" or "test"."""
        self.setup()
        return len(self._splits[split])

    def has_own_examples(self, split: str) -> bool:
        """Whether these are examples of their own, and not training examples used instead."""
        self.setup()
        return self._splits[split] is not self._splits["train"]

    def examples(self, split: str, rows: Tensor) -> Batch:
        """The examples at these positions (n,) of a split as a validation sees them; broken ones left out."""
        self.setup()
        batch = self._splits[split].fetch(rows)
        self.record_skipped(batch.pop("skipped", []))
        return self.transform(batch)

    def modes(self) -> tuple[Tensor, float] | None:
        """Centres (M, D) and standard deviation of the Gaussians that the data are drawn from, where this is known."""
        return None

    def record_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """Callback for examples (name, reason) that could not be read; a data set of files counts them."""

    def class_counts(self) -> Tensor | None:
        """(K,) training examples of each class; None where that would take reading all examples."""
        self.setup()
        y = labels_of(self._splits["train"])
        return None if y is None else torch.bincount(y, minlength=self.spec.num_classes)

    def gather_skipped(self) -> None:
        """Learn which examples other processes of the run could not read; called by all of them, at its end."""

    def notices(self) -> list[str]:
        """What to say about the data at the start of a run, a line each: its classes, and what is left out."""
        line = "the checkpoint does not say what its data were: whether they are the same is not known"
        known = describe_classes(self.spec, self.class_counts()) if self.spec.num_classes else []
        return [*([line] if self._is_unknown else []), *known, *self._size_of_validation()]

    def _size_of_validation(self) -> list[str]:
        if self.validation_size is None or (count := self.validation_examples) is None:
            return []
        seen, size = f"{count:,} of {self.size('val'):,} validation examples", self.size("val")
        return [f"{seen} at each validation, always the same; --val_examples {size} takes all, as evaluate does"]

    def __repr__(self) -> str:
        """Name and spec; and the splits, which are not loaded for that."""
        name = type(self).__name__
        try:
            spec = self.stored_spec
        except UserError as error:
            return f"{name}({error})"
        shapes = " and ".join("x".join(map(str, shape)) for shape in (spec.shape, spec.shape_b) if shape)
        entries = [f"{spec.kind} {shapes} of {spec.values} values", f"{spec.size:,} training examples"]
        if self._splits:
            entries += [f"{len(self._splits[part]):,} {part}" for part in ("val", "test")]
        entries += [f"{spec.num_classes} classes"] if spec.num_classes else []
        return f"{name}({', '.join(entries)}, batch_size {self.batch_size})"

    __str__ = __repr__

    @property
    def validation_examples(self) -> int | None:
        """Examples of a validation, where it leaves others out; else None."""
        size = self.size("val")
        count = size if self.validation_size is None else self.validation_size(size)
        return count if count < size else None

    def report(self) -> str | None:
        """A message about the data for the end of a run; None for no message."""
        return None

    def _order(self) -> BatchOrder:
        """The order of the training examples."""
        source = self._splits["train"]
        if not self.balance:
            return Order(len(source), self.batch_size, self.seed)
        y = labels_of(source, read=True)
        assert y is not None, "the spec says that there are classes"
        return BalancedOrder(y, self.batch_size, self.seed)

    def _noise(self, stream: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Uniform in [-1, 1), (B / world, *shape), drawn for the last global batch and sliced: N ranks equal one."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        generator = self._generators[device]
        rank, world = self._rank_and_world()
        end, block = self.position.batches, self.position.batches_per_fetch
        noise = torch.empty((block, self.batch_size, *shape), device=device)
        for n, part in zip(range(end - block, end), noise, strict=True):
            generator.manual_seed(derive_seed(self.seed, n, stream))
            part.uniform_(-1, 1, generator=generator)
        return noise[:, rank_slice(self.batch_size, rank, world)].flatten(0, 1)

    def _period(self) -> int | None:
        """The number of training batches that a Trainer's options make an epoch of; None: it takes all in turn."""
        limit, overfits = (getattr(self.trainer, f"{name}_batches", 0) for name in ("limit_train", "overfit"))
        if not limit or (isinstance(limit, float) and limit == 1):
            return None
        count = max(1, self.size("train") // self.batch_size)
        return limited(limit, count) if overfits or limited(limit, count) < count else None

    def _eval_loader(self, split: str | Source, most: int | None = None) -> EvalLoader:
        self.setup()
        source = self._splits[split] if isinstance(split, str) else split
        rank, world = self._rank_and_world()
        rows = fixed_choice(len(source), most)
        loader = EvalLoader(source, self.batch_size, rank, world, self.num_workers, self.record_skipped, rows)
        self._loaders.add(loader)
        return loader

    def _rank_and_world(self) -> tuple[int, int]:
        """This process and the number of processes: of the attached trainer, else 0 of 1."""
        if self.trainer is None:
            return 0, 1
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if self.batch_size % world:
            raise UserError(
                f"batch_size {self.batch_size} is shared by all devices: {world} devices do not divide it; "
                f"try {self.batch_size // world * world or world}"
            )
        return rank, world
