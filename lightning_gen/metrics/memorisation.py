"""Whether generated samples are copies of training examples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.metrics.base import Extractor, FeatureSets, require_samples
from lightning_gen.metrics.neighbours import nearest

SOURCES = ("train", "held_out", "generated")


class Memorisation(FeatureSets):
    """Authenticity, Alaa et al. 2022, section 4.3, and a ratio of distances to the nearest training example.

    Authenticity is the share of generated samples that are farther from their nearest training example than this is
    from its own nearest other: 0 for copies. For fresh samples of the same distribution it grows with the dimension
    (0.33 on a line, 0.38 in a plane, near 0.5 in eight dimensions, 0.7 to 0.85 in 64), so compare it with that of real
    samples. The ratio is the mean distance to the nearest training example of generated over that of held-out samples:
    0 for copies, near 1 for fresh samples, above 1 for samples off the data.

    Args:
        extractor: from what ``update`` is given to features (B, d), used as it is: neither moved nor frozen nor saved;
            None takes features.
        keep_real: ``reset`` keeps the training and held-out features, for repeated evaluation.
        options: of ``torchmetrics.Metric``.

    Attributes:
        nearest_train: (N,) int64 after ``compute``, the nearest training example of each generated sample, both counted
            in the order of rank and update; else None.
    """

    def __init__(self, extractor: Extractor | None = None, keep_real: bool = False, **options: Any) -> None:
        super().__init__(SOURCES, extractor, SOURCES[:2] if keep_real else (), **options)
        self.nearest_train: Tensor | None = None

    def update(self, x: Tensor, source: str) -> None:
        """Add a batch.

        Args:
            x: what the extractor takes, or features (B, d).
            source: "train", "held_out" or "generated".

        Raises:
            UserError: for an unknown source, and for features that are not (B, d), not finite, or of another d than
                those before.
        """
        if source not in SOURCES:
            raise unknown("source", source, SOURCES)
        self.add(x, source)

    def compute(self) -> dict[str, Tensor]:
        """{"authenticity": () in [0, 1], "nn_ratio": () at least 0}.

        Raises:
            UserError: for fewer than 2 training examples, no held-out or no generated ones, and where all held-out
                examples are copies of training examples.
        """
        train, held_out, generated = (self.features(source) for source in SOURCES)
        require_samples(len(train), 2, "Memorisation: training examples")
        require_samples(len(held_out), 1, "Memorisation: held-out examples")
        require_samples(len(generated), 1, "Memorisation: generated samples")
        floor = nearest(held_out, train, 1)[0].mean()
        if floor == 0:
            raise UserError("Memorisation: every held-out example is a copy of a training example: hold out others")
        distances, indices = (found[:, 0] for found in nearest(generated, train, 1))
        hit, which = indices.unique(return_inverse=True)
        own = nearest(train[hit], train, 2)[0][:, 1]  # the nearest is itself, or an equal
        self.nearest_train = indices
        return {
            "authenticity": (distances > own[which]).double().mean(),
            "nn_ratio": distances.mean() / floor,
        }

    def reset(self) -> None:
        """Clear the nearest examples, and all rows but those that are kept."""
        super().reset()
        self.nearest_train = None
