"""Arrays and Custom: data of one's own, from a NumPy file or from any Dataset."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from . import columns, identity
from .base import DataModule
from .classes import ClassTable, classes_of_dataset, number_classes, targets_of
from .errors import UserError
from .files import check_memory, check_regular
from .order import fixed_split
from .paths import to_path
from .sources import Batch, Source, Tensors, subsets
from .spec import DataSpec

FORMS = "images (N, H, W), (N, C, H, W) or (N, H, W, C) of uint8 or of floats in [0, 1], or vectors (N, D)"
MOST = 100_000  # examples of a Dataset of vectors whose mean and scale are taken
ZIP_ERRORS = (BadZipFile, NotImplementedError, RuntimeError, MemoryError, zlib.error)  # of what a member may be
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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays ``x`` and, where there is one, ``y`` of a .npy or .npz file; a .npy stays on disk until it is used.

    Raises:
        UserError: not such a file, damaged, or with pickled objects in it (these are never unpickled).
    """
    check_regular(path)
    try:
        arrays = _load_arrays(path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, *ZIP_ERRORS) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {path} ({reason}): expected a .npy or .npz file of {FORMS}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path} is damaged: its {name} is no array; expected a .npy or .npz file of {FORMS}")
    return arrays


def _load_arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {"x": np.load(path, mmap_mode="c", allow_pickle=False)}  # copy-on-write: the file is never changed
    with np.load(path, allow_pickle=False) as archive:
        _check_members(path, archive)
        others = [name for name in archive.files if name != "y"]
        if "x" not in others and len(others) != 1:
            raise UserError(f"{path} holds {', '.join(archive.files)}: name the examples 'x' and the class ids 'y'")
        x = archive["x" if "x" in others else others[0]]
        return {"x": x, "y": archive["y"]} if "y" in archive.files else {"x": x}


def _check_members(path: Path, archive: Any) -> None:
    """Refuse what np.load would hand out as bytes, or inflate beyond all memory.

    Raises:
        UserError: that names the member.
    """
    for member in archive.zip.infolist():
        if not member.filename.endswith(".npy"):
            raise UserError(f"{path} holds {member.filename!r}, which is no array: save it with np.savez")
        if member.flag_bits & 1:
            raise UserError(f"{path}: {member.filename} is encrypted: save it without a password")
        check_memory(member.file_size, f"{member.filename} in {path}", "save it as .npy, which stays on disk")


def to_examples(x: np.ndarray, path: Path) -> tuple[Tensor, str, str]:
    """Examples (N, C, H, W) or (N, D), their kind and their values.

    Raises:
        UserError: of no accepted form, or out of range.
    """
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * 255
    floats = np.issubdtype(x.dtype, np.floating)
    if x.ndim not in (2, 3, 4) or 0 in x.shape or not (floats or x.dtype == np.uint8):
        raise UserError(f"{path} holds {x.dtype} of shape {x.shape}: expected {FORMS}")
    wide = x.ndim == 2 and x.dtype.itemsize >= 8  # columns such as times need all their digits until they are centred
    examples = torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float64 if wide else np.float32, copy=False))
    low, high = (float(bound) for bound in torch.aminmax(examples)) if floats else (0.0, 255.0)
    if not np.isfinite([low, high]).all():
        raise columns.not_finite(examples, str(path))
    if x.ndim == 2:
        return examples if floats else examples.float(), "vector", "real"
    if floats and (low < 0 or high > 1):
        raise UserError(f"{path} holds floats in [{low:g}, {high:g}]: float images must lie in [0, 1]")
    if x.ndim == 3:
        examples = examples.unsqueeze(1)
    elif x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        examples = examples.movedim(3, 1)  # a view: batches come out contiguous
    return examples, "image", "unit" if floats else "uint8"


