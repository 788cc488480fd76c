"""Base classes of metrics: states with a different number of rows per rank, and sets of features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gen.datamodules.errors import UserError

Extractor = Callable[[Tensor], Tensor]

# by place: a layout names a column's dtype by a number that all ranks understand
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def require_samples(count: int, needed: int, what: str, hint: str = "update it with more") -> None:
    """Refuse too few samples.

    Raises:
        UserError: that names how many are needed and how many there are.
    """
    if count < needed:
        raise UserError(f"{what}: needs at least {needed}, got {count}: {hint}")


def check_finite(rows: Tensor, what: str) -> None:
    """Refuse rows (N, d) that hold an infinity or NaN.

    Raises:
        UserError: that says how many rows do.
    """
    bad = int((~rows.isfinite().all(1)).sum())
    if bad:
        raise UserError(f"{what}: {bad} of {len(rows)} rows are not finite: has the model diverged?")


class UnevenRanksMetric(Metric):
    """A metric of which ranks may see different numbers of samples, in different numbers of batches, or none at all.

    It may keep rows, which live on its device; while ``compute`` runs they are the same on all ranks, those of rank 0
    first. Values are in float64. One batch has no value of its own, so calling the metric only updates it. Results are
    not cached: a rank without an update since would return its cache while the others wait for it.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"compute_with_cache": False, **options})
        self._dtypes: dict[str, torch.dtype] = {}

    def add_rows(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        """Declare a state: a list of tensors (n, d) of one width and dtype, attribute ``name``."""
        self.add_state(name, default=[], dist_reduce_fx=None)
        self._dtypes[name] = dtype

    def rows(self, name: str) -> Tensor:
        """All rows (N, d) of a state in its own dtype, after whatever casts of a parent module; (0, 0) for none."""
        parts = [part.to(self._dtypes[name]) for part in getattr(self, name) if len(part)]
        if not parts:
            return torch.empty(0, 0, dtype=self._dtypes[name], device=self.device)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def sync(self, *args: Any, **options: Any) -> None:
        """Gather the rows of all ranks: each rank brings exactly one tensor, else the ranks would wait for ever."""
        for name in self._dtypes:
            setattr(self, name, [self.rows(name)])
        super().sync(*args, **options)

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **options: Any) -> Iterator[None]:
        """As in torchmetrics, but the rank's own rows come back after an error too."""
        self.sync(*args, **options)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def forward(self, *args: Any, **columns: Any) -> None:
        """Update."""
        self.update(*args, **columns)


