"""The pictures that show what a model has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from lightning_gen.module import GenerativeModule
from lightning_gen.protocols import DrawsCodes, Encodes, RanksLatents, Reconstructs, Samples, SamplesClasses
from lightning_gen.render import bars, render

SAMPLES = 64
POINTS = 4096
EXAMPLES = 16
TRAVERSED = 10  # rows, the most active dimensions
STEPS = 11  # columns of traversals and interpolations
REACH = 3.0  # standard deviations to either side
PER_CLASS = 8  # samples
CLASSES = 20  # at most shown beside each other


def all_of(
    model: GenerativeModule, examples: Tensor, seed: int, y: Tensor | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(name, picture uint8 (3, H, W)) of every view that the model's capabilities allow.

    Examples (B, *shape) and, where known, their classes (B,).
    """
    if isinstance(model, Samples):
        yield "samples", samples(model, seed)
    if isinstance(model, Reconstructs):
        yield "reconstructions", pairs(examples, model.reconstruct(examples, y), model.spec)
    if isinstance(model, Encodes) and model.spec.kind == "image":
        yield "traversals", traversals(model, examples[:1], None if y is None else y[:1])
        if len(examples) > 1:
            first = None if y is None else y[0::2][:4]
            yield "interpolations", interpolations(model, examples[0::2][:4], examples[1::2][:4], first)
        if y is not None and classes_of(model):
            yield "class_swaps", class_swaps(model, examples[:PER_CLASS], y[:PER_CLASS])
    if isinstance(model, RanksLatents):
        yield "kl_per_dimension", bars(sorted(model.kl_per_dimension.tolist(), reverse=True))


def samples(model: Any, seed: int) -> Tensor:
    """A grid of new examples, a column for each class where there are any; of points so many that their density shows.

    The model ``Samples``.
    """
    columns = classes_of(model)
    if model.spec.kind == "vector" or not columns:
        return render(model.sample(POINTS if model.spec.kind == "vector" else SAMPLES, seed=seed), model.spec)
    y = torch.arange(columns * PER_CLASS, device=model.device) % columns
    return render(model.sample(len(y), y=y, seed=seed), model.spec, columns=columns)


def classes_of(model: Any) -> int:
    """Number of classes that are shown, 0 for a model that knows none."""
    return min(CLASSES, model.classes) if isinstance(model, SamplesClasses) else 0


def pairs(examples: Tensor, rebuilt: Tensor, spec: DataSpec, columns: int = 8) -> Tensor:
    """Rows of originals (B, *shape), each with the row of its reconstructions below; points side by side."""
    if spec.kind == "vector":
        extent = 1.1 * float(examples.abs().max())
        return torch.cat([render(part, spec, extent=extent) for part in (examples, rebuilt)], dim=2)
    columns = min(columns, len(examples))
    blank = torch.ones(-len(examples) % columns, *spec.shape)  # white tiles fill the last row
    rows = torch.stack([torch.cat([part.cpu(), blank]) for part in (examples, rebuilt)])  # (2, R * columns, *shape)
    return render(rows.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2), spec, columns=columns)


def traversals(model: Any, example: Tensor, y: Tensor | None = None, rows: int = TRAVERSED) -> Tensor:
    """One row for each latent dimension, the most active first, from -3 to 3 standard deviations of drawn codes.

    The model ``Encodes``; example (1, *shape), its class (1,).
    """
    z = model.encode(example, y)  # (1, Z)
    kl = model.kl_per_dimension if isinstance(model, RanksLatents) else z.new_zeros(0)
    kl = kl if len(kl) == z.shape[1] else z.new_zeros(z.shape[1])  # of several layers it is one number for each
    order = kl.argsort(descending=True, stable=True).tolist()[:rows]
    line = torch.linspace(-REACH, REACH, STEPS, device=z.device)
    centre, spread = _place(model, z)
    codes = z.repeat(len(order) * STEPS, 1)
    for row, dimension in enumerate(order):
        codes[row * STEPS : (row + 1) * STEPS, dimension] = centre[dimension] + spread[dimension] * line
    return render(model.decode(codes, _repeated(y, len(codes))), model.spec, columns=STEPS)


def _place(model: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (Z,) of codes that the model draws, 0 and 1 where it does not say."""
    if not isinstance(model, DrawsCodes):
        return torch.zeros_like(z[0]), torch.ones_like(z[0])
    noise = torch.randn(POINTS, model.draw_dim, generator=torch.Generator().manual_seed(0))
    drawn = model.draw(noise.to(z.device))
    return drawn.mean(0), drawn.std(0)


def interpolations(model: Any, first: Tensor, second: Tensor, y: Tensor | None = None) -> Tensor:
    """A row for each pair: the first original, the decoded straight line between both codes, the second original.

    The model ``Encodes``; pairs (P, *shape); a conditional model decodes all of a row in the first's class, y (P,).
    """
    count = min(len(first), len(second))
    y = None if y is None else y[:count]
    a, b = model.encode(first[:count], y), model.encode(second[:count], y)  # (P, Z)
    share = torch.linspace(0, 1, STEPS, device=a.device)[None, :, None]
    codes = a[:, None] * (1 - share) + b[:, None] * share  # (P, STEPS, Z)
    between = model.decode(codes.flatten(0, 1), _repeated(y, count * STEPS)).unflatten(0, (count, STEPS))
    rows = torch.cat([first[:count, None], between, second[:count, None]], dim=1)  # (P, STEPS + 2, *shape)
    return render(rows.flatten(0, 1), model.spec, columns=STEPS + 2)


def class_swaps(model: Any, examples: Tensor, y: Tensor) -> Tensor:
    """A row for each example: the original, then its code decoded in every class, which keeps the style of writing.

    The model ``Encodes`` and has classes; examples (B, *shape) of classes y (B,).
    """
    columns = classes_of(model)
    codes = model.encode(examples, y).repeat_interleave(columns, 0)
    swapped = model.decode(codes, torch.arange(columns, device=codes.device).repeat(len(examples)))
    rows = torch.cat([examples.unsqueeze(1), swapped.unflatten(0, (len(examples), columns))], 1)
    return render(rows.flatten(0, 1), model.spec, columns=columns + 1)


def _repeated(y: Tensor | None, count: int) -> Tensor | None:
    """Classes (P,) -> (count,), each one count / P times in a row."""
    return None if y is None else y.repeat_interleave(count // len(y))
