"""Greedy rules that choose points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

FeatureFunction = Callable[[Tensor], Tensor]


def farthest_first(points: Float[Tensor, "n size"], count: int) -> list[int]:
    """Choose points greedily: first the nearest to the mean, then always the farthest from those chosen.

    The largest distance of a point to its nearest chosen one is at most twice the smallest
    possible (Gonzalez 1985), whatever the first point.

    Parameters
    ----------
    points
        One row each.
    count
        How many, at most n.

    Returns
    -------
    list of int
        Rows, each once, in the order of their choice; of equals the first.

    Examples
    --------
    >>> farthest_first(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)
    [2, 3, 0]
    """
    chosen = [int(_distances(points, points.double().mean(dim=0)).argmin())]
    nearest = points.new_full((len(points),), torch.inf)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, _distances(points, points[chosen[-1]]))
        nearest[chosen[-1]] = -1.0  # below any distance: copies of a chosen point may follow, the point itself not
        chosen.append(int(nearest.argmax()))
    return chosen


def nearest_mean(points: Float[Tensor, "n size"], count: int) -> list[int]:
    """Choose points greedily: always the one that brings the chosen points' mean nearest to the mean of all.

    Parameters
    ----------
    points
        One row each.
    count
        How many, at most n.

    Returns
    -------
    list of int
        Rows, each once, in the order of their choice; of equals the first.

    Examples
    --------
    >>> nearest_mean(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2)
    [2, 1]
    """
    mean = points.double().mean(dim=0)
    total = torch.zeros_like(mean)
    free = points.new_zeros(len(points))
    chosen: list[int] = []
    while len(chosen) < count:
        # |mean - (total + x) / m| is smallest where x is nearest to m * mean - total.
        wanted = (len(chosen) + 1) * mean - total
        chosen.append(int((_distances(points, wanted) + free).argmin()))
        free[chosen[-1]] = torch.inf
        total += points[chosen[-1]]
    return chosen


def _distances(points: Tensor, centre: Tensor) -> Tensor:
    """Return every row's Euclidean distance to a centre: by differences, so that equal rows are equally far."""
    near = centre.to(points.dtype)[None]
    return torch.cdist(points, near, compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
