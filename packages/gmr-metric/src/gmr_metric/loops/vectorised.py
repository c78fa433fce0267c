"""The inner loops in NumPy alone: the same functions as in `compiled`, for small mixtures or without numba.

Import this module through :func:`gmr_metric.loops.choice.implementation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gmr_metric.density.gaussian import log_packed, lower, packed_log_determinants
from gmr_metric.loops.columns import Bounded, Columns


def _block(d: int) -> int:
    """Return the number of kernels per step, so that their matrices stay in the cache, or in memory."""
    return max(1, min(2**12, 2**20 // d**2))


def _merged(i: np.ndarray, j: np.ndarray, components: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge components i with j: return the latter's share of the weight, the offsets and packed covariances."""
    weights, means, packed = components
    share = weights[j] / (weights[i] + weights[j])
    rest = 1 - share
    e = means.take(j, axis=1) - means.take(i, axis=1)  # packed[:, j] would be strided
    weighted = share * rest * e
    merged = packed.take(j, axis=1)
    merged *= share
    for at, (r, c) in enumerate(zip(*lower(len(means)), strict=True)):  # row by row, which stays in the cache
        merged[at] += rest * packed[at, i]
        merged[at] += weighted[r] * e[c]
    return share, e, merged


def runnalls_costs(i: np.ndarray, j: np.ndarray, components: Columns, log_determinants: np.ndarray) -> np.ndarray:
    """Runnalls' bound for merging components i with components j, pair by pair."""
    weights, d = components.weights, len(components.means)
    costs = np.empty(len(j))
    for chosen, first, second in _pair_blocks(d, i, j):
        _, _, c = _merged(first, second, components)
        logs = packed_log_determinants(c, d)
        own = weights[first] * (logs - log_determinants[first])
        costs[chosen] = 0.5 * (own + weights[second] * (logs - log_determinants[second]))
    return costs


def ise_costs(
    i: np.ndarray, j: np.ndarray, components: Columns, self_kernels: np.ndarray, log_scale: float
) -> np.ndarray:
    """Squared norms of the changes made by merging components i with components j, pair by pair, over the scale."""
    weights, means, packed = components
    costs = np.empty(len(j))
    for chosen, first, second in _pair_blocks(len(means), i, j):
        v, w = weights[first], weights[second]
        share, e, c = _merged(first, second, components)
        one, other = packed.take(first, axis=1), packed.take(second, axis=1)
        across = np.exp(log_packed(e, one + other) - log_scale)
        first_to_merged = np.exp(log_packed(share * e, one + c) - log_scale)
        second_to_merged = np.exp(log_packed((1 - share) * e, other + c) - log_scale)
        merged = np.exp(log_packed(np.zeros_like(e), 2 * c) - log_scale)
        total = v + w
        costs[chosen] = (
            v * v * self_kernels[first]
            + w * w * self_kernels[second]
            + 2 * v * w * across
            + total * (total * merged - 2 * (v * first_to_merged + w * second_to_merged))
        )
    return costs


def ise_row(
    i: int, first: int, stop: int, components: Columns, self_kernels: np.ndarray, log_scale: float
) -> np.ndarray:
    """Squared norms of the changes made by merging component i with each of first..stop, over the scale."""
    return ise_costs(np.array([i]), np.arange(first, stop), components, self_kernels, log_scale)


def _pair_blocks(d: int, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    step = _block(d)
    for start in range(0, len(j), step):
        chosen = slice(start, start + step)
        yield chosen, i if len(i) == 1 else i[chosen], j[chosen]


def overlaps(g: Columns, f: Columns, log_scale: float) -> np.ndarray:
    """Inner products of f with each component of g, over the scale; g's weights do not count."""
    result = np.empty(g.means.shape[1])
    step = max(1, _block(len(g.means)) // len(f.weights))
    for start in range(0, len(result), step):
        chosen = slice(start, start + step)
        offsets = f.means[:, None] - g.means[:, chosen, None]
        logs = log_packed(offsets, f.packed[:, None] + g.packed[:, chosen, None])
        result[chosen] = np.exp(logs - log_scale) @ f.weights
    return result


def pair_overlaps(i: int, first: int, stop: int, g: Columns, f: Columns, log_scale: float) -> np.ndarray:
    """Inner products of f with g's component i merged with each of first..stop, over the scale."""
    result = np.empty(stop - first)
    step = max(1, _block(len(g.means)) // len(f.weights))
    for start in range(first, stop, step):
        others = np.arange(start, min(stop, start + step))
        share, e, c = _merged(np.array([i]), others, g)
        offsets = f.means[:, None] - (g.means[:, i, None] + share * e)[..., None]
        logs = log_packed(offsets, f.packed[:, None] + c[..., None])
        result[others - first] = np.exp(logs - log_scale) @ f.weights
    return result


def add_overlaps(g: Columns, h: Columns, log_scale: float, table: np.ndarray) -> None:
    """Add to the upper triangle the inner products of a few signed components h with every merged pair of g."""
    for _, i, j in _pair_blocks(len(g.means), *np.triu_indices(len(g.weights), 1)):
        share, e, c = _merged(i, j, g)
        for weight, mean, covariance in zip(h.weights, h.means.T, h.packed.T, strict=True):
            offsets = g.means[:, i] - mean[:, None] + share * e
            table[i, j] += weight * np.exp(log_packed(offsets, c + covariance[:, None]) - log_scale)


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
    """Log inner product of two mixtures with log weights; every term is computed."""
    step = max(1, 8 * _block(len(g.means)) // len(g.weights))
    largest, total = -math.inf, 0.0
    for start in range(0, len(f.weights), step):
        rows = slice(start, start + step)
        offsets = f.means[:, rows, None] - g.means[:, None]
        logs = log_packed(offsets, f.packed[:, rows, None] + g.packed[:, None])
        terms = logs + f.weights[rows, None] + g.weights
        top = max(largest, float(terms.max()))
        if top > -math.inf:
            total = total * math.exp(largest - top) + float(np.exp(terms - top).sum())
            largest = top
    return largest + math.log(total) if total > 0 else -math.inf