class GatherColumns(UnevenRanksMetric):
    """Gathers named columns: all rows of all ranks, those of rank 0 first, bit for bit.

    Example:
        >>> rows = Rows("mean", "label")
        >>> rows.update(mean=torch.zeros(2, 3), label=torch.tensor([4, 5]))
        >>> rows.compute()["label"]
        tensor([4, 5])

    Args:
        names: of the columns.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, *names: str, **options: Any) -> None:
        super().__init__(**options)
        self.names = names
        for name in names:
            self.add_rows(f"bytes_{name}", torch.uint8)
            self.add_rows(f"layout_{name}", torch.int64)  # (1, 1 + ndim): dtype and shape of a row

    def update(self, **columns: Tensor) -> None:
        """Add the rows of a batch.

        Args:
            columns: name -> (B, ...), one for each name of the constructor.

        Raises:
            UserError: for missing, unknown or uneven columns, and for a dtype or shape other than before.
        """
        sizes = {name: len(column) for name, column in columns.items()}
        if set(columns) != set(self.names) or len(set(sizes.values())) > 1:
            raise UserError(f"Rows: needs columns {', '.join(self.names)} of one length, got {sizes}")
        for name, column in columns.items():
            self._add(name, column.detach().to(self.device))

    def _add(self, name: str, column: Tensor) -> None:
        layout = torch.tensor([[DTYPES.index(column.dtype), *column.shape[1:]]], device=self.device)
        before = self.rows(f"layout_{name}")
        if not len(before):
            getattr(self, f"layout_{name}").append(layout)
        elif before.tolist() != layout.tolist():
            dtype, *shape = before[0].tolist()
            raise UserError(
                f"Rows: column {name!r} of rows {tuple(column.shape[1:])} {column.dtype}, "
                f"but before it had {tuple(shape)} {DTYPES[dtype]}"
            )
        flat = column.clone().contiguous().reshape(len(column), math.prod(column.shape[1:]))
        getattr(self, f"bytes_{name}").append(flat.view(torch.uint8))  # (B, bytes of a row)

    def _wrap_compute(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        """As of torchmetrics, which would make a number of the column of a single row."""
        wrapped = super()._wrap_compute(lambda: SimpleNamespace(columns=compute()))
        return lambda: wrapped().columns

    def compute(self) -> dict[str, Tensor]:
        """The columns (N, ...), in their dtypes.

        Raises:
            UserError: if no rank has been updated.
        """
        return {name: self._column(name) for name in self.names}

    def _column(self, name: str) -> Tensor:
        layouts, data = self.rows(f"layout_{name}"), self.rows(f"bytes_{name}")
        require_samples(len(layouts), 1, "Rows: updates")
        dtype, *shape = layouts[0].tolist()
        return data.contiguous().view(DTYPES[dtype]).reshape(len(data), *shape)  # (N, ...)


class FeatureSets(UnevenRanksMetric):
    """Sets of features (N, d) in float64, each under the name of its source.

    Args:
        sources: names of the sets.
        extractor: from what ``add`` is given to features (B, d), used as it is: neither moved nor frozen nor saved, and
            no submodule even if it is an ``nn.Module``; None takes features.
        kept: the sources that ``reset`` keeps.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(
        self, sources: Sequence[str], extractor: Extractor | None = None, kept: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(**options)
        self.sources, self.kept = tuple(sources), tuple(kept)
        self.__dict__["extractor"] = extractor  # past nn.Module, which would register it
        for source in sources:
            self.add_rows(f"{source}_features")

    def add(self, x: Tensor, source: str) -> None:
        """Add a batch to a set.

        Args:
            x: what the extractor takes, or features (B, d).
            source: name of the set.

        Raises:
            UserError: for features that are not (B, d), not finite, or of another d than those before.
        """
        name = type(self).__name__
        extractor = self.__dict__["extractor"]
        features = x if extractor is None else extractor(x)
        if features.ndim != 2:
            origin = "features" if extractor is None else "the extractor's features"
            raise UserError(f"{name}: {origin} must be (N, d), got {tuple(features.shape)}: flatten or pool them")
        self._check_width(features, source)
        features = features.detach().to(self.device, torch.float64, copy=True)  # the caller may reuse its memory
        check_finite(features, f"{name}: {source} features")
        if len(features):
            state = f"{source}_features"
            setattr(self, state, self._store(getattr(self, state), features))

    def _check_width(self, features: Tensor, source: str) -> None:
        states = {other: getattr(self, f"{other}_features") for other in self.sources}
        widths = {other: rows.shape[1] for other, state in states.items() for rows in state if len(rows)}
        for other, width in widths.items():
            if width != features.shape[1]:
                raise UserError(
                    f"{type(self).__name__}: {source} features {tuple(features.shape)}, but {other} features "
                    f"(N, {width}): take both from one extractor"
                )

    def features(self, source: str) -> Tensor:
        """All features (N, d) of a source, or what the metric keeps of them."""
        return self.rows(f"{source}_features")

    def _store(self, state: list[Tensor], features: Tensor) -> list[Tensor]:
        """The state of a source after one more batch: all rows, where a metric has no smaller summary of them."""
        return [*state, features]

    def reset(self) -> None:
        """Clear all rows but those of the kept sources."""
        kept = {state: list(getattr(self, state)) for state in (f"{source}_features" for source in self.kept)}
        super().reset()
        for state, rows in kept.items():
            setattr(self, state, rows)


class FeatureMetric(FeatureSets):
    """A metric of generated against real features, in float64.

    Args:
        extractor: from images, or whatever ``update`` is given, to features (B, d), used as it is: neither moved nor
            frozen nor saved; None takes features.
        keep_real: ``reset`` keeps the real features, for repeated evaluation against one reference.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, extractor: Extractor | None = None, keep_real: bool = False, **options: Any) -> None:
        super().__init__(("real", "generated"), extractor, ("real",) if keep_real else (), **options)

    def update(self, x: Tensor, *, real: bool) -> None:
        """Add a batch.

        Args:
            x: what the extractor takes, or features (B, d).
            real: whether the batch is of the reference.

        Raises:
            UserError: for features that are not (B, d), not finite, or of another d than those before.
        """
        self.add(x, "real" if real else "generated")

    def real_and_generated(self, needed: int, hint: str = "update it with more") -> tuple[Tensor, Tensor]:
        """The real (N, d) and generated (M, d) features, at least ``needed`` of each.

        Raises:
            UserError: for fewer.
        """
        real, generated = self.features("real"), self.features("generated")
        require_samples(len(real), needed, f"{type(self).__name__}: real samples", hint)
        require_samples(len(generated), needed, f"{type(self).__name__}: generated samples", hint)
        return real, generated
