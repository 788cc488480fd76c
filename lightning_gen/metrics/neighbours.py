"""Exact nearest neighbours and balls in float64, in bounded memory.

Matrix products find the candidates, with a bound on their rounding; differences decide. So a copy is at distance 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2**22  # distances at a time: 32 MiB
SPARE = 4  # candidates beyond k
TIE = 1e-12  # relative: squared distances that differ by less are equal, whatever the order of their sums


def nearest(queries: Tensor, points: Tensor, k: int, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest points of each query, nearest first.

    Args:
        queries: (N, d) float64.
        points: (M, d) float64.
        k: at most M, or M - 1 with ``exclude_self``.
        exclude_self: leave out point i for query i, where queries and points are the same rows.

    Returns:
        distances (N, k) and indices (N, k) into the points.
    """
    available = len(points) - exclude_self
    assert 1 <= k <= available, f"{k} neighbours of {available} points"
    near, to, slack = _centred(queries, points)
    heights = (1 - slack) * to.square().sum(1)  # (M,)
    count = min(k + SPARE, available)
    distances = queries.new_empty(len(queries), k)  # at once: small blocks kept between large ones fragment the heap
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for part in _chunks(len(queries), max(len(points), count * points.shape[1])):
        low = torch.addmm(heights, near[part], to.T, alpha=-2)  # (n, M): squared distances, from below
        if exclude_self:
            low[range(len(low)), range(part.start, part.stop)] = torch.inf
        bounds, candidates = low.topk(count, largest=False)  # (n, C)
        squared, order = _squared(queries[part, None], points[candidates]).sort(1)
        found = candidates.gather(1, order)
        last = bounds[:, -1] + (1 - slack) * near[part].square().sum(1)  # no other point is nearer
        unsure = (squared[:, k - 1] > last.clamp(min=0)).nonzero()[:, 0] if count < available else ()
        if len(unsure):
            own = part.start + unsure if exclude_self else None
            found[unsure, :k] = _by_differences(queries[part][unsure], points, k, own)
            squared[unsure, :k] = _squared(queries[part][unsure, None], points[found[unsure, :k]])
        distances[part], indices[part] = squared[:, :k].sqrt(), found[:, :k]
    return distances, indices


def count_inside(queries: Tensor, points: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Which queries lie in the closed balls round the points; ties of distance and radius are inside.

    Args:
        queries: (N, d) float64.
        points: (M, d) float64 centres.
        radii: (M,) float64.

    Returns:
        (N,) the number of balls that hold each query, and (M,) the number of queries in each ball.
    """
    near, to, slack = _centred(queries, points)
    query_squares, point_squares, radius_squares = near.square().sum(1), to.square().sum(1), radii.square()
    holding = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    held = torch.zeros(len(points), dtype=torch.int64, device=queries.device)
    slack += TIE
    surely = (1 + slack) * point_squares - (1 - slack) * radius_squares  # (M,)
    hardly = (1 - slack) * point_squares - (1 + slack) * radius_squares  # (M,)
    for part in _chunks(len(queries), len(points)):
        products = 2 * near[part] @ to.T  # (n, M)
        squares = query_squares[part, None]  # (n, 1)
        inside = products >= (1 + slack) * squares + surely
        border = (products >= (1 - slack) * squares + hardly) & ~inside
        rows, columns = border.nonzero(as_tuple=True)
        for some in _chunks(len(rows), points.shape[1]):
            i, j = rows[some], columns[some]
            inside[i, j] = _squared(queries[part][i], points[j]) <= (1 + TIE) * radius_squares[j]
        holding[part] = inside.sum(1)
        held += inside.sum(0)
    return holding, held


def _centred(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor, float]:
    """Both round the points' mean, and a bound c: |computed - true| <= c (|q|^2 + |p|^2) for squared distances."""
    shift = points.mean(0)
    return queries - shift, points - shift, (2 * points.shape[1] + 16) * torch.finfo(points.dtype).eps


def _chunks(n: int, width: int) -> Iterator[slice]:
    size = max(1, CHUNK // width)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


def _by_differences(queries: Tensor, points: Tensor, k: int, own: Tensor | None) -> Tensor:
    """Indices (N, k) of the nearest, without matrix products: for points closer together than these resolve."""
    distances = torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist")
    if own is not None:
        distances[range(len(queries)), own] = torch.inf
    return distances.topk(k, largest=False).indices
