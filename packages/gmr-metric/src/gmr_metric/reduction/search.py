"""The greedy search for the cheapest pair, in NumPy."""

from __future__ import annotations

import math

import numpy as np

from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.pair_costs import PairCost

_TABLE = 4096  # components up to which all costs are kept; beyond, rows are computed again where they are needed
_FULL = 0.75  # share of living components below which the others are dropped


class Search:
    """Each component's cheapest later partner and the cost, or a lower bound of it if the row is stale.

    Ties go to the pair with the lowest indices. A merge computes one row of costs; a row whose cheapest partner has
    changed is only read again when its bound is the lowest of all.
    """

    def __init__(self, cost: PairCost, names: np.ndarray, groups: Groups) -> None:
        n = len(names)
        self._cost, self._names, self._groups = cost, names, groups
        self._best, self._bound = np.zeros(n, dtype=np.intp), np.full(n, math.inf)
        self._stale, self._alive = np.zeros(n, dtype=bool), np.ones(n, dtype=bool)
        self._table = np.full((n, n), math.inf) if n <= _TABLE else None
        if self._table is not None:
            first, second = np.triu_indices(n, 1)
            self._table[first, second] = cost.pairs(first, second)
        for i in range(n):
            self._choose(i)

    def merge_until(self, n_components: int) -> None:
        """Merge the cheapest of all pairs, one after the other."""
        left = len(self._names)
        while left > n_components:
            i = int(self._bound.argmin())
            if self._stale[i]:
                self._choose(i)
                continue
            self._merge(i, int(self._best[i]))
            left -= 1
            if left < _FULL * len(self._names):
                self._compact()

    def _choose(self, i: int) -> None:
        """Note the cheapest later partner of component i."""
        self._stale[i], self._bound[i] = False, math.inf
        if self._table is not None:
            k = int(self._table[i].argmin())
            self._best[i], self._bound[i] = k, self._table[i, k]
            return
        later = i + 1 + np.flatnonzero(self._alive[i + 1 :])
        if len(later):
            costs = self._cost.pairs(np.array([i]), later)
            k = int(costs.argmin())
            self._best[i], self._bound[i] = later[k], costs[k]

    def _merge(self, i: int, j: int) -> None:
        self._groups.merge(self._names[i], self._names[j], self._bound[i])
        self._cost.merge(np.array([i]), np.array([j]))
        self._stale |= (self._best == i) | (self._best == j)
        self._alive[j], self._bound[j], self._stale[j] = False, math.inf, False
        others = np.flatnonzero(self._alive)
        at = int(np.searchsorted(others, i))
        if self._table is None:
            others = others[:at]
        costs = self._cost.pairs(np.minimum(others, i), np.maximum(others, i))
        above, row = others[:at], costs[:at]
        if self._table is not None:
            self._table[j], self._table[:, j] = math.inf, math.inf
            self._table[above, i], self._table[i, others[at + 1 :]] = row, costs[at + 1 :]
        bound = self._bound[above]
        closer = (row < bound) | ((row == bound) & (self._best[above] > i))
        above = above[closer]
        self._best[above], self._bound[above], self._stale[above] = i, row[closer], False
        self._choose(i)

    def _compact(self) -> None:
        kept, place = np.flatnonzero(self._alive), np.cumsum(self._alive) - 1
        self._cost.keep(kept)
        self._names, self._best = self._names[kept], place[self._best[kept]]
        self._bound, self._stale, self._alive = self._bound[kept], self._stale[kept], self._alive[kept]
        if self._table is not None:
            self._table = self._table[np.ix_(kept, kept)]
