"""Examples of any kind from and to files, whether a file holds one or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of


def read_all(paths: Sequence[Path], spec: DataSpec) -> Tensor:
    """The examples (N, *shape) of all files, in order.

    Raises:
        UserError: one cannot be read.
    """
    kind = kind_of(spec)
    parts = [kind.read(path, spec) for path in paths]
    return torch.cat(parts) if kind.many else torch.stack(parts)


def write_all(
    x: Tensor,
    folder: Path,
    whole: str,
    names: Sequence[str],
    spec: DataSpec,
    provenance: Sequence[Mapping[str, object]],
) -> None:
    """Examples (N, *shape), on the CPU, to files in a folder.

    Args:
        x: the examples.
        folder: is made where it is missing.
        whole: name of the one file, where a file holds many.
        names: of the N files, where each holds one.
        spec: of the data.
        provenance: of each example; that of the first stands for the one file.
    """
    kind = kind_of(spec)
    suffix = kind.suffix(spec)
    folder.mkdir(parents=True, exist_ok=True)
    if kind.many:
        kind.write(x, folder / f"{whole}{suffix}", spec, provenance[0])
        return
    for example, name, source in zip(x, names, provenance, strict=True):
        kind.write(example, folder / f"{name}{suffix}", spec, source)
