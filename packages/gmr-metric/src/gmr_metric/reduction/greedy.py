"""Greedy merging: one loop for every cost of a pair.

Each merge changes one row of the table of costs, so the table need not be held. Every component remembers its cheapest
partner among the later ones. A row whose partner is gone is searched again only when its old cost, which is then a
lower bound, is the lowest. That picks the same pairs as a search of the whole table, ties by the lowest indices, with
memory linear in the number of components. `loops.compiled.merge_pairs` is the same loop in numba. Without numba the
table is held while it is small, because computing a row again takes longer there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from sextet_common.checks import Natural, check

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops import vectorised
from gmr_metric.loops.choice import implementation, numpy_seconds
from gmr_metric.loops.columns import RUNNALLS, SALMOND, SQUARED_CHANGE, whitened
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.outcome import Outcome
from gmr_metric.reduction.rounds import merge_neighbours

MANY = 5000  # with more components only neighbours are candidates by default
NEIGHBOURS = 16
_TABLE = 2**23  # costs that are held without numba: 64 MiB, about 2900 components


class PairCost(ABC):
    """The cost of merging two components; it holds the components, whitened and in columns.

    ``kind`` is the number of the cost in the compiled loop, None if the loop does not know it.
    """

    kind: int | None = None
    log_scale = 0.0

    def __init__(self, mixture: GaussianMixture) -> None:
        self.components = whitened(mixture)
        self.own = self.own_terms(np.arange(len(mixture)))

    @abstractmethod
    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the terms of the cost that depend on one component, for the chosen ones."""

    @abstractmethod
    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the costs of merging components i with components j, pair by pair; a single i pairs with each."""

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Replace components i by their merges with j, pair by pair."""
        self.components.merge(i, j)
        self.own[i] = self.own_terms(i)

    def keep(self, kept: np.ndarray) -> None:
        """Drop all other components."""
        self.components, self.own = self.components.take(kept), self.own[kept]


class Salmond(PairCost):
    """The increase of the covariance within components, relative to the whole covariance (Salmond 1990, joining)."""

    kind = SALMOND

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return zeros: the cost has no such terms."""
        return np.zeros(len(chosen))

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``w_i w_j / (w_i + w_j) |m_i - m_j|^2`` of whitened means."""
        weights, means, _ = self.components
        squared = ((means[:, j] - means[:, i]) ** 2).sum(axis=0)
        costs: np.ndarray = weights[i] * weights[j] / (weights[i] + weights[j]) * squared
        return costs


class Runnalls(PairCost):
    """An upper bound of the increase of the Kullback-Leibler divergence (Runnalls 2007)."""

    kind = RUNNALLS

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the log determinants."""
        return self.components.take(chosen).log_determinants()

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``1/2 [(w_i + w_j) log |P_ij| - w_i log |P_i| - w_j log |P_j|]``."""
        return vectorised.runnalls_costs(i, j, self.components, self.own)


