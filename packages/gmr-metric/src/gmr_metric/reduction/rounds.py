"""Rounds of many merges between neighbours, for mixtures too large to consider all pairs."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gmr_metric.loops.columns import Columns
from gmr_metric.reduction.groups import Groups

_ROUND = 0.12  # largest share of the components that one round merges


class Cost(Protocol):
    """The cost of merging two components; it holds the components."""

    components: Columns
    own: np.ndarray

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the costs of merging components i with components j, pair by pair."""

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Replace components i by their merges with j, pair by pair."""

    def keep(self, kept: np.ndarray) -> None:
        """Drop all other components."""


def merge_neighbours(cost: Cost, n_components: int, neighbours: int, groups: Groups) -> np.ndarray:
    """Merge cheap pairs of neighbours in rounds of disjoint pairs; return the names of what is left.

    A round takes the pairs in the order of their costs, each component once, and at most an eighth of the
    components, so that pairs that become cheap by a merge are seen before much dearer ones are merged.
    """
    from scipy.spatial import cKDTree

    names = np.arange(len(cost.own))
    while len(names) > n_components:
        n = len(names)
        points = cost.components.means.T
        _, near = cKDTree(points).query(points, k=min(neighbours + 1, n))
        first, second = np.repeat(np.arange(n), near.shape[1]), near.ravel()
        couples = np.unique(np.sort(np.column_stack([first, second])[first != second], axis=1), axis=0)
        costs = cost.pairs(couples[:, 0], couples[:, 1])
        order = np.argsort(costs, kind="stable")
        most = min(n - n_components, max(1, int(_ROUND * n)))
        free, chosen = np.ones(n, dtype=bool), []
        for at, (i, j) in zip(order.tolist(), couples[order].tolist(), strict=True):
            if free[i] and free[j]:
                free[i] = free[j] = False
                chosen.append(at)
                groups.merge(names[i], names[j], costs[at])
                if len(chosen) == most:
                    break
        i, j = couples[chosen].T
        cost.merge(i, j)
        kept = np.setdiff1d(np.arange(n), j)
        cost.keep(kept)
        names = names[kept]
    return names
