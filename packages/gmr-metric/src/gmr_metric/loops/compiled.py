"""The inner loops, compiled by numba: the functions that the package calls, the same as in `vectorised`.

Import this module through :func:`gmr_metric.loops.choice.implementation`. numba takes plain tuples of arrays faster
than named ones.
"""

from __future__ import annotations

import numpy as np

from gmr_metric.loops import numba_merging, numba_overlaps
from gmr_metric.loops.columns import Bounded, Columns


def merge_pairs(
    kind: int, n_components: int, components: Columns, own: np.ndarray, log_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the cheapest pair until n_components are left; return the pairs and their costs. Changes the components."""
    merges = len(own) - n_components
    pairs, values = np.empty((merges, 2), dtype=np.int64), np.empty(merges)
    numba_merging.merge_pairs(kind, n_components, (*components, own), log_scale, pairs, values)
    return pairs, values


def ise_row(
    i: int, first: int, stop: int, components: Columns, self_kernels: np.ndarray, log_scale: float
) -> np.ndarray:
    """Squared norms of the changes made by merging component i with each of first..stop, over the scale."""
    row = np.empty(stop - first)
    numba_merging.ise_row(i, first, stop, (*components, self_kernels), log_scale, row)
    return row


def pair_overlaps(i: int, first: int, stop: int, g: Columns, f: Columns, log_scale: float) -> np.ndarray:
    """Inner products of f with g's component i merged with each of first..stop, over the scale."""
    row = np.empty(stop - first)
    numba_overlaps.pair_overlaps(i, first, stop, tuple(g), tuple(f), log_scale, row)
    return row


def add_overlaps(g: Columns, h: Columns, log_scale: float, table: np.ndarray) -> None:
    """Add to the upper triangle the inner products of a few signed components h with every merged pair of g."""
    numba_overlaps.add_overlaps(tuple(g), tuple(h), log_scale, table)


def cheapest_pair(
    weights: np.ndarray, own_f: np.ndarray, own_g: np.ndarray, tables: np.ndarray, by_angle: bool
) -> tuple[int, int, float]:
    """Return the pair i < j with the best merge, and its cost; see `vectorised`."""
    i, j, cost = numba_overlaps.cheapest_pair(weights, own_f, own_g, tables[0], tables[1], tables[2], by_angle)
    return int(i), int(j), float(cost)


def log_inner(f: Bounded, g: Bounded, same: bool) -> float:
    """Log inner product of two mixtures with log weights; terms below exp(-60) of the largest may be left out."""
    return float(numba_overlaps.log_inner(tuple(f), tuple(g), same))
