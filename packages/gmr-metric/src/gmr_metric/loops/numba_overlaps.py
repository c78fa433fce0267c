"""Inner products with components and with merged pairs, compiled by numba.

Mixtures are tuples of weights (n,), means (d, n) and packed covariances (T, n); *bounded* ones also hold reach (n,) and
radii (n,), see :class:`gmr_metric.loops.columns.Bounded`.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False
# numba infers the types of these functions; `compiled` and `vectorised` state them.

from __future__ import annotations

import math

import numpy as np

from gmr_metric.loops.numba_kernels import BLOCK, LOG_2PI, factor, gaussians, jit, quadratic, workspace
from gmr_metric.loops.numba_merging import merged_block


@jit
def pair_overlaps(i, first, stop, g, f, log_scale, result):
    """Write <f, g_ij> over the scale for g's component i merged with each j of first..stop."""
    (weights, means, packed), (f_weights, f_means, f_packed) = g, f
    d, n_packed, n = means.shape[0], packed.shape[0], f_weights.shape[0]
    e, z, s, logs, squares, kernel = workspace(d, n_packed)
    mean, c = np.empty(d), np.empty(n_packed)
    for j in range(first, stop):
        q = weights[j] / (weights[i] + weights[j])
        at = 0
        for r in range(d):
            step = means[r, j] - means[r, i]
            mean[r] = means[r, i] + q * step
            for k in range(r + 1):
                c[at] = (1.0 - q) * (packed[at, i] + q * step * (means[k, j] - means[k, i])) + q * packed[at, j]
                at += 1
        total = 0.0
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            for r in range(d):
                for t in range(size):
                    e[r, t] = f_means[r, start + t] - mean[r]
            for at in range(n_packed):
                for t in range(size):
                    s[at, t] = f_packed[at, start + t] + c[at]
            gaussians(s, e, z, logs, squares, log_scale, kernel, size)
            for t in range(size):
                total += f_weights[start + t] * kernel[t]
        result[j - first] = total


@jit
def add_overlaps(g, h, log_scale, table):
    """Add <h, g_ij> to the table's upper triangle, for a few signed components h and every merged pair of g."""
    (weights, means, packed), (h_weights, h_means, h_packed) = g, h
    d, n_packed, n = means.shape[0], packed.shape[0], weights.shape[0]
    step, z, s, logs, squares, kernel = workspace(d, n_packed)
    share, e, c = np.empty(BLOCK), np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    for i in range(n - 1):
        for start in range(i + 1, n, BLOCK):
            size = min(BLOCK, n - start)
            merged_block(i, start, size, weights, means, packed, share, e, c)
            for k in range(h_weights.shape[0]):
                for r in range(d):
                    own = means[r, i] - h_means[r, k]
                    for t in range(size):
                        step[r, t] = own + share[t] * e[r, t]
                for at in range(n_packed):
                    for t in range(size):
                        s[at, t] = c[at, t] + h_packed[at, k]
                gaussians(s, step, z, logs, squares, log_scale, kernel, size)
                for t in range(size):
                    table[i, start + t] += h_weights[k] * kernel[t]


@jit
def cheapest_pair(weights, own_f, own_g, merged_f, merged_g, changes, by_angle):
    """Return the pair i < j with the best merge, and its cost; ties by the lowest indices."""
    a, b = own_f.sum(), own_g.sum()
    first, second, least = 0, 1, np.inf
    for i in range(len(weights) - 1):
        for j in range(i + 1, len(weights)):
            total = weights[i] + weights[j]
            x = (own_f[i] + own_f[j] - total * merged_f[i, j]) / a
            y = (changes[i, j] - 2.0 * (own_g[i] + own_g[j] - total * merged_g[i, j])) / b
            cost = (y + x * (2.0 - x)) / ((1.0 - x) * (1.0 - x)) if by_angle else 2.0 * a * x + b * y
            if cost < least:
                first, second, least = i, j, cost
    return first, second, least


@jit
def _near(k, g, f, stop, threshold, chosen):
    """List the first ``stop`` components of f whose kernel with g's component k has a bound above a threshold."""
    _, means, _, _, radii = g
    _, f_means, _, f_reach, f_radii = f
    count = 0
    d = means.shape[0]
    for i in range(stop):
        square = 0.0
        for r in range(d):
            step = f_means[r, i] - means[r, k]
            square += step * step
        if f_reach[i] - 0.5 * square / (f_radii[i] + radii[k]) > threshold:
            chosen[count] = i
            count += 1
    return count


@jit
def _gather(chosen, size, f, g, j, e, s):
    """Write the offsets and summed covariances of some of f's components and g's component j."""
    (_, f_means, f_packed, _, _), (_, means, packed, _, _) = f, g
    for r in range(means.shape[0]):
        for t in range(size):
            e[r, t] = f_means[r, chosen[t]] - means[r, j]
    for at in range(packed.shape[0]):
        for t in range(size):
            s[at, t] = f_packed[at, chosen[t]] + packed[at, j]


@jit
def log_inner(f, g, same):
    """Return the log inner product of bounded mixtures with log weights; terms below e^-60 of the largest are cut."""
    (f_logs, _, _, _, _), (logs, means, packed, reach, _) = f, g
    d, n = means.shape[0], f_logs.shape[0]
    e, z, s, log_det, squares, _ = workspace(d, packed.shape[0])
    chosen = np.empty(n, dtype=np.int64)
    largest, total = -np.inf, 0.0
    for j in range(logs.shape[0]):
        stop = j + 1 if same else n  # for a mixture with itself the lower half, twice
        count = _near(j, g, f, stop, largest - 60.0 - reach[j], chosen)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            _gather(chosen[start:], size, f, g, j, e, s)
            factor(s, log_det, size)
            quadratic(s, e, z, squares, size)
            top = -np.inf
            for t in range(size):
                i = chosen[start + t]
                squares[t] = logs[j] + f_logs[i] - 0.5 * (squares[t] + log_det[t] + d * LOG_2PI)
                if same and i < j:
                    squares[t] += math.log(2.0)
                top = max(top, squares[t])
            if top > largest:
                total = total * math.exp(largest - top) if total > 0.0 else 0.0
                largest = top
            if largest > -np.inf:
                for t in range(size):
                    total += math.exp(squares[t] - largest)
    return largest + math.log(total) if total > 0.0 else -np.inf
