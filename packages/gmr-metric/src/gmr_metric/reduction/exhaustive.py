"""Brute force: the best of all partitions of a small mixture's components.

Every subset of components is merged once, and one table holds the inner products of all disjoint subsets, so that a
partition is a sum of table entries. Blocks are chosen in the order of their lowest components, all partial partitions
of a level at once.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from sextet_common.checks import check
from sextet_common.errors import InputError

from gmr_metric.density.gaussian import log_packed
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.loops.columns import Columns, whitened
from gmr_metric.loops.vectorised import overlaps
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.outcome import Outcome, Step

Metric = Literal["angle", "ise"]
MOST = 13  # components: the table of subsets takes 270 MB there, four times as much with each one more


def brute_force(mixture: GaussianMixture, n_components: int, *, metric: Metric = "angle") -> Outcome:
    """Merge the groups of the best partition into exactly n_components, for mixtures of at most 13 components.

    The best partition has the smallest ``angle`` to the original, or integral squared error (``ise``). It is not an
    optimum over all parameters: refining it may improve it much.

    Examples
    --------
    >>> pairs = GaussianMixture(np.full(4, 0.25), [[0.0], [9.0], [0.5], [9.5]], np.ones((4, 1, 1)))
    >>> brute_force(pairs, 2).assignment.tolist()
    [0, 1, 0, 1]
    """
    n = len(mixture)
    if n > MOST:
        raise InputError(f"brute-force over {n} components", f"at most {MOST} components")
    check("metric", metric, Metric)
    f = whitened(mixture)
    log_scale = float(f.log_self().max())
    subsets = _subsets(f)
    with_f = subsets.weights * overlaps(subsets, f, log_scale)
    alone = subsets.weights**2 * np.exp(_self(subsets) - log_scale)
    blocks = _best(n, n_components, with_f, alone, _table(subsets, n, log_scale), metric)
    assignment = np.empty(n, dtype=np.intp)
    for number, block in enumerate(blocks):
        assignment[(block >> np.arange(n)) & 1 == 1] = number
    cost = distance(mixture, merge_groups(mixture, assignment), metric)
    return Outcome(assignment, history=(Step("reassign", (), n_components, cost),))


def _subsets(f: Columns) -> Columns:
    """Merge every subset; the bits of its index are its components, and index 0 is not used."""
    n = len(f.weights)
    place = np.concatenate([[0], np.repeat(np.arange(n), 2 ** np.arange(n))])  # of the highest bit
    merged = f.take(place)
    for high in range(1, n):  # the subsets without a bit, then the same with it
        without = np.arange(1, 2**high)
        for array in merged:
            array[..., 2**high + without] = array[..., without]
        merged.merge(2**high + without, np.full(len(without), 2**high))
    return merged


def _self(subsets: Columns) -> np.ndarray:
    return log_packed(np.zeros_like(subsets.means), 2 * subsets.packed)


def _table(subsets: Columns, n: int, log_scale: float) -> np.ndarray:
    """Return the inner products of disjoint subsets, at [0 in neither, first >> 1, second >> 1], lower first.

    The second of two disjoint subsets, the one without their lowest component, never contains component 0.
    """
    half = 2 ** (n - 1)
    table = np.zeros((2, half, half))
    everything = np.arange(1, 2**n)
    lowest = everything & -everything
    for first in everything.tolist():
        second = everything[(everything & first == 0) & (lowest > (first & -first))]
        if second.size:
            offsets = subsets.means[:, second] - subsets.means[:, [first]]
            kernels = np.exp(log_packed(offsets, subsets.packed[:, second] + subsets.packed[:, [first]]) - log_scale)
            weights = subsets.weights[first] * subsets.weights[second]
            table[1 - (first & 1), first >> 1, second >> 1] = weights * kernels
    return table


def _best(
    n: int, n_components: int, with_f: np.ndarray, alone: np.ndarray, table: np.ndarray, metric: str
) -> list[int]:
    """Return the best partition's blocks, as bits."""
    everything = 2**n - 1
    if n_components == 1:
        return [everything]

    def twice(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        entries: np.ndarray = 2 * table[1 - (first & 1), first >> 1, second >> 1]
        return entries

    rest = np.array([everything])
    chosen, a, b = np.zeros((1, 0), dtype=np.int32), np.zeros(1), np.zeros(1)
    best: tuple[float, list[int]] = (np.inf, [])
    for level in range(n_components - 1):
        parts = []
        order = np.argsort(rest, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(rest[order])) + 1):
            left = int(rest[same[0]])
            blocks = _blocks(left, n_components - level - 1)
            before = chosen[same]
            new_a, new_b = a[same, None] + with_f[blocks], b[same, None] + alone[blocks]
            for column in before.T:
                new_b = new_b + twice(column[:, None], blocks)
            if level < n_components - 2:
                columns, added = np.repeat(before, len(blocks), axis=0), np.tile(blocks, len(same))
                parts.append((left - added, np.column_stack([columns, added]), new_a.ravel(), new_b.ravel()))
                continue
            last = left - blocks  # what is left is the last block
            new_b = new_b + alone[last] + twice(blocks, last)
            for column in before.T:
                new_b = new_b + twice(column[:, None], last)
            costs = _cost(new_a + with_f[last], new_b, metric)
            row, place = divmod(int(costs.argmin()), len(blocks))
            if costs[row, place] < best[0]:
                best = float(costs[row, place]), [*before[row].tolist(), int(blocks[place]), int(last[place])]
        if parts:
            rest, chosen, a, b = (np.concatenate(column) for column in zip(*parts, strict=True))
    return best[1]


def _cost(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """Return -cos^2 or the integral squared error, up to constants, from <f, g> and <g, g>."""
    cost: np.ndarray = -(a**2) / b if metric == "angle" else b - 2 * a
    return cost


def _blocks(left: int, n_more: int) -> np.ndarray:
    """Return the subsets of what is left that contain its lowest bit and leave enough for n_more blocks."""
    lowest = left & -left
    others = left - lowest
    bits = [1 << k for k in range(others.bit_length()) if others >> k & 1]
    subsets = np.array([0])
    for bit in bits:
        subsets = np.concatenate([subsets, subsets + bit])
    remaining = others - subsets
    blocks: np.ndarray = lowest + subsets[np.bitwise_count(remaining) >= n_more]
    return blocks.astype(np.int32)
