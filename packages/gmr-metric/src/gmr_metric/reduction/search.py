"""The greedy search for the cheapest pair, in NumPy, with lower bounds in place of most costs.

Every component has a list of a few of its cheapest later partners; all others cost at least its *limit*. After a merge
only the costs of the merged component can be new: those whose bound is below the other component's limit are computed,
and entered into the lists. A component is searched again only when its list is used up and its limit is the lowest of
all. The pairs are those of an exhaustive search, ties by the lowest indices; memory is linear in their number.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import insort

import numpy as np

from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.pair_costs import PairCost

_KEPT = 16  # partners listed for each component
_TRIED = 64  # partners whose costs are computed before the bounds decide
_SURE = 6  # listed partners, besides the first, that no other may precede after a search
_ROWS = 64  # components searched at a time at the start
_BATCH = 16  # merges prepared at a time at most
_FULL = 0.9  # share of living components below which the others are dropped

Entry = tuple[float, int, int]  # cost, partner, and the time when it was computed
Merge = tuple[float, int, int]  # cost, component and the later one that joins it


def merge_exhaustively(cost: PairCost, n_components: int, names: np.ndarray, groups: Groups) -> None:
    """Merge the cheapest pair until n_components are left, with the table of all costs."""
    n = len(names)
    table, first, second = np.full((n, n), math.inf), *np.triu_indices(n, 1)
    table[first, second] = cost.pairs(first, second)
    alive = np.arange(n)
    for _ in range(n - n_components):
        i, j = divmod(int(table.argmin()), n)
        groups.merge(names[i], names[j], table[i, j])
        cost.merge(np.array([i]), np.array([j]))
        table[j], table[:, j] = math.inf, math.inf
        alive = alive[alive != j]
        others = alive[alive != i]
        low, high = np.minimum(others, i), np.maximum(others, i)
        table[low, high] = cost.pairs(low, high)


class Search:
    """The state of the search; components have their first indices as names, which keep their order.

    The places after those of the components hold merges that are prepared.
    """

    def __init__(self, cost: PairCost, names: np.ndarray, groups: Groups) -> None:
        n = len(names)
        self._cost, self._names, self._groups = cost, names, groups
        self._indices, self._place = np.arange(n), list(range(n))
        self._alive, self._limits = np.ones(n, dtype=bool), np.full(n, math.inf)
        self._lists: list[list[Entry]] = [[] for _ in range(n)]
        self._bounds, self._searched, self._changed = [math.inf] * n, [-1] * n, [0.0] * n
        self._queue: list[tuple[float, int]] = []
        self._time = 0
        cost.extend(_BATCH)
        for start in range(0, n, _ROWS):
            self._search(np.arange(start, min(n, start + _ROWS)))

    def merge_until(self, n_components: int) -> None:
        """Merge the cheapest of all pairs, one after the other."""
        left, size = len(self._lists), _BATCH
        while left > n_components:
            merges = self._next(min(size, left - n_components))
            if merges:
                count = self._merge(merges)
                left -= count
                size = min(_BATCH, 2 * count)

    def _next(self, most: int) -> list[Merge]:
        """Return the cheapest pairs of different components, in order; none if a component had to be searched."""
        merges: list[Merge] = []
        used: set[int] = set()
        while self._queue and len(merges) < most:
            bound, i = heapq.heappop(self._queue)
            if bound != self._bounds[i]:
                continue
            entries = self._lists[i] = [entry for entry in self._lists[i] if self._changed[entry[1]] <= entry[2]]
            limit = float(self._limits[self._place[i]])
            if entries and (entries[0][0] < limit or self._searched[i] == self._time):
                value, j, _ = entries[0]
                if value > bound:
                    self._push(i, value)
                    continue
                if i not in used and j not in used:
                    merges.append((value, i, j))
                    used |= {i, j}
                    continue
            elif limit > bound:
                self._push(i, limit)
                continue
            elif not merges:
                self._search(np.array(sorted({self._place[i], *self._used_up()})))
                break
            self._push(i, bound)
            break
        return merges

    def _used_up(self) -> list[int]:
        """Return the places of the next components in the queue whose lists are used up, a few at most."""
        aside: list[tuple[float, int]] = []
        places: list[int] = []
        while self._queue and len(aside) < 2 * _BATCH and len(places) < _BATCH:
            bound, i = heapq.heappop(self._queue)
            if bound != self._bounds[i]:
                continue
            limit = self._limits[self._place[i]]
            first = next((entry[0] for entry in self._lists[i] if self._changed[entry[1]] <= entry[2]), math.inf)
            if self._searched[i] < self._time and bound >= limit and first >= limit:
                places.append(self._place[i])
            else:
                aside.append((bound, i))
        for entry in aside:
            heapq.heappush(self._queue, entry)
        return places

    def _merge(self, merges: list[Merge]) -> int:
        """Merge the first pairs, as many as are cheaper than all pairs that these merges make; return their number."""
        n, values = len(self._alive), [value for value, _, _ in merges]
        p, q = (np.array([self._place[k] for k in pair]) for pair in zip(*((i, j) for _, i, j in merges), strict=True))
        new = n + np.arange(len(merges))
        self._cost.copy(p, new)
        self._cost.merge(new, q)
        lower, order = self._cost.bounds(new)
        lower[:, :n][:, ~self._alive] = math.inf
        count = self._valid(values, p, q, lower) if len(merges) > 1 else 1
        for value, i, _ in merges[count:]:
            self._push(i, value)
        p, q, new = p[:count], q[:count], new[:count]
        self._cost.copy(new, p)
        lower, order = lower[:count], order[:count]
        lower[:, q], self._alive[q] = math.inf, False
        lower[:, p], order[:, p] = lower[:, new], order[:, new]
        for value, i, j in merges[:count]:
            self._groups.merge(self._names[i], self._names[j], value)
            self._time += 1
            self._changed[i], self._changed[j], self._bounds[j], self._lists[j] = self._time, math.inf, math.nan, []
        self._update(p, lower[:, :n], order[:, :n])
        if np.count_nonzero(self._alive) < _FULL * n:
            self._compact()
        return count

    def _valid(self, values: list[float], p: np.ndarray, q: np.ndarray, lower: np.ndarray) -> int:
        """Return how many of the prepared merges precede, in the order of their costs, all pairs that these make."""
        n = len(self._alive)
        least = np.full(len(values), math.inf)
        for t in range(len(values) - 1):
            costs = lower[t, : n + t].copy()
            costs[p[: t + 1]] = costs[q[: t + 1]] = math.inf
            near = np.flatnonzero(costs <= values[-1])
            if len(near):
                before = np.append(np.arange(n), p)[near] < p[t]  # the order in which the costs will be computed
                first, second = np.where(before, near, n + t), np.where(before, n + t, near)
                least[t] = self._cost.pairs(first, second, np.full(len(near), values[-1])).min()
        earlier = np.minimum.accumulate(least)[:-1]
        return 1 + int(np.argmin(np.append(earlier > values[1:], False)))

    def _search(self, rows: np.ndarray) -> None:
        """Search the components at some places."""
        start, n = int(rows[0]), len(self._alive)
        lower, order = (table[:, : n - start] for table in self._cost.bounds(rows, start))
        lower[:, ~self._alive[start:]] = math.inf
        self._update(rows, lower, order, start, above=False)

    def _update(
        self, rows: np.ndarray, lower: np.ndarray, order: np.ndarray, start: int = 0, above: bool = True
    ) -> None:
        """List the partners of the components at some places, given the bounds of those from ``start`` on.

        They are also entered into the lists of the components above if asked.
        """
        later = np.arange(start, len(self._alive)) > rows[:, None]
        row = place = np.empty(0, dtype=np.intp)
        if above:
            near = (lower < self._limits) & ~later
            near[:, rows] = False
            row, place = np.nonzero(near)
        later &= lower < math.inf
        lower[~later] = math.inf
        first, second = np.nonzero(later & (order <= _smallest(np.where(later, order, math.inf), _TRIED - 1)))
        limits = np.append(self._limits[place], np.full(len(first), math.inf))
        costs = self._costs(rows[np.append(row, first)], np.append(place, second + start), limits)
        for p, k, value in zip(rows[row].tolist(), place.tolist(), costs.tolist(), strict=False):
            if value < self._limits[k]:
                self._insert(k, (value, int(self._indices[p]), self._time))
        table = np.full(lower.shape, math.inf)
        table[first, second], lower[first, second] = costs[len(row) :], math.inf
        first, second = np.nonzero((lower <= _smallest(table, _SURE)) & (lower < math.inf))
        if len(first):
            limits = _smallest(table, _KEPT - 1)[first, 0]  # what costs more will not be listed
            table[first, second] = self._costs(rows[first], second + start, limits)
            lower[first, second] = math.inf
        self._list(rows, table, lower.min(axis=1).tolist(), start)

    def _costs(self, first: np.ndarray, second: np.ndarray, limits: np.ndarray) -> np.ndarray:
        return self._cost.pairs(np.minimum(first, second), np.maximum(first, second), limits)

    def _list(self, rows: np.ndarray, table: np.ndarray, low: list[float], start: int) -> None:
        """List the cheapest partners in each row of the table; those not in it cost at least ``low``."""
        row, place = np.nonzero((table <= _smallest(table, _KEPT)) & (table < math.inf))
        ends = np.searchsorted(row, np.arange(len(rows) + 1)).tolist()
        values, partners = table[row, place].tolist(), self._indices[place + start].tolist()
        for k, p in enumerate(rows.tolist()):
            chosen = slice(ends[k], ends[k + 1])
            entries = sorted(zip(values[chosen], partners[chosen], itertools.repeat(self._time), strict=False))
            i = int(self._indices[p])
            self._limits[p] = min(low[k], entries[_KEPT][0]) if len(entries) > _KEPT else low[k]
            self._lists[i], self._searched[i] = entries[:_KEPT], self._time
            self._push(i, entries[0][0] if entries else math.inf)

    def _insert(self, k: int, entry: Entry) -> None:
        """Enter a partner into the list of the component at place k."""
        i = int(self._indices[k])
        entries = self._lists[i]
        insort(entries, entry)
        if len(entries) > _KEPT:
            self._limits[k] = min(self._limits[k], entries.pop()[0])
        if entry[0] < self._bounds[i]:
            self._push(i, entry[0])

    def _push(self, i: int, bound: float) -> None:
        self._bounds[i] = bound
        if bound < math.inf:
            heapq.heappush(self._queue, (bound, i))

    def _compact(self) -> None:
        kept = np.flatnonzero(self._alive)
        self._cost.keep(np.append(kept, len(self._alive) + np.arange(_BATCH)))
        self._indices, self._limits, self._alive = self._indices[kept], self._limits[kept], self._alive[kept]
        for place, i in enumerate(self._indices.tolist()):
            self._place[i] = place


def _smallest(table: np.ndarray, k: int) -> np.ndarray:
    """Return the number after the k smallest of each row, as a column; infinity if there is none."""
    if table.shape[1] <= k:
        return np.full((len(table), 1), math.inf)
    return np.partition(table, k, axis=1)[:, k, None]