class Arrays(DataModule):
    """Examples from a .npy or .npz file.

    Images (N, H, W), (N, C, H, W) or (N, H, W, C) of uint8 or of floats in [0, 1], or vectors (N, D). An .npz may hold
    labels (N,) under ``y``, whole numbers or texts, whose values are the classes: ids are 0..K-1 in their order, and
    their values the names. A fixed permutation gives a tenth for validation and a tenth for test.

    Args:
        path: the file. Pickled objects in it are refused.
        standardize: subtract the mean of each column of vectors and divide by its standard deviation, both of the
            training examples (default: true for vectors); samples, likelihoods and files stay in the units of the data.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(self, path: str, *, standardize: bool | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.path, self.standardize = to_path(path), standardize
        self.columns: columns.Columns | None = None  # of vectors
        self._loaded: tuple[Tensors, DataSpec] | None = None

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

    def _load(self) -> tuple[Tensors, DataSpec]:
        if self._loaded is None:
            arrays = read_arrays(self.path)
            x, kind, values = to_examples(arrays["x"], self.path)
            entries, names = {"x": x}, tuple[str, ...]()
            if "y" in arrays:
                entries["y"], names = number_classes(arrays["y"], f"y in {self.path}", len(x))
            size = len(x) - 2 * _tenth(len(x))
            spec = DataSpec(tuple(x.shape[1:]), kind, values, size, num_classes=len(names), class_names=names)
            source = Tensors(**entries)
            columns.check_option(self.standardize, spec)
            if kind == "vector":
                self.columns = columns.measure(source, self._parts(len(x))["train"], str(self.path))
                spec = spec if self.standardize is False else self.columns.standardized(spec)
            self._loaded = source, spec
        return self._loaded

    def notices(self) -> list[str]:
        """Also what is unusual about columns of vectors."""
        return super().notices() + columns.notices(self.columns, self.stored_spec)

    @staticmethod
    def _parts(size: int) -> dict[str, Tensor]:
        return fixed_split(size, _tenth(size), _tenth(size))


def take_apart(item: Any) -> tuple[Any, Any]:
    """(x, y) of one item of a Dataset; y is None where there is none."""
    if isinstance(item, Mapping):
        x = next((item[key] for key in X_KEYS if key in item), None)
        y = next((item[key] for key in Y_KEYS if key in item), None)
        if x is None:
            raise UserError(
                f"an example is a dict with {', '.join(map(str, item))}: expected one of {', '.join(X_KEYS)}"
            )
        return x, y
    if isinstance(item, Sequence) and len(item) > 0 and not isinstance(item, str):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def to_tensor(x: Any) -> Tensor:
    """One example, uint8 or float32: (C, H, W) from a PIL image, an array (H, W) or (H, W, C), a tensor; or (D,).

    Vectors of float64 stay: columns such as times need all their digits until they are centred.
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu()
    elif isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
        x = x.movedim(-1, 0) if x.ndim == 3 and x.shape[-1] in (1, 3) and x.shape[0] not in (1, 3) else x
    elif hasattr(x, "convert"):  # a PIL image
        x = torch.from_numpy(np.array(x.convert("L" if x.mode in ("1", "L", "LA") else "RGB")))
        x = x.movedim(-1, 0) if x.ndim == 3 else x
    else:
        x = torch.as_tensor(np.asarray(x))  # not directly, which would make float32 of Python's numbers
    x = x.unsqueeze(0) if x.ndim == 2 else x
    if x.ndim == 1 and x.dtype == torch.float64:
        return x
    return x if x.dtype == torch.uint8 and x.ndim == 3 else x.float()


class Adapted:
    """A Dataset as a source.

    Args:
        dataset: any map-style Dataset.
        spec: what its examples must look like.
        classes: of its labels; None leaves them out.
    """

    def __init__(self, dataset: MapDataset, spec: DataSpec, classes: ClassTable | None) -> None:
        self.dataset, self.spec, self.class_table = dataset, spec, classes

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, index: Tensor) -> Batch:
        """The examples at these positions; raises UserError for one that is unlike the first."""
        pairs = [take_apart(self.dataset[k]) for k in index.tolist()]
        images = [to_tensor(x) for x, _ in pairs]
        for k, image in zip(index.tolist(), images, strict=True):
            if tuple(image.shape) != self.spec.shape or (image.dtype == torch.uint8) != (self.spec.values == "uint8"):
                raise UserError(
                    f"example {k} is {image.dtype} {tuple(image.shape)}, "
                    f"the first is {self.spec.values} {self.spec.shape}: "
                    "bring all to one shape and type, e.g. with a transform of the Dataset"
                )
        batch: Batch = {"x": torch.stack(images), "index": index}
        if self.spec.values == "real" and not batch["x"].isfinite().all():
            raise columns.not_finite(batch["x"], "this Dataset", index)
        if self.spec.values == "unit" and (batch["x"].min() < 0 or batch["x"].max() > 1):
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


