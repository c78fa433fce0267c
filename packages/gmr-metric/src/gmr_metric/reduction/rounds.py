"""Rounds of many merges between neighbours, for mixtures too large to consider all pairs.

The candidates are the edges of a graph of nearest neighbours. A merge contracts an edge, so its component keeps the
neighbours of both, and only their costs are computed again. The nearest neighbours are searched again whenever the
number of components has fallen by half. Not specified in the papers.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from gmr_metric.loops.columns import Columns
from gmr_metric.reduction.groups import Groups

_ROUND = 0.12  # largest share of the components that one round merges
_REFRESH = 0.5  # share of the components at which the neighbours are searched again
_CANDIDATES = 4  # cheapest edges per merge of a round that are tried first


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


class _Edges(NamedTuple):
    """Pairs of neighbours i < j, with their costs; arrays of shape (E,)."""

    i: np.ndarray
    j: np.ndarray
    costs: np.ndarray


def merge_neighbours(cost: Cost, n_components: int, neighbours: int, groups: Groups) -> np.ndarray:
    """Merge cheap pairs of neighbours in rounds of disjoint pairs; return the names of what is left.

    A round takes the pairs in the order of their costs, each component once, and at most an eighth of the
    components, so that pairs that become cheap by a merge are seen before much dearer ones are merged.
    """
    from scipy.spatial import cKDTree

    # Neighbours lie near each other in memory: twice as fast. Since SciPy 1.18 the tree's own array is read-only.
    names: np.ndarray = cKDTree(cost.components.means.T).indices.copy()
    cost.keep(names)
    searched, edges = 0, _Edges(*np.empty((3, 0), dtype=np.intp))
    while (n := len(names)) > n_components:
        if not len(edges.i) or n <= _REFRESH * searched:
            searched, edges = n, _searched(cost, edges, neighbours)
        chosen = _disjoint(edges, n, min(n - n_components, max(1, int(_ROUND * n))))
        i, j = edges.i[chosen], edges.j[chosen]
        lower, upper = np.minimum(names[i], names[j]), np.maximum(names[i], names[j])
        groups.merge(lower, upper, edges.costs[chosen])
        names[i] = lower
        cost.merge(i, j)
        kept = np.ones(n, dtype=bool)
        kept[j] = False
        cost.keep(np.flatnonzero(kept))
        edges, names = _contracted(cost, edges, i, j, kept), names[kept]
    order = np.argsort(names)
    cost.keep(order)
    return names[order]


def _searched(cost: Cost, edges: _Edges, neighbours: int) -> _Edges:
    """Add the pairs of each component with its nearest ones by the distance of their means."""
    from scipy.spatial import cKDTree

    n = len(cost.own)
    points = np.ascontiguousarray(cost.components.means.T)
    near = cKDTree(points).query(points, k=min(neighbours + 1, n), workers=-1)[1]
    keys = _keys(np.repeat(np.arange(n), near.shape[1]), near.ravel(), n)
    new = np.setdiff1d(keys, edges.i * n + edges.j, assume_unique=True)
    return _added(cost, edges, new)


def _contracted(cost: Cost, edges: _Edges, i: np.ndarray, j: np.ndarray, kept: np.ndarray) -> _Edges:
    """Return the edges between what is left after components i merged with j, with costs that are up to date."""
    place = np.cumsum(kept) - 1
    place[j] = place[i]
    changed = ~kept
    changed[i] = True
    touched = changed[edges.i] | changed[edges.j]
    first, second = place[edges.i], place[edges.j]
    same = _Edges(first[~touched], second[~touched], edges.costs[~touched])
    return _added(cost, same, _keys(first[touched], second[touched], len(cost.own)))


def _keys(i: np.ndarray, j: np.ndarray, n: int) -> np.ndarray:
    """Return i * n + j of the different pairs i < j, ascending."""
    keys = np.minimum(i, j) * n + np.maximum(i, j)
    keys = keys[i != j]
    keys.sort()
    different: np.ndarray = keys[np.diff(keys, prepend=-1) > 0]
    return different


def _added(cost: Cost, edges: _Edges, keys: np.ndarray) -> _Edges:
    """Add the pairs with these keys and their costs."""
    i, j = np.divmod(keys, len(cost.own))
    new = _Edges(i, j, cost.pairs(i, j))
    return _Edges(*(np.concatenate(both) for both in zip(edges, new, strict=True)))


def _disjoint(edges: _Edges, n: int, most: int) -> np.ndarray:
    """Return at most this many disjoint edges, cheap ones first, as if they were taken one after the other.

    If the cheapest few edges yield less than half of them, as around a component of almost no weight, all are tried.
    """
    tried = _CANDIDATES * most
    if tried < len(edges.i):
        near = np.flatnonzero(edges.costs <= np.partition(edges.costs, tried)[tried])
        chosen: np.ndarray = near[_matching(edges.i[near], edges.j[near], edges.costs[near], n)][:most]
        if 2 * len(chosen) >= most:
            return chosen
    return _matching(*edges, n)[:most]


def _matching(i: np.ndarray, j: np.ndarray, costs: np.ndarray, n: int) -> np.ndarray:
    """Take the edges in the order of their costs, unless an end is taken already; return their indices.

    Every component points to its cheapest edge. An edge to which both its ends point is taken, and all edges at these
    ends are left out, until no edge is left.
    """
    order = np.argsort(costs, kind="stable")
    i, j, rank = i[order], j[order], np.arange(len(order))
    cheapest, taken = np.empty(n, dtype=np.intp), [rank[:0]]
    while len(rank):
        cheapest[i] = cheapest[j] = len(order)
        np.minimum.at(cheapest, i, rank)
        np.minimum.at(cheapest, j, rank)
        mutual = (cheapest[i] == rank) & (cheapest[j] == rank)
        taken.append(rank[mutual])
        free = np.ones(n, dtype=bool)
        free[i[mutual]] = free[j[mutual]] = False
        left = free[i] & free[j]
        i, j, rank = i[left], j[left], rank[left]
    chosen: np.ndarray = order[np.sort(np.concatenate(taken))]
    return chosen
