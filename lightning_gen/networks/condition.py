"""How a network is told something beside its input."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def call(network: Callable[..., Tensor], x: Tensor, c: Tensor | None) -> Tensor:
    """A network of x or z, told the condition where there is one."""
    return network(x) if c is None else network(x, c)
