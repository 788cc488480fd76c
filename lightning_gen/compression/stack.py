"""A stack coder (asymmetric numeral systems), with initial random bits, generated on demand and counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_gen.compression.coder import decoding_error
from lightning_gen.datamodules.errors import UserError

SEED = 20190115  # of the initial bits: a part of the format
MARGIN = 96  # bits: constriction's coder is only reversible while more than its head of 64 bits is full
START = 8  # initial words at the start


def import_constriction() -> Any:
    """The package constriction, which does the arithmetic.

    Raises:
        UserError: it is not installed.
    """
    try:
        import constriction  # here: an optional extra
    except ImportError as error:
        raise UserError(
            "compression needs the package constriction: pip install constriction, or pip install -e .[compress]"
        ) from error
    return constriction


def initial_words(count: int) -> np.ndarray:
    """The first ``count`` words of a fixed random stream, uint32, with the first one on top (at the end)."""
    words = np.random.PCG64(SEED).random_raw(count) & 0xFFFFFFFF  # a bit generator's stream is fixed in NumPy
    return words.astype(np.uint32)[::-1]


class AnsStack:
    """Symbols are pushed and popped under models of constriction; popping what was not pushed draws random symbols.

    constriction silently returns symbols, and loses information, where a stack is empty. So ``reserve`` puts more
    initial words at the bottom before that happens; these are a part of the compressed words.

    Args:
        words: those of another stack's ``words``; None for an empty one.

    Raises:
        UserError: no stack gave these words.
    """

    def __init__(self, words: np.ndarray | None = None) -> None:
        self._new = import_constriction().stream.stack.AnsCoder
        self.num_initial_words = START if words is None else 0  # initial words so far
        try:
            self._coder = self._new(initial_words(START) if words is None else words)
        except ValueError as error:
            raise decoding_error(str(error).splitlines()[0]) from error

    def reserve(self, bits: int) -> None:
        """Make sure that so many bits can be popped."""
        missing = bits + MARGIN - self._coder.num_valid_bits()
        if missing > 0:
            more = -(-missing // 32)
            below = initial_words(self.num_initial_words + more)[:more]
            self._coder = self._new(np.concatenate([below, self._coder.get_compressed()]))
            self.num_initial_words += more

    def push(self, symbols: np.ndarray, family: Any, *parameters: np.ndarray) -> None:
        """Put int32 symbols (n,) on top, each under the model of its parameters (n,) or (n, K); the first is on top."""
        self._coder.encode_reverse(symbols, family, *parameters)

    def pop(self, family: Any, *parameters: np.ndarray) -> np.ndarray:
        """Take int32 symbols (n,) off the top: those of the last ``push`` with these parameters.

        Raises:
            UserError: there are none: an encoder makes sure of more than is popped.
        """
        if not self._coder.num_valid_bits():
            raise decoding_error("its words end before its examples do")
        return self._coder.decode(family, *parameters)

    def words(self) -> np.ndarray:
        """All that is in it, uint32."""
        return self._coder.get_compressed()

    def holds_initial_bits_only(self) -> bool:
        """Whether only initial bits are left, as after popping all that was pushed."""
        words = self.words()
        return np.array_equal(words, initial_words(len(words)))
