"""Arrays and Custom: data of one's own, from a NumPy file or from any Dataset."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import columns, identity
from .array_files import read_arrays
from .array_forms import check_layout, in_spec, of_example, to_examples, values_of
from .base import DataModule
from .classes import ClassTable, classes_of_dataset, number_classes, targets_of
from .errors import UserError
from .order import fixed_split
from .paths import to_path
from .reader import check_range
from .sources import Batch, Source, Tensors, subsets
from .spec import DataSpec
from .value_range import describe_use, format_range

MOST = 100_000  # examples of a Dataset of vectors whose mean and scale are taken
X_KEYS, Y_KEYS = ("x", "image", "img", "pixel_values"), ("y", "label", "labels", "target")


@contextlib.contextmanager
def random_state() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators back as they were: a Dataset may draw from them."""
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


class MapDataset(Protocol):
    """Any map-style Dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def _tenth(size: int) -> int:
    """A tenth for validation or test, at least one of three or more."""
    return max(size // 10, int(size >= 3))


class Arrays(DataModule):
    """Examples from a .npy or .npz file.

    Images (N, H, W), (N, C, H, W) or (N, H, W, C) of whole numbers or floats, or vectors (N, D). An .npz may hold
    labels (N,) under ``y``, whole numbers or texts, whose values are the classes: ids are 0..K-1 in their order, and
    their values the names. A fixed permutation gives a tenth for validation and a tenth for test.

    Args:
        path: the file. Pickled objects in it are refused.
        layout: NCHW or NHWC, where the channels of images are not clear: they are recognised where they are at most 4,
            and fewer than the pixels of a side.
        range: lowest and highest value of images, where they use less than their type allows, as 0 4095 of uint16, and
            for floats outside of [0, 1], which are measured over the training images otherwise; what lies outside is
            cut.
        standardize: subtract the mean of each column of vectors and divide by its standard deviation, both of the
            training examples (default: true for vectors); samples, likelihoods and files stay in the units of the data.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(
        self,
        path: str,
        *,
        layout: str | None = None,
        range: list[float] | None = None,
        standardize: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.path, self.standardize = to_path(path), standardize
        self.layout, self._given_range = check_layout(layout), check_range(range)
        self.columns: columns.Columns | None = None  # of vectors
        self._loaded: tuple[Tensors, DataSpec] | None = None
        self._notices: tuple[str, ...] = ()

    def describe(self) -> DataSpec:
        """As found in the file."""
        return self._load()[1]

    def splits(self) -> dict[str, Source]:
        """Three fixed parts of the file."""
        source, _ = self._load()
        return subsets(source, self._parts(len(source)))

    def identity(self) -> dict[str, Any]:
        """With the number of rows, and a hash of the file."""
        return {**super().identity(), "rows": len(self._load()[0]), "contents": identity.of_file(self.path)}

    def notices(self) -> list[str]:
        """Also the order of axes, where it was guessed, the range of images, and what is unusual about columns."""
        self._load()
        return [*super().notices(), *self._notices, *columns.notices(self.columns, self.stored_spec)]

    def _load(self) -> tuple[Tensors, DataSpec]:
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    def _read(self) -> tuple[Tensors, DataSpec]:
        arrays = read_arrays(self.path)
        train = self._parts(arrays["x"].shape[0] if arrays["x"].ndim else 0)["train"]
        x, values, self._notices = to_examples(
            arrays["x"], self.path, layout=self.layout, given=self._given_range, training=train
        )
        entries, names = {"x": x}, tuple[str, ...]()
        if "y" in arrays:
            entries["y"], names = number_classes(arrays["y"], f"y in {self.path}", len(x))
        spec = DataSpec(tuple(x.shape[1:]), size=len(train), num_classes=len(names), class_names=names, **values)
        source = Tensors(**entries)
        columns.check_option(self.standardize, spec)
        if spec.kind == "vector":
            self.columns = columns.measure(source, train, str(self.path))
            spec = spec if self.standardize is False else self.columns.standardized(spec)
        return source, spec

    @staticmethod
    def _parts(size: int) -> dict[str, Tensor]:
        return fixed_split(size, _tenth(size), _tenth(size))


def take_apart(item: Any) -> tuple[Any, Any]:
    """(x, y) of one item of a Dataset; y is None where there is none.

    Raises:
        UserError: a dict without x.
    """
    x, y = find_parts(item)
    if x is None and isinstance(item, Mapping):
        raise UserError(f"an example is a dict with {', '.join(map(str, item))}: expected one of {', '.join(X_KEYS)}")
    return x, y


def find_parts(item: Any) -> tuple[Any, Any]:
    """(x, y) of an item of a Dataset or of a batch of a loader, None for what it has not."""
    if isinstance(item, Mapping):
        x, y = (next((item[key] for key in keys if key in item), None) for keys in (X_KEYS, Y_KEYS))
        return x, y
    if isinstance(item, Sequence) and len(item) > 0 and not isinstance(item, str):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


class Adapted:
    """A Dataset as a source.

    Args:
        dataset: any map-style Dataset.
        spec: what its examples must look like.
        classes: of its labels; None leaves them out.
        layout: order of the axes of its images, see ``of_example``.
    """

    def __init__(
        self, dataset: MapDataset, spec: DataSpec, classes: ClassTable | None, layout: str | None = None
    ) -> None:
        self.dataset, self.spec, self.class_table, self.layout = dataset, spec, classes, layout

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, index: Tensor) -> Batch:
        """The examples at these positions; raises UserError for one that is unlike the first."""
        pairs = [take_apart(self.dataset[k]) for k in index.tolist()]
        images = [self._example(x, k) for (x, _), k in zip(pairs, index.tolist(), strict=True)]
        batch: Batch = {"x": torch.stack(images), "index": index}
        if self.spec.values == "real" and not batch["x"].isfinite().all():
            raise columns.not_finite(batch["x"], "this Dataset", index)
        if self.spec.values == "unit" and not self.spec.range and (batch["x"].min() < 0 or batch["x"].max() > 1):
            raise UserError(
                "float images of this Dataset leave [0, 1], where the first ones lie: use one range for all"
            )
        if self.class_table:
            labels = zip(index.tolist(), (y for _, y in pairs), strict=True)
            batch["y"] = torch.tensor([self.class_table.id(y, f"example {k}") for k, y in labels], dtype=torch.int64)
        return batch

    def labels(self) -> Tensor | None:
        """(N,), where the Dataset knows them without reading its examples."""
        known = targets_of(self.dataset) if self.class_table else None
        if known is None or self.class_table is None:
            return None
        return torch.tensor([self.class_table.id(y, f"example {k}") for k, y in enumerate(known.tolist())])

    def _example(self, x: Any, k: int) -> Tensor:
        """Example k in the shape, type and range of the data set."""
        image, depth = of_example(x, self.layout)
        seen = in_spec(image, depth, self.spec) if tuple(image.shape) == self.spec.shape else None
        if seen is None:
            raise UserError(
                f"example {k} is {image.dtype} {tuple(image.shape)}, the first is {self.spec.values} {self.spec.shape}"
                ": bring all to one shape and type, e.g. with a transform of the Dataset"
            )
        return seen


