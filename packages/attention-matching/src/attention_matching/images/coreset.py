"""Greedy rules that choose representative points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

FeatureFunction = Callable[[Tensor], Tensor]


def farthest_first(points: Float[Tensor, "n size"], count: int) -> list[int]:
    """Choose rows greedily: first the nearest to the mean, then always the farthest from those chosen.

    The largest distance of a point to its nearest chosen one is at most twice the smallest possible, for any first
    point (Gonzalez 1985). Each row is chosen at most once; ties go to the first.

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
    """Choose rows greedily: always the one that brings the mean of the chosen rows nearest to the mean of all.

    Each row is chosen at most once; ties go to the first.

    Examples
    --------
    >>> nearest_mean(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2)
    [2, 1]
    """
    mean = points.double().mean(dim=0)
    total = torch.zeros_like(mean)
    penalty = points.new_zeros(len(points))
    chosen: list[int] = []
    while len(chosen) < count:
        # |mean - (total + x) / m| is smallest where x is nearest to m * mean - total.
        target = (len(chosen) + 1) * mean - total
        chosen.append(int((_distances(points, target) + penalty).argmin()))
        penalty[chosen[-1]] = torch.inf
        total += points[chosen[-1]]
    return chosen


def _distances(points: Tensor, centre: Tensor) -> Tensor:
    """Return every row's Euclidean distance to a centre, by differences, so that equal rows are equally far."""
    return torch.cdist(points, centre.to(points.dtype)[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
