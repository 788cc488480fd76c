"""Views of a model: samples, reconstructions, traversals, interpolations, densities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.drawing import plane
from lightning_gen.drawing.captions import with_row_labels
from lightning_gen.drawing.render import GROUND, bars, grid, to_uint8
from lightning_gen.kinds import kind_of, sheet
from lightning_gen.networks.condition import condition_of, conditions_in_turn
from lightning_gen.protocols import (
    Decodes,
    Discriminates,
    Encodes,
    HasInfoGANCodes,
    HasLatentKL,
    HasLossByTime,
    Inverts,
    Reconstructs,
    Samples,
    SamplesClasses,
    SamplesLatents,
    Translates,
)
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.noise import indexed_noise

SAMPLES = 64
POINTS = 4096
EXAMPLES = 16
TRAVERSED = 10  # rows, the most active dimensions
STEPS = 11  # columns of traversals and interpolations
REACH = 3.0  # standard deviations to either side
PER_CLASS = 8  # samples
CLASSES = 20  # at most shown beside each other
LINES = 8  # rows of drawn codes
CODE_REACH = 2.0  # continuous codes, of which training sees [-1, 1]: Chen et al. 2016, figure 2
GAP = 8  # pixels between blocks
DOTS = 2000  # samples over the density of the data
FIELD = 96  # places in a row at which the discriminator is evaluated
REFERENCES = 512  # examples whose nearest one gives the class of a place
Log = Callable[[str, Tensor], None]
ANIMATED_VIEWS = ("density",)  # views that make an animation


def draw_all(
    model: GenerativeModule, examples: Mapping[str, Tensor], seed: int, log: Log = lambda name, x: None
) -> Iterator[tuple[str, Tensor]]:
    """(name, picture uint8 (3, H, W)) of every view that the model's capabilities allow.

    Args:
        model: in eval mode.
        examples: columns of validation batches: x (B, *shape) and, where known, y (B,); or a and b.
        seed: of the samples.
        log: called with the name and the examples (N, *shape) of samples and of reconstructions.
    """
    if isinstance(model, Translates):
        yield from translations(model, examples["a"], examples["b"])
        return
    x, y, kind = examples["x"], condition_of(examples), kind_of(model.spec)
    if isinstance(model, Samples):
        made, columns = new_examples(model, seed, y)
        log("samples", made)
        if kind.draws:
            yield "samples", sheet(made, model.spec, columns=columns)
    if isinstance(model, Reconstructs):
        rebuilt = model.reconstruct(x, y)
        log("reconstructions", rebuilt)
        if kind.draws:
            yield "reconstructions", original_and_reconstruction(x, rebuilt, model.spec)
    if kind.draws and kind.tiled:
        yield from _of_codes(model, x, seed, y)
    if isinstance(model, Discriminates) and isinstance(model, Samples) and kind.in_plane(model.spec):
        yield "density", density(model, x, seed, y)
    if isinstance(model, HasLatentKL):
        yield "kl_per_dimension", _labelled_bars(sorted(model.kl_per_dimension.tolist(), reverse=True))
    if isinstance(model, HasLossByTime):
        yield "loss_by_time", _labelled_bars(model.loss_by_time.tolist())


def _labelled_bars(values: Sequence[float]) -> Tensor:
    """Values >= 0 as bars, the largest beside them: a picture's description cannot change during a run."""
    return with_row_labels(bars(values), [f"{max(values):.3g}", "", "", "", "0"])


