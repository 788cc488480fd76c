"""DataSpec: all that a model needs to know about its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import UserError

FORMAT = 1
KINDS = ("image", "audio", "video", "text", "vector", "pair")
PAIRS = ("none", "held_out", "all")
VALUES = ("binary", "unit", "uint8", "real", "tokens")


class DataSpec(NamedTuple):
    """What one example looks like, as plain values that a checkpoint can hold.

    Args:
        shape: shape of one example: (C, H, W) image, (C, T) audio, (C, T, H, W) video, (L,) tokens, (D,) vector.
        kind: one of ``KINDS``.
        values: range of the values before they are scaled for the network: "binary" {0, 1}, "unit" [0, 1], "uint8"
            {0..255} (all three reach the model as floats in [-1, 1]), "real" (as they are), "tokens" (integers).
        size: number of training examples.
        num_classes: number of classes, 0 where there are no labels.
        vocab: number of different tokens.
        factors: number of values of each known factor of variation.
        shape_b: shape of the second domain of a translation.
        rate: samples per second (audio).
        pairs: where the two sides of an example belong together, of kind "pair": nowhere ("none"), in validation and
            test ("held_out": their truth is known, but training does not see it), everywhere ("all").
        condition: what comes with each example to condition on: "none", "class" or "text".
    """

    shape: tuple[int, ...]
    kind: str = "image"
    values: str = "uint8"
    size: int = 0
    num_classes: int = 0
    vocab: int = 0
    factors: tuple[int, ...] = ()
    shape_b: tuple[int, ...] = ()
    rate: int = 0
    condition: str = "none"
    pairs: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, with the format's number."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in self._asdict().items()}
        return {"format": FORMAT, **plain}

    @classmethod
    def of(cls, spec: DataSpec | Mapping[str, Any]) -> DataSpec:
        """The spec itself, or the one that ``to_dict`` wrote."""
        if isinstance(spec, DataSpec):
            return spec
        fields = dict(spec)
        written = fields.pop("format", FORMAT)
        if written != FORMAT:
            raise UserError(f"data spec of format {written}: this version reads format {FORMAT}")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**plain)
