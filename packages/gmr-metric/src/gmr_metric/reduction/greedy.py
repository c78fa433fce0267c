"""Greedy merging by the cost of a pair: the methods `salmond` and `runnalls`, and the loop of others."""

from __future__ import annotations

import numpy as np
from sextet_common.checks import Natural, check

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.outcome import Outcome
from gmr_metric.reduction.pair_costs import PairCost, Runnalls, Salmond
from gmr_metric.reduction.rounds import merge_neighbours
from gmr_metric.reduction.search import Search, merge_exhaustively

MANY = 5000  # with more components only neighbours are candidates by default
NEIGHBOURS = 16
FEW = 128  # up to this many components the table of all costs is faster than a search by bounds


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
    if len(names) <= FEW:
        merge_exhaustively(cost, n_components, names, groups)
    else:
        Search(cost, names, groups).merge_until(n_components)
    return groups.outcome()


def salmond(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily where the spread within components grows least (Salmond 1990, joining)."""
    return merge_greedily(Salmond(mixture), n_components, neighbours)


def runnalls(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily by an upper bound of the Kullback-Leibler divergence (Runnalls 2007)."""
    return merge_greedily(Runnalls(mixture), n_components, neighbours)