def _of_codes(model: GenerativeModule, examples: Tensor, seed: int, y: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """Interpolations between codes, and traversals of each dimension."""
    if isinstance(model, Encodes):
        yield "traversals", traversals(model, examples[:1], None if y is None else y[:1])
        if len(examples) > 1:
            first = None if y is None else y[0::2][:4]
            yield "interpolations", interpolations(model, examples[0::2][:4], examples[1::2][:4], first)
        if y is not None and classes_of(model):
            yield "class_swaps", class_swaps(model, examples[:PER_CLASS], y[:PER_CLASS])
    elif isinstance(model, Inverts) and len(examples) > 1:
        yield (
            "interpolations",
            interpolations(model, examples[0::2][:4], examples[1::2][:4], None if y is None else y[0::2][:4]),
        )
    elif isinstance(model, Decodes):
        yield "interpolations", drawn_interpolations(model, seed, _rows_of(model, texts=y))
    if isinstance(model, HasInfoGANCodes) and model.codes:
        yield "code_traversals", code_traversals(model, seed, _rows_of(model, texts=y))


def samples(model: Any, seed: int, y: Tensor | None = None) -> Tensor:
    """A grid of new examples, a column for each class where there are any; of points so many that their density shows.

    The model ``Samples``; of texts it takes those of examples, y (B, L), in turn.
    """
    made, columns = new_examples(model, seed, y)
    return sheet(made, model.spec, columns=columns)


def new_examples(model: Any, seed: int, y: Tensor | None = None) -> tuple[Tensor, int | None]:
    """As many examples (N, *shape) as a sheet shows, and its columns where each is a class."""
    columns, tiled = classes_of(model), kind_of(model.spec).tiled
    if not tiled or not columns:
        return _sampled(model, count_of(SAMPLES, model.spec), seed, y), None
    y = torch.arange(columns * PER_CLASS, device=model.device) % columns
    return model.sample(len(y), y=y, seed=seed), columns


def count_of(n: int, spec: DataSpec) -> int:
    """n examples, each with its place on a sheet; or so many that their density shows."""
    return n if kind_of(spec).tiled else max(n, POINTS)


def classes_of(model: Any) -> int:
    """Number of classes that are shown, 0 for an unconditional model."""
    return min(CLASSES, model.classes) if isinstance(model, SamplesClasses) else 0


def _sampled(model: Any, n: int, seed: int, texts: Tensor | None) -> Tensor:
    """n samples (n, *shape), of a model that takes texts with those of examples (B, L)."""
    y = conditions_in_turn(model, torch.arange(n, device=model.device), texts)
    return model.sample(n, seed=seed) if y is None else model.sample(n, y=y, seed=seed)


def original_and_reconstruction(examples: Tensor, rebuilt: Tensor, spec: DataSpec, columns: int = 8) -> Tensor:
    """Rows of originals (B, *shape), each with the row of its reconstructions below; points side by side."""
    kind = kind_of(spec)
    if not kind.tiled:
        extent = 1.1 * float(examples.abs().max())
        return torch.cat([sheet(part, spec, extent=extent) for part in (examples, rebuilt)], dim=2)
    columns = min(columns, len(examples))
    blank = kind.blank(-len(examples) % columns, spec)  # to fill the last row
    rows = torch.stack([torch.cat([part.cpu(), blank]) for part in (examples, rebuilt)])  # (2, R * columns, *shape)
    return sheet(rows.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2), spec, columns=columns)


def traversals(model: Any, example: Tensor, y: Tensor | None = None, rows: int = TRAVERSED) -> Tensor:
    """One row for each latent dimension, the most active first, from -3 to 3 standard deviations of drawn codes.

    Each is labelled with its number and its range. The model ``Encodes``; example (1, *shape), its class (1,).
    """
    z = model.encode(example, y)  # (1, Z)
    kl = model.kl_per_dimension if isinstance(model, HasLatentKL) else z.new_zeros(0)
    kl = kl if len(kl) == z.shape[1] else z.new_zeros(z.shape[1])  # of several layers it is one number for each
    order = kl.argsort(descending=True, stable=True).tolist()[:rows]
    line = torch.linspace(-REACH, REACH, STEPS, device=z.device)
    centre, spread = _place(model, z)
    codes = z.repeat(len(order) * STEPS, 1)
    for row, dimension in enumerate(order):
        codes[row * STEPS : (row + 1) * STEPS, dimension] = centre[dimension] + spread[dimension] * line
    picture = sheet(model.decode(codes, _repeated(y, len(codes))), model.spec, columns=STEPS)
    ends = [(float(centre[d] - REACH * spread[d]), float(centre[d] + REACH * spread[d])) for d in order]
    return with_row_labels(
        picture, [f"{d}: {low:.1f} to {high:.1f}" for d, (low, high) in zip(order, ends, strict=True)]
    )


