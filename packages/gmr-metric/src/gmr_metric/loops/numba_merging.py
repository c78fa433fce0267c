"""Greedy merging of the cheapest pair, compiled by numba.

``components`` is a tuple of weights (n,), means (d, n), packed covariances (T, n) and each component's own term of the
cost (n,). ``lists`` holds every component's cheapest later partners: partners, the times of the entries, costs, limits
and bounds; see :func:`merge_pairs`. ``marks`` is a tuple of names, times of the last change, and alive.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False
# numba infers the types of these functions; `compiled` and `vectorised` state them.

from __future__ import annotations

import math

import numpy as np

from gmr_metric.loops.columns import RUNNALLS, SALMOND, SQUARED_CHANGE
from gmr_metric.loops.numba_kernels import BLOCK, factor, gaussians, jit, workspace

_KEPT = 8  # partners listed for each component
# Constant arguments are np.int64: numba would compile a second version of the function for a literal.


@jit
def merged_block(i, start, size, weights, means, packed, share, e, c):
    """Merge component i with a block: write the others' share of the weight, their offsets and packed covariances."""
    for t in range(size):
        share[t] = weights[start + t] / (weights[i] + weights[start + t])
    d = means.shape[0]
    for r in range(d):
        for t in range(size):
            e[r, t] = means[r, start + t] - means[r, i]
    at = 0
    for r in range(d):
        for k in range(r + 1):
            own = packed[at, i]
            for t in range(size):
                q = share[t]
                c[at, t] = (1.0 - q) * (own + q * e[r, t] * e[k, t]) + q * packed[at, start + t]
            at += 1


@jit
def _salmond_costs(i, first, stop, components, result):
    """Write the weighted squared distances between the mean of component i and those of first..stop."""
    weights, means, _, _ = components
    for j in range(first, stop):
        result[j - first] = 0.0
    for r in range(means.shape[0]):
        for j in range(first, stop):
            step = means[r, j] - means[r, i]
            result[j - first] += step * step
    for j in range(first, stop):
        result[j - first] *= weights[i] * weights[j] / (weights[i] + weights[j])


@jit
def _runnalls_costs(i, first, stop, components, result):
    """Write Runnalls' bound for merging component i with each of first..stop."""
    weights, means, packed, log_determinants = components
    d, n_packed = means.shape[0], packed.shape[0]
    share, logs = np.empty(BLOCK), np.empty(BLOCK)
    e, c = np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    for start in range(first, stop, BLOCK):
        size = min(BLOCK, stop - start)
        merged_block(i, start, size, weights, means, packed, share, e, c)
        factor(c, logs, size)
        for t in range(size):
            j = start + t
            own = weights[i] * (logs[t] - log_determinants[i])
            result[j - first] = 0.5 * (own + weights[j] * (logs[t] - log_determinants[j]))


@jit
def ise_row(i, first, stop, components, log_scale, result):
    """Write the squared norms of the changes made by merging component i with each of first..stop, over the scale."""
    weights, means, packed, self_kernels = components
    d, n_packed = means.shape[0], packed.shape[0]
    step, z, s, logs, squares, kernel = workspace(d, n_packed)
    share, e, c = np.empty(BLOCK), np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    half = 0.5 * d * math.log(4.0 * math.pi) + log_scale
    wi = weights[i]
    for start in range(first, stop, BLOCK):
        size = min(BLOCK, stop - start)
        merged_block(i, start, size, weights, means, packed, share, e, c)
        for at in range(n_packed):
            for t in range(size):
                s[at, t] = packed[at, i] + packed[at, start + t]
        gaussians(s, e, z, logs, squares, log_scale, kernel, size)
        for t in range(size):
            wj = weights[start + t]
            own = wi * wi * self_kernels[i] + wj * wj * self_kernels[start + t]
            result[start + t - first] = own + 2.0 * wi * wj * kernel[t]
        for at in range(n_packed):
            for t in range(size):
                s[at, t] = packed[at, i] + c[at, t]
        for r in range(d):
            for t in range(size):
                step[r, t] = share[t] * e[r, t]
        gaussians(s, step, z, logs, squares, log_scale, kernel, size)
        for t in range(size):
            result[start + t - first] -= 2.0 * (wi + weights[start + t]) * wi * kernel[t]
        for at in range(n_packed):
            for t in range(size):
                s[at, t] = packed[at, start + t] + c[at, t]
        for r in range(d):
            for t in range(size):
                step[r, t] = e[r, t] - step[r, t]
        gaussians(s, step, z, logs, squares, log_scale, kernel, size)
        factor(c, logs, size)
        for t in range(size):
            wj = weights[start + t]
            total = wi + wj
            result[start + t - first] += total * (total * math.exp(-0.5 * logs[t] - half) - 2.0 * wj * kernel[t])


