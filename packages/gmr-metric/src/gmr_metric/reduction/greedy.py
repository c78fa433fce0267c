"""Greedy merging: one loop, with the cost of a pair plugged in.

Each merge touches one row of the table of costs, so the table need not be held: every component
remembers its cheapest partner among the later ones, and a row whose partner has gone is looked
at again only when its old cost, which is then a lower bound, comes to the front. That picks
the same pairs as a search of the whole table, ties by the lowest indices, with memory linear in
the number of components. `compiled.merge_pairs` is the same loop for numba; without numba the
table is held while it is small, since computing a row anew takes longer there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.loops import vectorised
from gmr_metric.checks import is_whole
from gmr_metric.loops.columns import implementation, whitened
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.outcome import Outcome, Step

MANY = 5000  # components beyond which only neighbours are candidates, where the user has not said
NEIGHBOURS = 16
_TABLE = 2**23  # costs that are held without numba: 64 MiB, some 2900 components
_ROUND = 0.12  # of the components may go in one round of merges between neighbours


class PairCost(ABC):
    """What merging two components costs; it keeps the components, whitened and in columns.

    Parameters
    ----------
    mixture
        N components.
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        self.components = whitened(mixture)
        self.own = self.own_terms(np.arange(len(mixture)))

    @abstractmethod
    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return what the cost needs to know of some components by themselves."""

    @abstractmethod
    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the costs of merging components i with components j, pair by pair; a single i goes with each."""

    def compiled_kind(self) -> tuple[int, float] | None:
        """Return the number that `compiled.merge_pairs` calls this cost by, and its scale, if it knows it."""
        return None

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Put the merges of i and j in the places of i, pair by pair."""
        self.components.merge(i, j)
        self.own[i] = self.own_terms(i)

    def keep(self, kept: np.ndarray) -> None:
        """Forget all but some components."""
        self.components, self.own = self.components.take(kept), self.own[kept]


class Salmond(PairCost):
    """The increase of the covariance within components, by the covariance of the whole (Salmond 1990, joining)."""

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return nothing that matters."""
        return np.zeros(len(chosen))

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``w_i w_j / (w_i + w_j) |m_i - m_j|^2``, the means whitened."""
        weights, means, _ = self.components
        squared = ((means[:, j] - means[:, i]) ** 2).sum(axis=0)
        return np.asarray(weights[i] * weights[j] / (weights[i] + weights[j]) * squared)

    def compiled_kind(self) -> tuple[int, float]:
        """Return the number of this cost; it has no scale."""
        return 0, 0.0


class Runnalls(PairCost):
    """An upper bound of the increase of the Kullback-Leibler divergence (Runnalls 2007)."""

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the log determinants."""
        return self.components.take(chosen).log_determinants()

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``1/2 [(w_i + w_j) log |P_ij| - w_i log |P_i| - w_j log |P_j|]``."""
        return vectorised.runnalls_costs(i, j, *self.components, self.own)

    def compiled_kind(self) -> tuple[int, float]:
        """Return the number of this cost; it has no scale."""
        return 1, 0.0


class SquaredChange(PairCost):
    """The squared L2 norm of the change that the merge makes to the mixture (Williams 2003, locally).

    It bounds the angle between the mixtures before and after: its sine is at most the norm of the change over
    that of the mixture, which is the same for all pairs. In whitened coordinates, over a common scale.
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        self._log_scale = float(whitened(mixture).log_self().max())
        super().__init__(mixture)

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the inner products of components with themselves."""
        return np.asarray(np.exp(self.components.take(chosen).log_self() - self._log_scale))

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``||w_i f_i + w_j f_j - w_ij f_ij||^2``."""
        return vectorised.ise_costs(i, j, *self.components, self.own, self._log_scale)

    def compiled_kind(self) -> tuple[int, float]:
        """Return the number of this cost, and its scale."""
        return 2, self._log_scale


class Groups:
    """Which original components have been merged, each group called by its lowest one."""

    def __init__(self, n: int) -> None:
        self._leader = np.arange(n)
        self._left = n
        self.history: list[Step] = []

    def merge(self, i: int, j: int, cost: float) -> None:
        """Put group j, of a higher number, into group i."""
        self._leader[j] = i
        self._left -= 1
        self.history.append(Step("merge", (int(i), int(j)), self._left, max(0.0, float(cost))))

    def outcome(self) -> Outcome:
        """Return the groups, in the order of their lowest components."""
        leader = self._leader
        while np.any(leader != leader[leader]):
            leader = leader[leader]
        return Outcome(np.unique(leader, return_inverse=True)[1], history=tuple(self.history))