def _place(model: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (Z,) of codes that the model draws, 0 and 1 where it does not say."""
    if not isinstance(model, SamplesLatents):
        return torch.zeros_like(z[0]), torch.ones_like(z[0])
    noise = torch.randn(POINTS, model.draw_dim, generator=torch.Generator().manual_seed(0))
    drawn = model.draw(noise.to(z.device))
    return drawn.mean(0), drawn.std(0)


def interpolations(model: Any, first: Tensor, second: Tensor, y: Tensor | None = None) -> Tensor:
    """A row for each pair: the first original, the decoded straight line between both codes, the second original.

    The model ``Encodes``, or ``Inverts``: between noises the line is an arc. Pairs (P, *shape); a conditional model
    decodes all of a row in the first's class, y (P,).
    """
    count = min(len(first), len(second))
    y = None if y is None else y[:count]
    encode = model.invert if isinstance(model, Inverts) else model.encode
    a, b = encode(first[:count], y), encode(second[:count], y)  # (P, Z)
    share = torch.linspace(0, 1, STEPS, device=a.device)[None, :, None]
    straight = a[:, None] * (1 - share) + b[:, None] * share
    codes = spherical(a, b, STEPS) if isinstance(model, Inverts) else straight  # (P, STEPS, Z)
    between = model.decode(codes.flatten(0, 1), _repeated(y, count * STEPS)).unflatten(0, (count, STEPS))
    rows = torch.cat([first[:count, None], between, second[:count, None]], dim=1)  # (P, STEPS + 2, *shape)
    return sheet(rows.flatten(0, 1), model.spec, columns=STEPS + 2)


def drawn_interpolations(model: Any, seed: int, y: Tensor | None = None) -> Tensor:
    """A row for each pair of drawn codes: decoded interpolations between them.

    Gaussian codes lie near a sphere, and a straight line would leave it (White 2016, https://arxiv.org/abs/1609.04468).
    A row keeps what its first code says in ``codes``, and its class.

    Args:
        model: ``Decodes``.
        seed: of the codes.
        y: (R,) the rows' classes, of a model that takes them; by default all in turn, in at least 8 rows.
    """
    y = _rows_of(model) if y is None else y.to(model.device)
    rows = range(LINES if y is None else len(y))
    ends = indexed_noise(rows, (2, model.draw_dim), seed, "interpolations")  # (R, 2, D)
    first, second = (model.draw(end.to(model.device)) for end in ends.unbind(1))  # (R, Z)
    latents = model.codes.start if isinstance(model, HasInfoGANCodes) and model.codes else first.shape[1]
    z = first[:, None].repeat(1, STEPS, 1)  # (R, STEPS, Z)
    z[..., :latents] = spherical(first[:, :latents], second[:, :latents], STEPS)
    return sheet(model.decode(z.flatten(0, 1), _repeated(y, len(z) * STEPS)), model.spec, columns=STEPS)


def spherical(first: Tensor, second: Tensor, steps: int) -> Tensor:
    """Vectors (R, Z) and (R, Z) -> (R, steps, Z) on the arc between them, both ends included.

        sin((1 - t) w) / sin w * first + sin(t w) / sin w * second,        w the angle between both     (White 2016)

    The line is straight where they are parallel, or opposite, which leaves the arc open.
    """
    share = torch.linspace(0, 1, steps, device=first.device)[None, :, None]
    angle = F.cosine_similarity(first, second, dim=1).clamp(-1, 1).acos()[:, None, None]
    parallel = angle.sin() < 1e-3  # below it float32 does not resolve the angle
    sine = angle.sin().masked_fill(parallel, 1.0)
    a = torch.where(parallel, 1 - share, ((1 - share) * angle).sin() / sine)  # (R, steps, 1)
    b = torch.where(parallel, share, (share * angle).sin() / sine)
    return a * first[:, None] + b * second[:, None]


def code_traversals(model: Any, seed: int, y: Tensor | None = None) -> Tensor:
    """Traversals of InfoGAN's codes: a block of pictures for each category, then a row for each continuous code.

    The columns of a category's block are its values, and the rows are other draws, which differ in all else. In the row
    of a continuous code it goes from -2 to 2, and all else is that of the first row above, as in figure 2 of Chen et
    al. 2016, https://arxiv.org/abs/1606.03657.

    Args:
        model: ``HasInfoGANCodes``, and has some.
        seed: of the draws.
        y: (R,) the rows' classes, of a model that takes them; by default all in turn, in at least 8 rows.
    """
    codes = model.codes
    y = _rows_of(model) if y is None else y.to(model.device)
    noise = indexed_noise(range(LINES if y is None else len(y)), (model.draw_dim,), seed, "traversals")
    drawn = model.draw(noise.to(model.device))  # (R, Z)
    blocks, column = [], codes.start
    for size in codes.categorical:
        shown = min(size, CLASSES)
        z = drawn.repeat_interleave(shown, 0)  # (R * shown, Z)
        z[:, column : column + size] = torch.eye(size, device=z.device)[:shown].repeat(len(drawn), 1)
        blocks.append(sheet(model.decode(z, _repeated(y, len(z))), model.spec, columns=shown))
        column += size
    if codes.continuous:
        z = drawn[:1].repeat(codes.continuous * STEPS, 1)
        for row, line in enumerate(z.split(STEPS)):  # views of z
            line[:, column + row] = torch.linspace(-CODE_REACH, CODE_REACH, STEPS, device=z.device)
        first = None if y is None else y[:1]
        blocks.append(sheet(model.decode(z, _repeated(first, len(z))), model.spec, columns=STEPS))
    return stack_vertically(blocks)


def _rows_of(model: Any, texts: Tensor | None = None) -> Tensor | None:
    """Conditions of at least 8 rows: all classes that are shown, or the texts of examples (B, L); or None."""
    return conditions_in_turn(model, torch.arange(max(LINES, classes_of(model)), device=model.device), texts)


def stack_vertically(blocks: Sequence[Tensor]) -> Tensor:
    """Pictures uint8 (3, H, W) below each other, white where one is narrower or ends."""
    width = max(block.shape[2] for block in blocks)
    padded = [F.pad(block, (0, width - block.shape[2], 0, GAP), value=GROUND) for block in blocks]
    return torch.cat(padded, dim=1)[:, :-GAP]


def density(model: Any, examples: Tensor, seed: int, y: Tensor | None = None) -> Tensor:
    """Samples over the density of the data and the discriminator's logits, see ``plane.draw_decision_field``.

    Equal examples are seen through an equal window, so that the pictures of a run make an animation.

    Args:
        model: ``Discriminates`` and ``Samples``, of points in the plane.
        examples: (B, 2) of the data.
        seed: of the samples.
        y: (B,) their classes: a conditional discriminator scores a place in the class of the example nearest to it.
    """
    real = examples.detach().float().cpu()
    where = plane.window(real)
    places = plane.raster(where, FIELD)  # (FIELD^2, 2)
    nearest = None
    if y is not None and conditions_in_turn(model, torch.zeros(1, dtype=torch.int64), y) is not None:
        nearest = y[torch.cdist(places, real[:REFERENCES]).argmin(1).to(y.device)].to(model.device)
    try:
        field = model.discriminate(places.to(model.device), nearest).float().cpu().view(FIELD, FIELD)
    except UserError:  # it scores no single example
        field = None
    return plane.draw_decision_field(real, _sampled(model, DOTS, seed, y).float().cpu(), field, where)


def translations(model: Any, a: Tensor, b: Tensor) -> Iterator[tuple[str, Tensor]]:
    """For each direction rows of sources, their translations, what comes back, and the truth, as far as there are any.

    The model ``Translates``; a (B, *shape), b (B, *shape_b), which belong together where the spec says so.
    """
    sides, known = {"a": a[:LINES], "b": b[:LINES]}, model.spec.pairs != "none"
    for direction in model.directions:
        source, _, target = direction.partition("2")
        made = model.translate(sides[source], direction)
        rows = [sides[source], made]
        if (back := f"{target}2{source}") in model.directions:
            rows.append(model.translate(made, back))
        yield direction, image_rows(*rows, *([sides[target]] if known else []))
    if model.spec.shape == model.spec.shape_b:
        same = [(side, model.translate(sides[side], d)) for d in model.directions for side in [d.partition("2")[2]]]
        yield "identity", image_rows(*(rows for side, made in same for rows in (sides[side], made)))


def image_rows(*rows: Tensor) -> Tensor:
    """Pictures (N, C, H, W) in [-1, 1], a row for each argument, grey ones among coloured ones -> uint8 (3, H, W)."""
    coloured = [row.cpu().expand(-1, 3, -1, -1) if row.shape[1] == 1 else row.cpu() for row in rows]
    return grid(to_uint8(torch.cat(coloured)), columns=len(rows[0]))


def image_row_blocks(*rows: Tensor) -> Tensor:
    """Pictures (N, 1 or 3, H, W) in [-1, 1]: those of the first row, below each the ones of the others, in some lines.

    Returns:
        one picture, uint8 (3, H', W').
    """
    columns = min(LINES, len(rows[0]))
    blank = -len(rows[0]) % columns  # white tiles fill the last line
    full = [F.pad(row.cpu(), (0, 0, 0, 0, 0, 0, 0, blank), value=1.0).split(columns) for row in rows]
    return torch.cat([image_rows(*line) for line in zip(*full, strict=True)], dim=1)


def class_swaps(model: Any, examples: Tensor, y: Tensor) -> Tensor:
    """A row for each example: the original, then its code decoded in every class, which keeps the style of writing.

    The model ``Encodes`` and has classes; examples (B, *shape) of classes y (B,).
    """
    columns = classes_of(model)
    codes = model.encode(examples, y).repeat_interleave(columns, 0)
    swapped = model.decode(codes, torch.arange(columns, device=codes.device).repeat(len(examples)))
    rows = torch.cat([examples.unsqueeze(1), swapped.unflatten(0, (len(examples), columns))], 1)
    return sheet(rows.flatten(0, 1), model.spec, columns=columns + 1)


def _repeated(y: Tensor | None, count: int) -> Tensor | None:
    """Conditions (P, ...) -> (count, ...), each one count / P times in a row."""
    return None if y is None else y.repeat_interleave(count // len(y), 0)
