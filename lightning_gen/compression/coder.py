"""Base class of the coders: symbols to words, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lightning_gen.datamodules.errors import UserError

Settings = dict[str, int]  # settings that decoding needs besides the words, as plain numbers


def decoding_error(reason: str) -> UserError:
    """The error for words that do not decode."""
    return UserError(
        f"the file does not decode: {reason}. Networks give the same bits only on the same kind of processor, with the "
        "same version of torch"
    )


class Coder(ABC):
    """Turns symbols into words under a model, and back.

    Blocks of examples pass the networks together, in both directions the same ones: one by one their outputs differ by
    1e-5, and what was coded would be lost.
    """

    name: ClassVar[str]  # in the file's header
    lossless: ClassVar[bool]
    default_block: ClassVar[int]  # examples in one pass, at most
    model: Any

    @abstractmethod
    def to_symbols(self, x: Tensor, block: int) -> Tensor:
        """x (n, *shape) in the range of the data -> what is coded of it, whole numbers (n, ...).

        Raises:
            UserError: x cannot be coded.
        """

    @abstractmethod
    def from_symbols(self, symbols: Tensor, block: int) -> Tensor:
        """Symbols of ``to_symbols`` -> x (n, *shape)."""

    @abstractmethod
    def encode(self, symbols: Tensor, block: int) -> tuple[np.ndarray, Settings]:
        """Symbols (n, ...) -> words uint32, and settings for ``decode``."""

    @abstractmethod
    def decode(self, words: np.ndarray, count: int, block: int, settings: Settings) -> Tensor:
        """The symbols of ``count`` examples.

        Raises:
            UserError: the words are not those of an encoder with this model and block.
        """

    @abstractmethod
    def ideal_bits(self, symbols: Tensor, block: int) -> float:
        """Ideal code length in bits of these symbols together under the model."""
