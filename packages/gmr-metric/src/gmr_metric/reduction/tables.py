"""Greedy merging against the original mixture, for `oggmr` and `williams`, with cached inner products.

Against the original the criterion needs three inner products per pair, and a merge changes them by a few kernels each.
All merges together cost O(N^3) kernels instead of O(N^5).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from sextet_common.checks import check
from sextet_common.errors import InputError

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops import vectorised
from gmr_metric.loops.choice import implementation, numpy_seconds
from gmr_metric.loops.columns import Columns, columns, whitened
from gmr_metric.reduction.greedy import merge_greedily
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.outcome import Outcome
from gmr_metric.reduction.pair_costs import SquaredChange

Reference = Literal["original", "current"]
Criterion = Literal["angle", "ise"]
SHORT = 2.0  # seconds of work up to which the original is the reference by default


def williams(
    mixture: GaussianMixture, n_components: int, *, reference: Reference | None = None, neighbours: int | None = None
) -> Outcome:
    """Merge greedily where the integral squared error grows least (Williams and Maybeck 2003).

    ``reference`` and ``neighbours`` are those of :func:`~gmr_metric.reduction.oggmr.oggmr`.
    """
    return merge_by(mixture, n_components, reference, neighbours, "ise")


def seconds_against_original(mixture: Columns) -> float:
    """Estimate NumPy's time for all merges against the original: about 2 N^3 kernels."""
    return numpy_seconds(2.0 * len(mixture.weights) ** 3, mixture)


def merge_by(
    mixture: GaussianMixture,
    n_components: int,
    reference: Reference | None,
    neighbours: int | None,
    criterion: Criterion,
) -> Outcome:
    """Merge greedily by a criterion against the original or the current mixture."""
    check("reference", reference, Reference | None)
    if reference is None:
        reference = "original" if seconds_against_original(columns(mixture)) <= SHORT else "current"
    if reference == "current":
        return merge_greedily(SquaredChange(mixture), n_components, neighbours)
    if neighbours:
        raise InputError(f"neighbours is {neighbours} with reference 'original'", "reference='current'")
    groups = Groups(len(mixture))
    if n_components < len(mixture):
        f = whitened(mixture)
        tables = Tables(f, f, criterion)
        names = np.arange(len(mixture))
        while len(names) > n_components:
            i, j, cost = tables.cheapest()
            groups.merge(names[i], names[j], cost)
            tables.merge(i, j)
            names = np.delete(names, j)
    return groups.outcome()


class Tables:
    """The inner products from which the effect of every merge of the current mixture g follows.

    With h = w_i g_i + w_j g_j - w_ij g_ij the mixture after a merge is g - h, so its inner product with the original
    f is <f, g> - <f, h>, and its squared norm <g, g> - 2 <g, h> + <h, h>. The tables hold <f, g_ij>, <g, g_ij> and
    <h, h>; a merge changes g by three components, and so <g, g_ij> by three kernels per pair.
    """

    def __init__(self, f: Columns, g: Columns, criterion: Criterion) -> None:
        self._f, self._g, self._criterion = f, g.take(np.arange(len(g.weights))), criterion
        self._kernels = implementation(seconds_against_original(f))
        self._log_scale = float(f.log_self().max())
        n = len(g.weights)
        self._with_f = self._overlaps(self._g, f)
        self._with_g = self._with_f if g is f else self._overlaps(self._g, g)
        self._tables = np.zeros((3, n, n))
        merged_f, merged_g, changes = self._tables
        for i in range(n - 1):
            others = np.arange(i + 1, n)
            merged = vectorised.merged_pairs(np.array([i]), others, g)
            merged_f[i, others] = self._overlaps(merged, f)
            if g is not f:
                merged_g[i, others] = self._overlaps(merged, g)
            changes[i, others] = self._changes(i, others)
        if g is f:
            merged_g[:] = merged_f

    def cheapest(self) -> tuple[int, int, float]:
        """Return the pair i < j with the best merge, and its cost; ties by the lowest indices."""
        w = self._g.weights
        return vectorised.cheapest_pair(w, w * self._with_f, w * self._with_g, self._tables, self._criterion == "angle")

    def merge(self, i: int, j: int) -> None:
        """Replace component i by its merge with j > i, and update the tables."""
        before = self._g.take(np.array([i, j]))
        self._g.merge(np.array([i]), np.array([j]))
        after = self._g.take(np.array([i]))
        step = Columns(
            np.concatenate([-before.weights, after.weights]),
            np.concatenate([before.means, after.means], axis=1),
            np.concatenate([before.packed, after.packed], axis=1),
        )
        kept = np.delete(np.arange(len(self._g.weights)), j)
        single_f, single_g = self._tables[0, i, j], self._tables[1, i, j]
        self._g = self._g.take(kept)
        self._with_f, self._with_g = self._with_f[kept], self._with_g[kept]
        self._tables = np.delete(np.delete(self._tables, j, axis=1), j, axis=2)
        self._with_f[i], self._with_g[i] = single_f, single_g
        self._with_g = self._with_g + self._overlaps(self._g, step)
        for _, first, second in vectorised.pair_blocks(self._g, *np.triu_indices(len(kept), 1)):
            merged = vectorised.merged_pairs(first, second, self._g)
            self._tables[1, first, second] += self._overlaps(merged, step)
        self._renew(i)

    def _renew(self, i: int) -> None:
        """Compute the entries of one component again."""
        others = np.delete(np.arange(len(self._g.weights)), i)
        low, high = np.minimum(i, others), np.maximum(i, others)
        merged = vectorised.merged_pairs(np.array([i]), others, self._g)
        self._tables[0, low, high] = self._overlaps(merged, self._f)
        self._tables[1, low, high] = self._overlaps(merged, self._g)
        self._tables[2, low, high] = self._changes(i, others)

    def _overlaps(self, g: Columns, f: Columns) -> np.ndarray:
        result: np.ndarray = self._kernels.overlaps(g, f, self._log_scale)
        return result

    def _changes(self, i: int, others: np.ndarray) -> np.ndarray:
        norms = 0.5 * (self._g.log_self() - self._log_scale)
        return vectorised.ise_costs(np.array([i]), others, self._g, norms, self._log_scale)