@jit
def _costs(kind, i, first, stop, components, log_scale, result):
    if kind == SALMOND:
        _salmond_costs(i, first, stop, components, result)
    elif kind == RUNNALLS:
        _runnalls_costs(i, first, stop, components, result)
    else:
        ise_row(i, first, stop, components, log_scale, result)


@jit
def _insert(partner, value, time, lists, i):
    """Insert a partner into row i's sorted list, ties by the lower index; what drops out lowers the row's limit."""
    partners, times, costs, limits, _ = lists
    last = costs.shape[1] - 1
    if costs[i, last] <= value:
        limits[i] = min(limits[i], value)
        return
    limits[i] = min(limits[i], costs[i, last])
    at = last
    while at > 0 and (value < costs[i, at - 1] or (value == costs[i, at - 1] and partner < partners[i, at - 1])):
        costs[i, at], partners[i, at], times[i, at] = costs[i, at - 1], partners[i, at - 1], times[i, at - 1]
        at -= 1
    costs[i, at], partners[i, at], times[i, at] = value, partner, time


@jit
def _list(i, n, alive, values, time, lists):
    """List the cheapest later partners of component i, given the costs of all."""
    _, _, costs, limits, bounds = lists
    for k in range(costs.shape[1]):
        costs[i, k] = np.inf
    limits[i] = np.inf
    last = costs.shape[1] - 1
    for j in range(i + 1, n):
        if alive[j]:
            if values[j] < costs[i, last]:
                _insert(j, values[j], time, lists, i)
            else:
                limits[i] = min(limits[i], values[j])
    bounds[i] = costs[i, 0]


@jit
def _search(kind, i, first, n, time, components, log_scale, lists, alive, row):
    """Compute component i's costs from ``first`` on, and list its partners; with first = 0 also update rows above."""
    _, _, _, limits, bounds = lists
    _costs(kind, i, first, n, components, log_scale, row[first:n])
    if first == 0:
        for k in range(i):
            if alive[k] and row[k] < limits[k]:
                _insert(i, row[k], time, lists, k)
                bounds[k] = min(bounds[k], row[k])
    _list(i, n, alive, row, time, lists)


@jit
def _clean(i, alive, changed, lists):
    """Drop the entries of row i whose partner is gone or has changed; return how many remain."""
    partners, times, costs, _, _ = lists
    count = 0
    for k in range(costs.shape[1]):
        j = partners[i, k]
        if costs[i, k] < np.inf and alive[j] and changed[j] <= times[i, k]:
            costs[i, count], partners[i, count], times[i, count] = costs[i, k], j, times[i, k]
            count += 1
    for k in range(count, costs.shape[1]):
        costs[i, k] = np.inf
    return count


@jit
def _cheapest_row(n, listed, alive, changed, lists):
    """Return the row with the lowest bound, and whether its first entry is the cheapest pair or must be searched."""
    _, _, costs, limits, bounds = lists
    while True:
        i = int(np.argmin(bounds[:n]))
        count = _clean(i, alive, changed, lists)
        if costs[i, 0] < limits[i] or (i == listed and count > 0):
            if costs[i, 0] <= bounds[i]:
                return i, True
            bounds[i] = costs[i, 0]
        elif limits[i] > bounds[i]:
            bounds[i] = limits[i]
        else:
            return i, False