def merge_greedily(cost: PairCost, n_components: int, neighbours: int | None = None) -> Outcome:
    """Merge the cheapest pair until so many components are left.

    Parameters
    ----------
    cost
        The cost of a pair, over N components.
    n_components
        From 1 to N.
    neighbours
        Consider only the pairs of a component with so many nearest ones, in rounds of many merges at once, until
        a few thousand components are left; 0 considers all pairs always. By default 16 beyond 5000 components. *Ours*.

    Returns
    -------
    Outcome
        The groups, and every merge in its order.

    Raises
    ------
    InputError
        Where the neighbours are no whole number >= 0.
    """
    n = len(cost.own)
    groups, names = Groups(n), np.arange(n)
    if neighbours is not None and not (is_whole(neighbours) and neighbours >= 0):
        raise InputError(f"neighbours is {neighbours!r}", "a whole number >= 0")
    if neighbours is None:
        neighbours = NEIGHBOURS if n > MANY else 0
    if neighbours:
        names = _merge_neighbours(cost, max(n_components, min(MANY // 2, 2 * n_components)), neighbours, groups)
    if len(names) <= n_components:
        return groups.outcome()
    inner = implementation(len(names))
    kind = cost.compiled_kind()
    if kind is not None and inner is not vectorised:
        pairs = np.empty((len(names) - n_components, 2), dtype=np.int64)
        values = np.empty(len(pairs))
        inner.merge_pairs(kind[0], n_components, *cost.components, cost.own, kind[1], pairs, values)
        for (i, j), value in zip(names[pairs].tolist(), values.tolist(), strict=True):
            groups.merge(i, j, value)
    else:
        _merge_all(cost, n_components, groups, names)
    return groups.outcome()


def _merge_all(cost: PairCost, n_components: int, groups: Groups, names: np.ndarray) -> None:
    """Merge the cheapest of all pairs, one after the other."""
    n = left = len(names)
    best, bound, stale = np.zeros(n, dtype=np.intp), np.full(n, np.inf), np.zeros(n, dtype=bool)
    alive = np.ones(n, dtype=bool)
    table = np.empty((n, n)) if n * n <= _TABLE else None

    def choose(i: int, costs: np.ndarray) -> None:
        """Note the cheapest later partner of component i."""
        costs[~alive[i + 1 :]] = np.inf
        stale[i], bound[i] = False, np.inf
        if len(costs):
            best[i] = i + 1 + int(costs.argmin())
            bound[i] = costs[best[i] - i - 1]

    def computed(i: int) -> np.ndarray:
        return cost.pairs(np.array([i]), np.arange(i + 1, len(alive)))

    for i in range(n - 1):
        costs = computed(i)
        if table is not None:
            table[i, i + 1 :] = costs
        choose(i, costs)
    while left > n_components:
        i = int(bound.argmin())
        if stale[i]:
            choose(i, computed(i) if table is None else table[i, i + 1 :])
            continue
        j = int(best[i])
        groups.merge(names[i], names[j], bound[i])
        cost.merge(np.array([i]), np.array([j]))
        left -= 1
        alive[j], bound[j], stale[j] = False, np.inf, False
        stale |= np.isfinite(bound) & ((best == i) | (best == j))
        costs = cost.pairs(np.array([i]), np.arange(len(alive)))
        if table is not None:
            table[:i, i], table[i, i + 1 :] = costs[:i], costs[i + 1 :]
        row = costs[:i]
        closer = np.flatnonzero(alive[:i] & ((row < bound[:i]) | ((row == bound[:i]) & (best[:i] > i))))
        best[closer], bound[closer], stale[closer] = i, row[closer], False
        choose(i, costs[i + 1 :])
        if left < 0.7 * len(alive):
            kept, place = np.flatnonzero(alive), np.cumsum(alive) - 1
            cost.keep(kept)
            names, best, bound, stale = names[kept], place[best[kept]], bound[kept], stale[kept]
            alive = np.ones(left, dtype=bool)
            if table is not None:
                table = table[np.ix_(kept, kept)]


def _merge_neighbours(cost: PairCost, n_components: int, neighbours: int, groups: Groups) -> np.ndarray:
    """Merge cheap pairs of neighbours in rounds, the pairs of a round apart; return the names of what is left.

    A round takes the pairs in the order of their costs, each component once, and at most an eighth of the
    components, so that what becomes cheap by a merge is seen before much that is dearer has been merged.
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


def salmond(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily where the spread within components grows least (Salmond 1990, joining)."""
    return merge_greedily(Salmond(mixture), n_components, neighbours)


def runnalls(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily by an upper bound of the Kullback-Leibler divergence (Runnalls 2007)."""
    return merge_greedily(Runnalls(mixture), n_components, neighbours)
