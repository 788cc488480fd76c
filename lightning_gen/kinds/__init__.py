"""Kinds of data: shapes, files, drawing and generation of examples. The only package that depends on a modality.

``spec.kind`` names a row of ``KINDS``, or is the import path of a ``Kind`` of your own. Everything else asks
``kind_of(spec)``: to add a kind is to add one file and one row.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from lightning_gen.datamodules.errors import unknown
from lightning_gen.datamodules.spec import KINDS as DECLARED
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import expect_class, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_gen.kinds.base import Kind

KINDS: dict[str, str] = {  # import paths, so that the table costs nothing until a kind is used
    "image": "lightning_gen.kinds.image.Image",
    "vector": "lightning_gen.kinds.vector.Vector",
}
WITHOUT_FILE = "lightning_gen.kinds.declared.Declared"  # of a declared kind that has no row yet


def kind_of(spec: DataSpec) -> Kind:
    """The kind of a spec's examples; of two sides, that of each.

    Raises:
        UserError: the name is neither declared nor an import path, or the path leads to no ``Kind``, or outside of what
            a checkpoint may import.
    """
    return _of_table(spec.kind) if "." not in spec.kind else _made(spec.kind)


def kinds_of_table() -> list[Kind]:
    """All that have a row."""
    return [_of_table(name) for name in KINDS]


def sheet(samples: Tensor, spec: DataSpec, columns: int | None = None, extent: float | None = None) -> Tensor:
    """Examples (N, *shape) as one picture, uint8 (3, H, W), see ``Kind.sheet``."""
    return kind_of(spec).sheet(samples, spec, columns, extent)


@cache
def _of_table(name: str) -> Kind:
    if name not in DECLARED:
        raise unknown("kind of data", name, [*DECLARED, "the import path of a class of your own, such as my_kind.Mine"])
    return _made(KINDS[name]) if name in KINDS else _made(WITHOUT_FILE, name)


def _made(path: str, *arguments: str) -> Kind:
    """An object of the class; a path is followed anew each time, because another checkpoint may trust less."""
    from lightning_gen.kinds.base import Kind

    cls: Any = resolve(path, {}, "kind of data")
    expect_class(cls, Kind, f"kind {path!r}")
    return cls(*arguments)
