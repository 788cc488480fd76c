"""The pictures of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_gen.drawing.captions import captioned
from lightning_gen.evaluation.evaluation_run import TRAIN_ROWS, EvaluationRun, fixed_permutation
from lightning_gen.evaluation.quality import gather_rows
from lightning_gen.evaluation.translation import DirectionModel
from lightning_gen.kinds import kind_of, sheet
from lightning_gen.metrics.neighbours import nearest
from lightning_gen.pictures import views
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE

SHOWN, PER_CLASS, TRANSLATED = 64, 10, 24
NEIGHBOURS = 24  # samples that are shown with their nearest training image


def draw_all(s: EvaluationRun) -> Iterator[tuple[str, Tensor]]:
    """(name, picture uint8 (3, H, W) with its caption) of each picture that this model and these data allow."""
    for name, picture, text in _pictures(s):
        yield name, captioned(picture, text)


def _pictures(s: EvaluationRun) -> Iterator[tuple[str, Tensor, str]]:
    """Name, picture and caption."""
    spec, kind = s.model.spec, kind_of(s.model.spec)
    if not kind.draws:
        return
    if not kind.tiled:
        rows = range(min(views.POINTS, s.n))
        both = views.original_and_reconstruction(_real(s, s.split, rows), _samples(s, rows), spec)
        yield "density", both, f"left: {s.split} examples; right: samples"
        return
    own = _samples(s, range(min(SHOWN, s.n)))
    if isinstance(s.model, DirectionModel):
        truth = "" if s.model.data.spec.pairs == "none" else "; the truth"
        yield "translations", translations(s.model, s.n), f"in turn rows of: test pictures; their translations{truth}"
    else:
        yield "samples", sheet(own, spec), ""
    near = neighbours(s, own[:NEIGHBOURS])
    yield "neighbours", near, "in turn a row of samples, and below it the row of their nearest training examples"
    if not isinstance(s.extractor, str) and (picture := per_class(s)) is not None:
        yield (
            "classes",
            picture,
            "a row for each class: of samples asked for it, or found to be of it by the classifier",
        )


def _samples(s: EvaluationRun, rows: range) -> Tensor:
    """Samples (n, *shape) as they are compared, images in [-1, 1] rounded to 256 levels."""
    return kind_of(s.model.spec).restored(s.samples(rows).x, s.model.spec)


def _real(s: EvaluationRun, split: str, rows: range) -> Tensor:
    """Real examples (n, *shape) likewise."""
    return kind_of(s.model.spec).restored(s.real(split, rows).x, s.model.spec)


def translations(route: DirectionModel, n: int) -> Tensor:
    """Rows of test pictures, each with the row of their translations below, and below that of the truth where known."""
    shown, (source, target) = min(TRANSLATED, n), route.source_and_target
    if route.data.spec.pairs == "none":
        x = route.source_images(range(shown))
        return views.image_row_blocks(x, route.translate(x))
    batch = route.data.examples("test", fixed_permutation(route.data.size("test"))[:shown])
    x = batch[source].to(route.device)
    return views.image_row_blocks(x, route.translate(x), batch[target])


def neighbours(s: EvaluationRun, own: Tensor) -> Tensor:
    """Rows of samples, each with the row of their nearest training examples below: by features, else by values."""
    spec = s.model.spec
    if isinstance(s.extractor, str):
        found = _nearest_values(s, own)
    else:
        features = s.extractor(own.to(s.float64_device)).cpu()
        train = s.extract_features("train")
        rows = nearest(features, gather_rows(train.features), 1)[1][:, 0]
        found = gather_rows(train.positions)[rows]
    near = torch.cat([s.examples_at("train", position[None]).x for position in found])
    return views.original_and_reconstruction(own, kind_of(spec).restored(near, spec), spec)


def _nearest_values(s: EvaluationRun, own: Tensor) -> Tensor:
    """Positions (n,) of the nearest training examples by their values, of images the pixels."""
    spec = s.model.spec
    least, found = torch.full((len(own),), math.inf, dtype=torch.float64), torch.zeros(len(own), dtype=torch.int64)
    n = min(s.unbinarized_data.size("train"), TRAIN_ROWS)
    for start in range(0, n, EVAL_BATCH_SIZE):
        images = s.real("train", range(start, min(start + EVAL_BATCH_SIZE, n)))
        if not len(images.x):
            continue
        x = kind_of(spec).restored(images.x, spec).flatten(1).double()
        distances, rows = (column[:, 0] for column in nearest(own.flatten(1).double(), x, 1))
        found = torch.where(distances < least, images.positions[rows], found)
        least = torch.minimum(least, distances)
    return found


def per_class(s: EvaluationRun) -> Tensor | None:
    """A row for each class: of samples conditioned on it, or else of those that the classifier assigns to it."""
    described = s.extract_features("generated")
    if described.log_probs is None:
        return None
    label = gather_rows(described.log_probs.argmax(1) if described.y is None else described.y)
    tiles = []
    for name in range(described.log_probs.shape[1] if described.y is None else s.classes):
        rows = (label == name).nonzero().squeeze(1).tolist()[:PER_CLASS]
        shown = [_samples(s, range(row, row + 1)) for row in rows]
        tiles += [*shown, kind_of(s.model.spec).blank(PER_CLASS - len(shown), s.model.spec)]
    return sheet(torch.cat(tiles), s.model.spec, columns=PER_CLASS)
