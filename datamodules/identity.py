"""What data are, in few bytes: a checkpoint holds it, and a resumed run notices that they have changed.

A dict of plain values, and of tensors for many files: shape and number of classes of every set; of files the names,
sizes and a hash of each one's first and last 64 kB; of an array its rows and a hash of its file; of any other Dataset
its lengths, and mean and deviation of some examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .spec import DataSpec

EDGE = 64 * 1024  # bytes at both ends of a file of many
WHOLE, BLOCKS = 256 * 2**20, 4096  # bytes up to which a large file is hashed as a whole; blocks of EDGE that are beyond
LABELS = {  # entry -> what a user calls it, in the order in which changes are told
    "kind": "kind of data",
    "shape": "shape",
    "shape_b": "shape of side b",
    "values": "values",
    "classes": "classes",
    "rows": "rows",
    "match": "matching of pairs",
    "lengths": "examples of train, val and test",
    "size": "training examples",
}
CONTENTS = "contents of the file"  # what is told where no more than a hash is known
CLOSE = 1e-4  # relative difference of means that another processor may make


def of_spec(spec: DataSpec) -> dict[str, Any]:
    """Of any data set: what its examples look like and how many are trained on."""
    shapes = {"shape": list(spec.shape), "shape_b": list(spec.shape_b)}
    return {"kind": spec.kind, **shapes, "values": spec.values, "classes": spec.num_classes, "size": spec.size}


def of_files(paths: Mapping[str, str]) -> Tensor:
    """Of many files (N, 3) int64: hashes of name and contents, and size, in the order of the first; -1 if unreadable.

    Args:
        paths: name -> where the file lies; the name is what must not change.
    """
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_edges, paths.values()))
    rows = [[_number(name.encode(errors="surrogateescape")), *seen] for name, seen in zip(paths, found, strict=True)]
    return torch.tensor(sorted(rows), dtype=torch.int64).reshape(-1, 3)


def of_file(path: str | Path) -> str:
    """A hash of a file's contents; beyond 256 MB of 4,096 blocks of 64 kB that are spread evenly over it."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        hashed = blake2b(str(size).encode(), digest_size=16)
        if size <= WHOLE:
            while block := file.read(2**22):
                hashed.update(block)
        else:
            for k in range(BLOCKS):
                file.seek((size - EDGE) * k // (BLOCKS - 1))
                hashed.update(file.read(EDGE))
    return hashed.hexdigest()


def of_examples(read: Callable[[int], tuple[Tensor, Any]], length: int, count: int = 16) -> Tensor:
    """Of up to 16 examples, spread over a Dataset, mean, deviation and class (n, 3); none where reading is random.

    Args:
        read: (x, class or None) of an example. It is called twice for each.
        length: of the Dataset.
        count: how many examples.
    """
    rows = sorted({k * (length - 1) // max(1, count - 1) for k in range(count)}) if length else []
    twice = [torch.tensor([_moments(*read(k)) for k in rows], dtype=torch.float64).reshape(-1, 3) for _ in range(2)]
    return twice[0] if torch.equal(*twice) else torch.empty(0, 3, dtype=torch.float64)


def changes(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str] = ()) -> list[str]:
    """What has changed, in words; empty where nothing has.

    Args:
        before: the identity that a checkpoint holds.
        now: that of the data at hand.
        names: of the files at hand.
    """
    told = [
        f"{label} {_text(key, before[key])} -> {_text(key, now[key])}"
        for key, label in LABELS.items()
        if key in before and key in now and before[key] != now[key]
    ]
    if "files" in before and "files" in now:
        told += _files(before, now, names)
    if not told:  # of a user's own set what it has added
        others = [key for key in before if key in now and key not in (*LABELS, "files", "examples")]
        told = [CONTENTS if key == "contents" else key for key in others if before[key] != now[key]]
    if not told and not _alike(before.get("examples"), now.get("examples")):
        told = ["examples"]
    return told if len(told) < 2 else [text for text in told if not text.startswith(LABELS["size"])] or told


def _edges(path: str) -> tuple[int, int]:
    """Hash of a file's first and last 64 kB, and its size in bytes."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            edges = file.read(2 * EDGE) if size <= 2 * EDGE else file.read(EDGE)
            if size > 2 * EDGE:
                file.seek(size - EDGE)
                edges += file.read(EDGE)
    except OSError:
        return -1, -1
    return _number(edges), size


def _number(content: bytes) -> int:
    """A hash in [-2^63, 2^63)."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little", signed=True)


def _moments(x: Tensor, y: Any) -> list[float]:
    values = x.double()
    return [float(values.mean()), float(values.std(correction=0)), -1.0 if y is None else float(y)]


def _alike(before: Tensor | None, now: Tensor | None) -> bool:
    """Whether examples are equal but for rounding; where one is not known they are taken to be."""
    if before is None or now is None or not len(before) or not len(now):
        return True
    return before.shape == now.shape and torch.allclose(before, now, rtol=CLOSE, atol=CLOSE, equal_nan=True)


def _files(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """How many files are new, gone or other ones, each with a name that is at hand."""
    if torch.equal(before["files"], now["files"]):
        return []
    old, new = ({row[0]: row[1:] for row in table["files"].tolist()} for table in (before, now))
    called = {_number(name.encode(errors="surrogateescape")): name for name in names}
    counted = {
        "added": [key for key in new if key not in old],
        "removed": [key for key in old if key not in new],
        "changed": [key for key in new if key in old and new[key] != old[key]],
    }
    told = []
    for word, keys in counted.items():
        if keys:
            example = min((called[key] for key in keys if key in called), default="")
            of = f" of {len(old):,}" if word != "added" else f" to {len(old):,}"
            files = "file" if len(keys) == 1 else "files"
            told.append(f"{len(keys):,} {files} {word}{of}" + (f", such as {example}" if example else ""))
    return told


def _text(key: str, value: Any) -> str:
    between = ", " if key == "lengths" else "x"
    return between.join(map(str, value)) if isinstance(value, list) else str(value)
