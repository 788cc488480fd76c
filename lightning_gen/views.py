"""The pictures that show what a model has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from lightning_gen.module import GenerativeModule
from lightning_gen.protocols import Encodes, RanksLatents, Reconstructs, Samples
from lightning_gen.render import bars, render

SAMPLES = 64
POINTS = 4096
EXAMPLES = 16
TRAVERSED = 10  # rows, the most active dimensions
STEPS = 11  # columns of traversals and interpolations
REACH = 3.0  # standard deviations to either side


def all_of(model: GenerativeModule, examples: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    """(name, picture uint8 (3, H, W)) of every view that the model's capabilities allow; examples (B, *shape)."""
    if isinstance(model, Samples):
        yield "samples", samples(model, seed)
    if isinstance(model, Reconstructs):
        yield "reconstructions", pairs(examples, model.reconstruct(examples), model.spec)
    if isinstance(model, Encodes) and model.spec.kind == "image":
        yield "traversals", traversals(model, examples[:1])
        if len(examples) > 1:
            yield "interpolations", interpolations(model, examples[0::2][:4], examples[1::2][:4])
    if isinstance(model, RanksLatents):
        yield "kl_per_dimension", bars(sorted(model.kl_per_dimension.tolist(), reverse=True))


def samples(model: Any, seed: int) -> Tensor:
    """A grid of new examples; of points so many that their density shows. The model ``Samples``."""
    count = POINTS if model.spec.kind == "vector" else SAMPLES
    return render(model.sample(count, seed=seed), model.spec)


def pairs(examples: Tensor, rebuilt: Tensor, spec: DataSpec, columns: int = 8) -> Tensor:
    """Rows of originals (B, *shape), each with the row of its reconstructions below; points side by side."""
    if spec.kind == "vector":
        extent = 1.1 * float(examples.abs().max())
        return torch.cat([render(part, spec, extent=extent) for part in (examples, rebuilt)], dim=2)
    columns = min(columns, len(examples))
    blank = torch.ones(-len(examples) % columns, *spec.shape)  # white tiles fill the last row
    rows = torch.stack([torch.cat([part.cpu(), blank]) for part in (examples, rebuilt)])  # (2, R * columns, *shape)
    return render(rows.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2), spec, columns=columns)


def traversals(model: Any, example: Tensor, rows: int = TRAVERSED) -> Tensor:
    """One row for each latent dimension, the most active first, from -3 to 3 standard deviations of the prior.

    The model ``Encodes``; example (1, *shape).
    """
    z = model.encode(example)  # (1, Z)
    kl = model.kl_per_dimension if isinstance(model, RanksLatents) else torch.zeros(z.shape[1])
    order = kl.argsort(descending=True, stable=True).tolist()[:rows]
    line = torch.linspace(-REACH, REACH, STEPS, device=z.device)
    codes = z.repeat(len(order) * STEPS, 1)
    for row, dimension in enumerate(order):
        codes[row * STEPS : (row + 1) * STEPS, dimension] = line
    return render(model.decode(codes), model.spec, columns=STEPS)


def interpolations(model: Any, first: Tensor, second: Tensor) -> Tensor:
    """A row for each pair: the first original, the decoded straight line between both codes, the second original."""
    count = min(len(first), len(second))
    a, b = model.encode(first[:count]), model.encode(second[:count])  # (P, Z)
    share = torch.linspace(0, 1, STEPS, device=a.device)[None, :, None]
    codes = a[:, None] * (1 - share) + b[:, None] * share  # (P, STEPS, Z)
    between = model.decode(codes.flatten(0, 1)).unflatten(0, (count, STEPS))
    rows = torch.cat([first[:count, None], between, second[:count, None]], dim=1)  # (P, STEPS + 2, *shape)
    return render(rows.flatten(0, 1), model.spec, columns=STEPS + 2)