class SquaredChange(PairCost):
    """The squared L2 norm of the change that the merge makes to the mixture (Williams 2003, locally).

    It bounds the angle between the mixtures before and after: its sine is at most the norm of the change over that of
    the mixture, which is the same for all pairs. In whitened coordinates, over a common scale.
    """

    kind = SQUARED_CHANGE

    def __init__(self, mixture: GaussianMixture) -> None:
        self.log_scale = float(whitened(mixture).log_self().max())
        super().__init__(mixture)

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the components' inner products with themselves."""
        terms: np.ndarray = np.exp(self.components.take(chosen).log_self() - self.log_scale)
        return terms

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``||w_i f_i + w_j f_j - w_ij f_ij||^2``."""
        return vectorised.ise_costs(i, j, self.components, self.own, self.log_scale)


def merge_greedily(cost: PairCost, n_components: int, neighbours: int | None = None) -> Outcome:
    """Merge the cheapest pair until n_components are left.

    ``neighbours`` considers only pairs of a component with this many nearest ones, in rounds of many merges, until a
    few thousand components are left; 0 always considers all pairs. By default 16 beyond 5000 components. Not specified
    in the paper.
    """
    n = len(cost.own)
    groups, names = Groups(n), np.arange(n)
    check("neighbours", neighbours, Natural | None)
    if neighbours is None:
        neighbours = NEIGHBOURS if n > MANY else 0
    if neighbours:
        names = merge_neighbours(cost, max(n_components, min(MANY // 2, 2 * n_components)), neighbours, groups)
    if len(names) <= n_components:
        return groups.outcome()
    kernels = implementation(numpy_seconds(len(names) ** 2, cost.components))
    if cost.kind is not None and kernels is not vectorised:
        pairs, values = kernels.merge_pairs(cost.kind, n_components, cost.components, cost.own, cost.log_scale)
        groups.merge(names[pairs[:, 0]], names[pairs[:, 1]], values)
    else:
        _Search(cost, names, groups).merge_until(n_components)
    return groups.outcome()


class _Search:
    """The greedy search in NumPy: each row's cheapest later partner and its cost, or a lower bound if it is stale."""

    def __init__(self, cost: PairCost, names: np.ndarray, groups: Groups) -> None:
        n = len(names)
        self._cost, self._names, self._groups = cost, names, groups
        self._best, self._bound, self._stale = np.zeros(n, dtype=np.intp), np.full(n, np.inf), np.zeros(n, dtype=bool)
        self._alive = np.ones(n, dtype=bool)
        self._table = np.empty((n, n)) if n * n <= _TABLE else None
        for i in range(n - 1):
            costs = self._later_costs(i)
            if self._table is not None:
                self._table[i, i + 1 :] = costs
            self._choose(i, costs)

    def merge_until(self, n_components: int) -> None:
        """Merge the cheapest of all pairs, one after the other."""
        left = len(self._alive)
        while left > n_components:
            i = int(self._bound.argmin())
            if self._stale[i]:
                self._choose(i, self._later_costs(i) if self._table is None else self._table[i, i + 1 :])
                continue
            self._merge(i, int(self._best[i]))
            left -= 1
            if left < 0.7 * len(self._alive):
                self._compact()

    def _merge(self, i: int, j: int) -> None:
        self._groups.merge(self._names[i], self._names[j], self._bound[i])
        self._cost.merge(np.array([i]), np.array([j]))
        self._alive[j], self._bound[j], self._stale[j] = False, np.inf, False
        self._stale |= np.isfinite(self._bound) & ((self._best == i) | (self._best == j))
        costs = self._cost.pairs(np.array([i]), np.arange(len(self._alive)))
        if self._table is not None:
            self._table[:i, i], self._table[i, i + 1 :] = costs[:i], costs[i + 1 :]
        row, bound = costs[:i], self._bound[:i]
        closer = np.flatnonzero(self._alive[:i] & ((row < bound) | ((row == bound) & (self._best[:i] > i))))
        self._best[closer], self._bound[closer], self._stale[closer] = i, row[closer], False
        self._choose(i, costs[i + 1 :])

    def _choose(self, i: int, costs: np.ndarray) -> None:
        """Note the cheapest later partner of component i."""
        costs[~self._alive[i + 1 :]] = np.inf
        self._stale[i], self._bound[i] = False, np.inf
        if len(costs):
            self._best[i] = i + 1 + int(costs.argmin())
            self._bound[i] = costs[self._best[i] - i - 1]

    def _later_costs(self, i: int) -> np.ndarray:
        return self._cost.pairs(np.array([i]), np.arange(i + 1, len(self._alive)))

    def _compact(self) -> None:
        kept, place = np.flatnonzero(self._alive), np.cumsum(self._alive) - 1
        self._cost.keep(kept)
        self._names, self._best = self._names[kept], place[self._best[kept]]
        self._bound, self._stale, self._alive = self._bound[kept], self._stale[kept], self._alive[kept]
        if self._table is not None:
            self._table = self._table[np.ix_(kept, kept)]


def salmond(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily where the spread within components grows least (Salmond 1990, joining)."""
    return merge_greedily(Salmond(mixture), n_components, neighbours)


def runnalls(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily by an upper bound of the Kullback-Leibler divergence (Runnalls 2007)."""
    return merge_greedily(Runnalls(mixture), n_components, neighbours)