class Custom(DataModule):
    """Any map-style Dataset, for use from Python.

    Its items are x, (x, y, ...) or dicts with "x" or "image" and "y" or "label"; x is a PIL image, array or tensor.
    PIL images, uint8, whole numbers of 16 bits, floats in [0, 1], and floats of any range ("real": images taken as they
    are, vectors standardized) are recognised by some examples. Transparent parts of PIL images become white. Where any
    example has 16 bits, all are brought to its range. Random transforms of the Dataset draw from global generators:
    such a run does not resume bit-identically.

    Args:
        train: training examples.
        val: validation examples; without them a fixed tenth of ``train``.
        test: test examples; without them a fixed tenth of ``train``.
        num_classes: number of classes, of labels 0 to ``num_classes - 1``.
        class_names: names of the classes, of labels that are their numbers or names. Without both, the classes are the
            Dataset's ``classes``, else the values of its ``targets``, else of labels that are texts; other labels are
            left out, which ``notices`` says.
        layout: "NCHW" or "NHWC", where the channels of arrays are not clear, see ``Arrays``; tensors have them first.
        range: lowest and highest value of images, see ``Arrays``; PIL images of floats or of 32 bits outside of [0, 1]
            need it.
        standardize: subtract the mean of each column of vectors and divide by its standard deviation, both of the
            training examples, of 100,000 spread over them where they are more (default: true for vectors).
        options: those of every data set, see ``DataModule``.
    """

    def __init__(
        self,
        train: MapDataset,
        val: MapDataset | None = None,
        test: MapDataset | None = None,
        *,
        num_classes: int = 0,
        class_names: Sequence[str] = (),
        layout: str | None = None,
        range: list[float] | None = None,
        standardize: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not len(train):
            raise UserError("the Dataset is empty")
        self.train_examples, self.val_examples, self.test_examples = train, val, test
        self.num_classes, self.class_names = num_classes, tuple(class_names)
        self.layout, self._given_range, self.standardize = check_layout(layout), check_range(range), standardize
        self.columns: columns.Columns | None = None  # of vectors
        tenth = _tenth(len(train))
        self.parts = fixed_split(len(train), 0 if val is not None else tenth, 0 if test is not None else tenth)

    def describe(self) -> DataSpec:
        """As found in up to 16 examples spread over the training set."""
        some = [of_example(take_apart(self.train_examples[k])[0], self.layout) for k in self._some()]
        kinds, shape = {1: "vector", 3: "image"}, tuple(some[0][0].shape)
        if len(shape) not in kinds:
            raise UserError(f"an example has shape {shape}: expected (H, W), (C, H, W) or (D,)")
        values = values_of(some, self._given_range) if len(shape) == 3 else {"values": "real"}
        known = self.class_table
        spec = DataSpec(shape, kinds[len(shape)], size=len(self.parts["train"]), **values)
        spec = spec._replace(num_classes=known.total, class_names=known.names) if known else spec
        columns.check_option(self.standardize, spec)
        if spec.kind != "vector":
            return spec
        rows, source = self.parts["train"], Adapted(self.train_examples, spec, known)
        self.columns = columns.measure(source, rows[:: -(-len(rows) // MOST)])
        return spec if self.standardize is False else self.columns.standardized(spec)

    def _some(self) -> list[int]:
        """Positions of up to 16 examples."""
        count = len(self.train_examples)
        return list(range(0, count, max(1, count // 16)))

    def identity(self) -> dict[str, Any]:
        """With the lengths of the Datasets, and some examples of the first, unless these are drawn at random."""
        given = [part for part in (self.train_examples, self.val_examples, self.test_examples) if part is not None]

        def read(k: int) -> tuple[Tensor, Any]:
            x, y = take_apart(self.train_examples[k])
            known = self.class_table
            return of_example(x, self.layout)[0], known.id(y, f"example {k:,}") if known else None

        with random_state():
            some = identity.of_examples(read, len(self.train_examples))
        return {**super().identity(), "lengths": [len(part) for part in given], "examples": some}

    def splits(self) -> dict[str, Source]:
        """The given Datasets, or fixed parts of the training set."""
        spec, known = self.stored_spec, self.class_table
        sources = subsets(Adapted(self.train_examples, spec, known, self.layout), self.parts)
        for name, given in (("val", self.val_examples), ("test", self.test_examples)):
            if given is not None:
                sources[name] = Adapted(given, spec, known, self.layout)
        return sources

    @cached_property
    def class_table(self) -> ClassTable | None:
        """The classes of the labels; None where there are no labels, or their classes are not known."""
        if self._label_of(0) is None:
            return None
        return classes_of_dataset(self.train_examples, self.class_names, self.num_classes, self._label_of)

    def _label_of(self, k: int) -> Any:
        return take_apart(self.train_examples[k])[1]

    def notices(self) -> list[str]:
        """Also labels that are left out, the range of images, and what is unusual about columns of vectors."""
        spec, lines = self.stored_spec, [*super().notices(), *columns.notices(self.columns, self.stored_spec)]
        if not self.class_table and self._label_of(0) is not None:
            ways = "num_classes= or class_names= says what they are"
            lines.insert(0, f"left out: the labels of the Dataset, whose classes are not known; {ways}")
        if not spec.range:
            return lines
        some = [in_spec(*of_example(take_apart(self.train_examples[k])[0], self.layout), spec) for k in self._some()]
        pairs = [(float(x.min()), float(x.max())) for x in some if x is not None]
        source = "as given" if self._given_range else f"those of {spec.bits} bits"
        used = describe_use(pairs, spec.range, f"{len(pairs):,} examples looked at")
        return [*lines, f"values {format_range(spec.range)}, {source}; of outputs too", *used]