class Custom(DataModule):
    """Any map-style Dataset, for use from Python.

    Its items are x, (x, y, ...) or dicts with "x" or "image" and "y" or "label"; x is a PIL image, array or tensor.
    PIL images and uint8, floats in [0, 1], and floats of any range ("real": images taken as they are, vectors
    standardized) are recognised by some examples. Random transforms of the Dataset draw from global generators: such a
    run does not resume bit-identically.

    Args:
        train: training examples.
        val: validation examples; without them a fixed tenth of ``train``.
        test: test examples; without them a fixed tenth of ``train``.
        num_classes: number of classes, of labels 0 to ``num_classes - 1``.
        class_names: names of the classes, of labels that are their numbers or names. Without both, the classes are the
            Dataset's ``classes``, else the values of its ``targets``, else of labels that are texts; other labels are
            left out, which ``notices`` says.
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
        standardize: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not len(train):
            raise UserError("the Dataset is empty")
        self.train_examples, self.val_examples, self.test_examples = train, val, test
        self.num_classes, self.class_names = num_classes, tuple(class_names)
        self.standardize = standardize
        self.columns: columns.Columns | None = None  # of vectors
        tenth = _tenth(len(train))
        self.parts = fixed_split(len(train), 0 if val is not None else tenth, 0 if test is not None else tenth)

    def describe(self) -> DataSpec:
        """As found in up to 16 examples spread over the training set."""
        count = len(self.train_examples)
        pairs = [take_apart(self.train_examples[k]) for k in range(0, count, max(1, count // 16))]
        some = [to_tensor(x) for x, _ in pairs]
        kinds = {1: "vector", 3: "image"}
        if some[0].ndim not in kinds:
            raise UserError(f"an example has shape {tuple(some[0].shape)}: expected (H, W), (C, H, W) or (D,)")
        kind, values = kinds[some[0].ndim], "real"
        if some[0].dtype == torch.uint8:
            values = "uint8"
        elif kind == "image" and all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in some):
            values = "unit"
        size = len(self.parts["train"])
        known, total = self.class_table, self.class_table.total if self.class_table else 0
        names = known.names if known else ()
        spec = DataSpec(tuple(some[0].shape), kind, values, size, num_classes=total, class_names=names)
        columns.check_option(self.standardize, spec)
        if kind != "vector":
            return spec
        rows = self.parts["train"]
        source = Adapted(self.train_examples, spec, self.class_table)
        self.columns = columns.measure(source, rows[:: -(-len(rows) // MOST)])
        return spec if self.standardize is False else self.columns.standardized(spec)

    def identity(self) -> dict[str, Any]:
        """With the lengths of the Datasets, and some examples of the first, unless these are drawn at random."""
        given = [part for part in (self.train_examples, self.val_examples, self.test_examples) if part is not None]

        def read(k: int) -> tuple[Tensor, Any]:
            x, y = take_apart(self.train_examples[k])
            return to_tensor(x), self.class_table.id(y, f"example {k:,}") if self.class_table else None

        with random_state():
            some = identity.of_examples(read, len(self.train_examples))
        return {**super().identity(), "lengths": [len(part) for part in given], "examples": some}

    def splits(self) -> dict[str, Source]:
        """The given Datasets, or fixed parts of the training set."""
        spec = self.stored_spec
        sources = subsets(Adapted(self.train_examples, spec, self.class_table), self.parts)
        for name, given in (("val", self.val_examples), ("test", self.test_examples)):
            if given is not None:
                sources[name] = Adapted(given, spec, self.class_table)
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
        """Also whether there are labels that are left out, and what is unusual about columns of vectors."""
        lines = super().notices() + columns.notices(self.columns, self.stored_spec)
        if self.class_table or self._label_of(0) is None:
            return lines
        ways = "num_classes= or class_names= says what they are"
        return [f"left out: the labels of the Dataset, whose classes are not known; {ways}", *lines]
