"""The inner loops in NumPy alone: the same functions as in `compiled`, for small mixtures or without numba.

Import this module through :func:`gmr_metric.loops.choice.implementation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gmr_metric.density.gaussian import log_packed, log_self_kernels, packed_log_determinants, packed_outer
from gmr_metric.loops.columns import Bounded, Columns

_NUMBERS = 2**16  # that a step holds at once, 512 KiB


def _block(components: Columns | Bounded) -> int:
    """Return the number of kernels per step, so that their covariances stay in the cache."""
    return max(64, min(2**12, _NUMBERS // max(len(components.packed), len(components.means))))


def _merged(i: np.ndarray, j: np.ndarray, components: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge components i with j: return the latter's share of the weight, the offsets and packed covariances."""
    weights, means, packed = components
    share = weights[j] / (weights[i] + weights[j])
    rest = 1 - share
    e = means.take(j, axis=1) - means.take(i, axis=1)
    merged = packed_outer(e, len(packed))
    merged *= share * rest
    merged += rest * packed.take(i, axis=1)
    merged += share * packed.take(j, axis=1)
    return share, e, merged


def runnalls_costs(i: np.ndarray, j: np.ndarray, components: Columns, log_determinants: np.ndarray) -> np.ndarray:
    """Runnalls' bound for merging components i with components j, pair by pair."""
    weights, d = components.weights, len(components.means)
    costs = np.empty(len(j))
    for chosen, first, second in pair_blocks(components, i, j):
        _, _, c = _merged(first, second, components)
        logs = packed_log_determinants(c, d)
        own = weights[first] * (logs - log_determinants[first])
        costs[chosen] = 0.5 * (own + weights[second] * (logs - log_determinants[second]))
    return costs


def ise_costs(
    i: np.ndarray,
    j: np.ndarray,
    components: Columns,
    log_norms: np.ndarray,
    log_scale: float,
) -> np.ndarray:
    """Squared norms of the changes made by merging components i with components j, pair by pair, over the scale.

    ``log_norms`` are the logs of the components' norms over the root of the scale.
    """
    weights, means, packed = components
    d, costs = len(means), np.empty(len(j))
    for chosen, first, second in pair_blocks(components, i, j):
        v, w = weights[first], weights[second]
        share, e, c = _merged(first, second, components)
        total = v + w
        norms = v * v * np.exp(2 * log_norms[first]) + w * w * np.exp(2 * log_norms[second])
        norms = norms + 2 * v * w * _kernels(e, packed.take(first, axis=1) + packed.take(second, axis=1), log_scale)
        merged = total**2 * np.exp(log_self_kernels(packed_log_determinants(c, d), d) - log_scale)
        first_to_merged = _kernels(share * e, packed.take(first, axis=1) + c, log_scale)
        second_to_merged = _kernels((1 - share) * e, packed.take(second, axis=1) + c, log_scale)
        costs[chosen] = norms + (merged - 2 * total * (v * first_to_merged + w * second_to_merged))
    return costs


def _kernels(offsets: np.ndarray, packed: np.ndarray, log_scale: float) -> np.ndarray:
    kernels: np.ndarray = np.exp(log_packed(offsets, packed) - log_scale)
    return kernels


def pair_blocks(components: Columns, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield slices of the pairs, with their components."""
    step = _block(components)
    for start in range(0, len(j), step):
        chosen = slice(start, start + step)
        yield chosen, i if len(i) == 1 else i[chosen], j[chosen]


def merged_pairs(i: np.ndarray, j: np.ndarray, components: Columns) -> Columns:
    """Merge components i with j, pair by pair; a single i goes with each j."""
    share, e, c = _merged(i, j, components)
    weights, means, _ = components
    return Columns(weights[i] + weights[j], means[:, i] + share * e, c)


def overlaps(g: Columns, f: Columns, log_scale: float) -> np.ndarray:
    """Inner products of f with each component of g, over the scale; g's weights do not count."""
    n, result = len(f.weights), np.zeros(g.means.shape[1])
    if n <= len(result):  # the longer axis is the last, which NumPy's loops run along
        step = max(1, _block(f) // len(result))
        for start in range(0, n, step):
            rows = slice(start, start + step)
            offsets = f.means[:, rows, None] - g.means[:, None]
            result += f.weights[rows] @ _kernels(offsets, f.packed[:, rows, None] + g.packed[:, None], log_scale)
    else:
        step = max(1, _block(f) // n)
        for start in range(0, len(result), step):
            rows = slice(start, start + step)
            offsets = f.means[:, None] - g.means[:, rows, None]
            result[rows] = _kernels(offsets, f.packed[:, None] + g.packed[:, rows, None], log_scale) @ f.weights
    return result


def cheapest_pair(
    weights: np.ndarray, own_f: np.ndarray, own_g: np.ndarray, tables: np.ndarray, by_angle: bool
) -> tuple[int, int, float]:
    """Return the pair i < j with the best merge, and its cost: the growth of the angle or of the squared error.

    ``own_f`` and ``own_g`` are the components' shares of <f, g> and <g, g>; the tables are those of `oggmr`. The
    angle's cost is 1 / cos^2 relative to that before, minus one: it grows with the angle, and keeps small digits.
    """
    merged_f, merged_g, changes = tables
    a, b = own_f.sum(), own_g.sum()
    total = weights[:, None] + weights
    x = (own_f[:, None] + own_f - total * merged_f) / a
    y = (changes - 2 * (own_g[:, None] + own_g - total * merged_g)) / b
    lower_half = np.tri(len(weights), dtype=bool)
    x[lower_half] = 0
    costs = (y + x * (2 - x)) / (1 - x) ** 2 if by_angle else 2 * a * x + b * y
    costs[lower_half] = np.inf
    i, j = divmod(int(costs.argmin()), len(weights))
    return i, j, float(costs[i, j])


def log_inner(f: Bounded, g: Bounded, same: bool) -> float:
    """Log inner product of two mixtures with log weights; of one with itself half the terms are computed, twice."""
    step = max(1, _block(f) // len(g.weights))
    largest, total = -math.inf, 0.0
    for start in range(0, len(f.weights), step):
        rows = slice(start, start + step)
        later = slice(start if same else 0, None)
        offsets = f.means[:, rows, None] - g.means[:, None, later]
        terms = log_packed(offsets, f.packed[:, rows, None] + g.packed[:, None, later])
        terms += f.weights[rows, None] + g.weights[later]
        if same:
            terms[:, step:] += math.log(2.0)
        top = max(largest, float(terms.max()))
        if top > -math.inf:
            total = total * math.exp(largest - top) + float(np.exp(terms - top).sum())
            largest = top
    return largest + math.log(total) if total > 0 else -math.inf
