"""Examples of any kind from and to files, whether a file holds one or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.example_files import ExampleFile
from lightning_gen.datamodules.pages import quiet_pillow
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.exits import Incomplete
from lightning_gen.kinds import kind_of


class SkippedFiles:
    """Counts the files of examples that cannot be read, and ends a command accordingly.

    Args:
        strict: the first one ends the command.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.reasons: list[str] = []

    def add(self, reason: str) -> None:
        """Leave a file out.

        Args:
            reason: what is wrong with which file.

        Raises:
            UserError: of ``strict``.
        """
        if self.strict:
            raise UserError(f"{reason} (without --strict it would be left out)")
        self.reasons.append(reason)

    def check_any_read(self, total: int) -> None:
        """Refuse to go on where all of ``total`` files were left out.

        Raises:
            UserError: with the reason of the first.
        """
        if total and len(self.reasons) == total:
            many = f"none of {total:,} files can be taken, the first: " if total > 1 else ""
            raise UserError(f"{many}{self.reasons[0]}")

    def finish(self, total: int) -> None:
        """End a command that has done all else.

        Raises:
            Incomplete: of ``total`` files some were left out.
        """
        if self.reasons:
            first = "the first: " if len(self.reasons) > 1 else ""
            raise Incomplete(f"skipped {len(self.reasons):,} of {total:,} files; {first}{self.reasons[0]}")


def read_files(files: Sequence[ExampleFile], spec: DataSpec, skipped: SkippedFiles) -> tuple[list[ExampleFile], Tensor]:
    """The files that can be read, and their examples (N, *shape) in order.

    Raises:
        UserError: none can be read, or one cannot and ``skipped`` is strict.
    """
    kind, kept, parts = kind_of(spec), [], []
    for file in files:
        try:
            with quiet_pillow():
                parts.append(kind.read(file.path, spec))
        except UserError as error:
            skipped.add(str(error))
        else:
            kept.append(file)
    skipped.check_any_read(len(files))
    return kept, torch.cat(parts) if kind.many else torch.stack(parts)


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
        names: of the N files, where each holds one; with the folders below this one that they lie in.
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
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind.write(example, path, spec, source)
