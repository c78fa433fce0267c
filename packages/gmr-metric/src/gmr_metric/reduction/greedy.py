"""Greedy merging by the cost of a pair: the methods `salmond` and `runnalls`, and the loop of others."""

from __future__ import annotations

import numpy as np
from sextet_common.checks import Natural, check

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops.choice import LONG, numpy_seconds
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.outcome import Outcome
from gmr_metric.reduction.pair_costs import PairCost, Runnalls, Salmond
from gmr_metric.reduction.rounds import merge_neighbours
from gmr_metric.reduction.search import Search

MANY = 500  # with more components only neighbours are candidates by default
NEIGHBOURS = 16


def merge_greedily(cost: PairCost, n_components: int, neighbours: int | None = None) -> Outcome:
    """Merge the cheapest pair until n_components are left.

    ``neighbours`` considers only pairs of a component with this many nearest ones, in rounds of many merges, until
    twice the wanted components or 250 are left; 0 always considers all pairs, with a table of them up to 4096
    components. By default 16 beyond 500 components, or where all pairs would take an estimated second: the error is the
    same on average. Not specified in the paper.
    """
    n = len(cost.own)
    groups, names = Groups(n), np.arange(n)
    check("neighbours", neighbours, Natural | None)
    if neighbours is None:
        neighbours = NEIGHBOURS if n > MANY or numpy_seconds(2 * n**2, cost.components) > LONG else 0
    if neighbours:
        names = merge_neighbours(cost, max(n_components, min(MANY // 2, 2 * n_components)), neighbours, groups)
    if len(names) > n_components:
        Search(cost, names, groups).merge_until(n_components)
    return groups.outcome()


def salmond(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily where the spread within components grows least (Salmond 1990, joining)."""
    return merge_greedily(Salmond(mixture), n_components, neighbours)


def runnalls(mixture: GaussianMixture, n_components: int, *, neighbours: int | None = None) -> Outcome:
    """Merge greedily by an upper bound of the Kullback-Leibler divergence (Runnalls 2007)."""
    return merge_greedily(Runnalls(mixture), n_components, neighbours)
