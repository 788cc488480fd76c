"""Columns of vectors, before training: what is wrong with them, and the mean and scale that standardize them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from .errors import UserError
from .sources import Source
from .spec import DataSpec

CHUNK = 2**22  # numbers that are looked at together
SHOWN = 5  # columns that a line names
RATIO = 1000.0  # of the largest to the smallest scale of the columns, from which on a line says so
LARGE = 100.0  # values beyond it are far from those that networks are made for


class Columns(NamedTuple):
    """What is known of the columns (D,) of some examples.

    Args:
        mean: of each.
        scale: its standard deviation; 1 where it is constant.
        constant: the columns with a single value.
        largest: the largest absolute value of all.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    constant: tuple[int, ...]
    largest: float

    def standardized(self, spec: DataSpec) -> DataSpec:
        """A spec of which ``units.to_model`` subtracts the mean and divides by the scale."""
        return spec._replace(mean=self.mean, scale=self.scale)


def measure(source: Source, rows: Tensor, name: str = "this Dataset") -> Columns:
    """Look at the columns of examples.

    Sums are NumPy's, which do not depend on the number of threads as those of torch do: a run that is repeated or
    resumed has the same mean and scale to the last bit.

    Args:
        source: of vectors (D,).
        rows: (n,) positions of the examples.
        name: of the file, for an error.

    Raises:
        UserError: a value is not finite, or so large that its square is none.
    """
    dims = source.fetch(rows[:1])["x"].shape[1]
    count, mean, squares = 0, np.zeros(dims), np.zeros(dims)
    low, high = np.full(dims, np.inf), np.full(dims, -np.inf)
    for part in rows.split(max(1, CHUNK // dims)):
        batch = source.fetch(part)
        x = batch["x"].double().numpy()
        if not np.isfinite(x).all():
            raise not_finite(batch["x"], name, part)
        with np.errstate(over="ignore", invalid="ignore"):  # Chan et al. 1983: moments of parts, added
            own, share = x.mean(0), len(x) / (count + len(x))
            squares += ((x - own) ** 2).sum(0) + (own - mean) ** 2 * count * share
            mean += (own - mean) * share
        count += len(x)
        low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
    constant = low == high
    mean, scale = np.where(constant, low, mean), np.where(constant, 1.0, np.sqrt(squares / count))
    largest = float(np.maximum(np.abs(low), np.abs(high)).max())
    if not np.isfinite(scale).all() or not (scale > 0).all():
        column = int(np.argmin(np.isfinite(scale) & (scale > 0)))
        raise UserError(
            f"column {column} of {name} goes from {low[column]:g} to {high[column]:g}, whose variance is no number of "
            "float64: divide the column by a power of ten"
        )
    return Columns(tuple(mean.tolist()), tuple(scale.tolist()), tuple(np.flatnonzero(constant).tolist()), largest)


def not_finite(x: Tensor, name: str, rows: Tensor | None = None) -> UserError:
    """The error for examples x (n, *shape) with a NaN or an infinity, which names the first one's place.

    ``rows`` are the numbers of the examples, by default 0 to n - 1.
    """
    broken = ~x.flatten(1).isfinite()  # (n, numbers)
    affected = int(broken.any(1).sum())
    row = int(broken.any(1).nonzero()[0])
    place = np.unravel_index(int(broken[row].nonzero()[0]), tuple(x.shape[1:]))
    where = f"column {place[0]}" if len(place) == 1 else f"at ({', '.join(map(str, place))})"
    number = row if rows is None else int(rows[row])
    value = float(x[row][place])
    return UserError(
        f"{name}: row {number}, {where} is {value}; {affected} of {len(x)} examples hold values that are not finite: "
        "leave them out, or fill them in"
    )


def check_option(standardize: bool | None, spec: DataSpec) -> None:
    """Refuse to standardize what has no columns.

    Raises:
        UserError: they are no vectors.
    """
    if standardize and spec.kind != "vector":
        raise UserError(f"standardize is of the columns of vectors; these are {spec.kind}s: leave it out")


def notices(columns: Columns | None, spec: DataSpec) -> list[str]:
    """What is to be said about columns at the start of a run, a line each; ``spec`` says whether it standardizes."""
    if columns is None:
        return []
    scales = [scale for k, scale in enumerate(columns.scale) if k not in set(columns.constant)]
    least, most = min(scales, default=1.0), max(scales, default=1.0)
    lines = []
    if columns.constant:
        shown = ", ".join(map(str, columns.constant[:SHOWN])) + (", ..." if len(columns.constant) > SHOWN else "")
        lines.append(
            f"{len(columns.constant)} of {len(columns.scale)} columns have a single value in the training examples: "
            f"{shown}"
        )
    spread = f"standard deviations of the columns {least:.3g} to {most:.3g}"
    if spec.scale:
        lines.append(f"columns are standardized ({spread}); samples and likelihoods are in the units of the data")
    elif most / least > RATIO or columns.largest > LARGE:
        lines.append(
            f"{spread}, values up to {columns.largest:.3g}: networks are made for numbers near 1, try "
            "--data.standardize true"
        )
    return lines
