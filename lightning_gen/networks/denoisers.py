"""Networks of flows by name: they see a noisy example and its time, and give something of the shape of the example.

``denoiser(x, t, c=None) -> (B, *shape)``, unbounded; t (B,) in [0, 1], 0 noise and 1 data. A conditional one is built
with ``condition=``, a ``ConditionSpec`` in which one class more than the data have stands for "no class".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import check_arguments, resolve
from lightning_gen.networks.condition import Condition, ConditionSpec
from lightning_gen.networks.denoising_unet import UNetDenoiser
from lightning_gen.networks.dit import DiT
from lightning_gen.networks.layers import check_positive
from lightning_gen.networks.time_embedding import TimeEmbedding


class MLPDenoiser(nn.Module):
    """Residual layers for vectors: h <- h + W silu(V [norm(h), time and condition]).

    Args:
        spec: what one example looks like.
        width: of h.
        depth: number of residual layers.
        fourier: random directions of which sine and cosine are seen beside x, for sharp densities in few dimensions
            (Tancik et al. 2020, https://arxiv.org/abs/2006.10739); 0 for none.
        frequency: standard deviation of these directions, in radians for a unit of x.
        condition: what the network is conditioned on; None for nothing.
    """

    directions: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        width: int = 256,
        depth: int = 3,
        fourier: int = 0,
        frequency: float = 1.5,
        condition: ConditionSpec | None = None,
    ) -> None:
        super().__init__()
        check_positive("width", width)
        check_positive("depth", depth)
        if fourier < 0:
            raise UserError(f"fourier {fourier}: a number of directions, or 0")
        dims, self.shape = math.prod(spec.shape), spec.shape
        self.condition = Condition(condition)
        self.time = TimeEmbedding()
        told = self.time.dim + self.condition.dim
        self.register_buffer("directions", frequency * torch.randn(dims, fourier))
        self.first = nn.Linear(dims + 2 * fourier + told, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(width + told, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, dims)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        told, flat = self.condition.concat(self.time(t), c), x.flatten(1)
        phases = flat @ self.directions
        h = self.first(torch.cat([flat, phases.sin(), phases.cos(), told], 1))
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=True):
            h = h + outer(F.silu(inner(torch.cat([norm(h), told], 1))))
        return self.head(h).unflatten(1, self.shape)


DENOISERS: dict[str, Callable[..., nn.Module]] = {"mlp": MLPDenoiser, "unet": UNetDenoiser, "dit": DiT}


def denoiser(name: Any, spec: DataSpec, **options: Any) -> nn.Module:
    """A denoiser, (x (B, *shape), t (B,)) -> (B, *shape).

    Args:
        name: a name of ``DENOISERS``, "auto" (mlp for vectors, else unet), an import path of a class, or the class.
        spec: what one example looks like.
        options: of the network, such as ``width``.

    Raises:
        UserError: an unknown name or option, or data that the network does not take.
    """
    name = ("mlp" if len(spec.shape) == 1 else "unet") if name == "auto" else name
    builder = resolve(name, DENOISERS, "network")
    if not callable(builder):
        raise UserError(f"network {name!r} is no class: it needs (spec, **options) -> a module of (x, t, c=None)")
    check_arguments(builder, options, f"network {name!r}", skip=1)
    return builder(spec, **options)
