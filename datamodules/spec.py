"""DataSpec: all that a model needs to know about its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import UserError

FORMAT = 2
KINDS = ("image", "vector", "audio", "video", "text", "points", "table")
PAIRS = ("none", "held_out", "all")
VALUES = ("binary", "unit", "uint8", "real", "tokens")


class DataSpec(NamedTuple):
    """What one example looks like, as plain values that a checkpoint can hold.

    Args:
        shape: shape of one example: (C, H, W) image, (C, T) audio, (C, T, H, W) video, (L,) tokens, (D,) vector.
        kind: what an example is, one of ``KINDS`` or the import path of a ``Kind``; of two sides, what each one is.
        values: range of the values before they are scaled for the network: "binary" {0, 1}, "unit" [0, 1] or ``range``,
            "uint8" {0..255} (all three reach the model as floats in [-1, 1]), "real" (as they are, or standardized by
            ``mean`` and ``scale``), "tokens" (integers).
        size: number of training examples.
        num_classes: number of classes, 0 where there are no labels.
        vocab: the tokens as strings, id k at position k; empty where the values are no tokens.
        factors: number of values of each known factor of variation.
        shape_b: shape of the second side of a translation; empty where an example has one side.
        rate: samples or frames per second (audio, video).
        condition: what comes with each example to condition on: "none", "class" or "text".
        pairs: where the two sides of an example belong together: nowhere ("none"), in validation and test
            ("held_out": their truth is known, but training does not see it), everywhere ("all").
        joiner: what stands between two tokens when they are written as text: "" for characters, " " for words.
        condition_shape: (L,) the tokens of a "text" condition.
        condition_vocab: its tokens as strings.
        condition_joiner: what stands between them.
        class_names: name of each class, at the position of its id; empty where they have none but their number.
        range: (low, high) of "unit" values as stored, in the user's units; empty: (0, 1).
        mean: of each column of "real" vectors, in the user's units, which is subtracted; empty: nothing.
        scale: of each column, by which it is divided after that; empty: nothing.
        bits: of a value with a ``range`` in the user's files: 8 to 16 for whole numbers, 32 for floats; 0: no such.
        levels: the stored values that occur in "uint8" data, ascending, where they are fewer than 256; empty: all.
    """

    shape: tuple[int, ...]
    kind: str = "image"
    values: str = "uint8"
    size: int = 0
    num_classes: int = 0
    vocab: tuple[str, ...] = ()
    factors: tuple[int, ...] = ()
    shape_b: tuple[int, ...] = ()
    rate: float = 0.0
    condition: str = "none"
    pairs: str = "none"
    joiner: str = ""
    condition_shape: tuple[int, ...] = ()
    condition_vocab: tuple[str, ...] = ()
    condition_joiner: str = " "
    class_names: tuple[str, ...] = ()
    range: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    bits: int = 0
    levels: tuple[int, ...] = ()

    @property
    def has_two_sides(self) -> bool:
        """Whether an example is a pair of sides, ``a`` and ``b``."""
        return bool(self.shape_b)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, with the format's number."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in self._asdict().items()}
        return {"format": FORMAT, **plain}

    @classmethod
    def of(cls, spec: DataSpec | Mapping[str, Any]) -> DataSpec:
        """The spec itself, or the one that ``to_dict`` wrote, also in an earlier format.

        Raises:
            UserError: it was written by a later version.
        """
        if isinstance(spec, DataSpec):
            return spec
        fields = dict(spec)
        written = fields.pop("format", FORMAT)
        if written == 1:
            fields = _from_format_1(fields)
        elif written != FORMAT:
            raise UserError(f"data spec of format {written}: this version reads formats 1 and {FORMAT}")
        if foreign := [name for name in fields if name not in cls._fields]:
            raise UserError(f"data spec with the unknown entry {foreign[0]!r}: was it written by a later version?")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**plain)


def _from_format_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Format 1 named two sides a kind of their own, and counted tokens without their strings."""
    if fields.get("kind") == "pair":
        fields["kind"] = "image"
    fields["vocab"] = tuple(map(str, range(fields.get("vocab", 0))))
    return fields