@jit
def _merge_into(i, j, kind, components, log_scale):
    """Replace component i by its merge with j."""
    weights, means, packed, own = components
    d = means.shape[0]
    q = weights[j] / (weights[i] + weights[j])
    single, log_determinant = np.empty((packed.shape[0], BLOCK)), np.empty(BLOCK)
    at = 0
    for r in range(d):
        step = means[r, j] - means[r, i]
        for c in range(r + 1):
            spread = q * step * (means[c, j] - means[c, i])
            packed[at, i] = (1.0 - q) * (packed[at, i] + spread) + q * packed[at, j]
            single[at, 0] = packed[at, i]
            at += 1
    for r in range(d):
        means[r, i] += q * (means[r, j] - means[r, i])
    weights[i] += weights[j]
    factor(single, log_determinant, np.int64(1))
    if kind == RUNNALLS:
        own[i] = log_determinant[0]
    elif kind == SQUARED_CHANGE:
        own[i] = math.exp(-0.5 * (d * math.log(4.0 * math.pi) + log_determinant[0]) - log_scale)


@jit
def _compact(i, n, components, lists, marks):
    """Move the living among the first n components to the front; return component i's new place."""
    weights, means, packed, own = components
    partners, times, costs, limits, bounds = lists
    names, changed, alive = marks
    place = np.cumsum(alive[:n]) - 1
    for k in range(n):
        if not alive[k]:
            continue
        at = place[k]
        names[at], changed[at], limits[at], bounds[at] = names[k], changed[k], limits[k], bounds[k]
        weights[at], own[at] = weights[k], own[k]
        for r in range(means.shape[0]):
            means[r, at] = means[r, k]
        for r in range(packed.shape[0]):
            packed[r, at] = packed[r, k]
        count = 0
        for t in range(costs.shape[1]):
            if costs[k, t] < np.inf and alive[partners[k, t]]:
                partners[at, count], times[at, count] = place[partners[k, t]], times[k, t]
                costs[at, count] = costs[k, t]
                count += 1
        for t in range(count, costs.shape[1]):
            costs[at, t] = np.inf
    for k in range(place[n - 1] + 1):
        alive[k] = True
    return place[i]


@jit
def merge_pairs(kind, n_components, components, log_scale, pairs, values):
    """Merge the cheapest pair until n_components are left; write each pair and its cost. Changes the components.

    Each row lists a few of its cheapest later partners; all others cost at least the row's limit. An entry whose
    partner has changed is outdated, but the first cost or the limit still bounds the row from below. A row is
    corrected only when its bound is the lowest.
    """
    n = left = components[0].shape[0]
    time = 0
    costs, row = np.empty((n, _KEPT)), np.empty(n)
    partners, times = np.empty((n, _KEPT), dtype=np.int64), np.zeros((n, _KEPT), dtype=np.int64)
    bounds = np.full(n, np.inf)
    lists = partners, times, costs, np.empty(n), bounds
    names, changed, alive = np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.bool_)
    for i in range(n):
        _search(kind, i, i + 1, n, time, components, log_scale, lists, alive, row)
    listed = n - 1  # just searched: its first entry is valid even if it ties with the limit
    while left > n_components:
        i, ready = _cheapest_row(n, listed, alive, changed, lists)
        listed = i
        if not ready:
            _search(kind, i, i + 1, n, time, components, log_scale, lists, alive, row)
            continue
        j = partners[i, 0]
        pairs[time, 0], pairs[time, 1], values[time] = names[i], names[j], costs[i, 0]
        _merge_into(i, j, kind, components, log_scale)
        time += 1
        left -= 1
        changed[i] = time
        alive[j], bounds[j] = False, np.inf
        if left < 0.7 * n:
            i = listed = _compact(i, n, components, lists, (names, changed, alive))
            n = left
        _search(kind, i, np.int64(0), n, time, components, log_scale, lists, alive, row)
