"""The inner loops of the reductions, compiled by numba: `vectorised` has the same functions for NumPy alone.

Components lie in columns: weights (n,), means (d, n), covariances as packed lower triangles (T, n) with
T = d (d + 1) / 2. A block of columns goes through each step of a factorisation together, so that the
compiler turns the steps into vector instructions whatever d is. Import this module through `kernels`.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False
# numba infers the types of these functions, and `vectorised` states them.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BLOCK = 128  # columns that go through a step together: their factors stay in the first cache
SALMOND, RUNNALLS, SQUARED_CHANGE = 0, 1, 2  # the kinds of costs
_LOG_2PI = math.log(2 * math.pi)


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with the machine's vector units, keeping the result on disk where some folder is writable."""
    # "contract" lets a multiplication and an addition be one instruction, which rounds once; nothing is reordered.
    contract = {"contract"}
    try:
        return numba.njit(cache=True, error_model="numpy", nogil=True, fastmath=contract)(function)
    except RuntimeError:  # nowhere to keep it: compiled anew in each process
        return numba.njit(error_model="numpy", nogil=True, fastmath=contract)(function)


@_jit
def _decompose(a, size):
    """Turn packed matrices S = L D L^T into L, whose diagonal of ones gives its place to the inverses of D.

    A Cholesky factor would take a square root and a division for each row, the slowest instructions there are.
    """
    d = int((math.sqrt(8.0 * a.shape[0] + 1.0) - 1.0) / 2.0)
    for r in range(d):
        row = r * (r + 1) // 2
        pivot = a[row + r]
        for c in range(r):
            entry, column = a[row + c], c * (c + 1) // 2
            for k in range(c):
                u, v = a[row + k], a[column + k]
                for t in range(size):
                    entry[t] -= u[t] * v[t]
        for c in range(r):
            entry, inverse = a[row + c], a[c * (c + 1) // 2 + c]
            for t in range(size):
                scaled = entry[t] * inverse[t]
                pivot[t] -= entry[t] * scaled
                entry[t] = scaled
        for t in range(size):
            pivot[t] = 1.0 / pivot[t]


@_jit
def _factor(a, log_determinants, size):
    """Decompose packed matrices, and give their log determinants."""
    _decompose(a, size)
    product = np.ones(BLOCK)
    for t in range(size):
        log_determinants[t] = 0.0
    at, r = 0, 0
    while at < a.shape[0]:
        pivot = a[at]
        for t in range(size):
            product[t] *= pivot[t]
        r += 1
        at += r + 1
        if r % 4 == 0 or at >= a.shape[0]:  # a product of more pivots might leave the range of floats
            for t in range(size):
                log_determinants[t] -= math.log(product[t])
                product[t] = 1.0


@_jit
def _quadratic(a, e, z, result, size):
    """Give e^T S^-1 e from the decomposition of S; z keeps L^-1 e."""
    for t in range(size):
        result[t] = 0.0
    at = 0
    for r in range(e.shape[0]):
        white, offset = z[r], e[r]
        for t in range(size):
            white[t] = offset[t]
        for k in range(r):
            u, v = a[at + k], z[k]
            for t in range(size):
                white[t] -= u[t] * v[t]
        pivot = a[at + r]
        for t in range(size):
            result[t] += white[t] * white[t] * pivot[t]
        at += r + 1


@_jit
def _exponentiate(values, scratch, size):
    """Replace values, none above 700, by their exponentials, 0 below -700; right to two units in the last place.

    A library call for each value would keep the loops around it from becoming vector instructions. Here
    e^x = 2^k e^r with |r| < 0.35: a Taylor polynomial for e^r, and k shifted into the exponent's bits.
    """
    bits = scratch.view(np.int64)
    for t in range(size):
        x = max(values[t], -700.0)
        shifted = x * 1.4426950408889634 + 6755399441055744.0  # 1.5 * 2^52: k stands in the lowest bits
        k = shifted - 6755399441055744.0
        scratch[t] = shifted
        r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10  # ln 2 in two parts
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        values[t] = p if values[t] >= -700.0 else 0.0
    for t in range(size):
        bits[t] = (bits[t] << 52) + 4607182418800017408  # the bits of 1.0
    for t in range(size):
        values[t] *= scratch[t]


@_jit
def _kernels(a, e, z, logs, scratch, log_scale, result, size):
    """Give N(e; 0, S) / scale, a scale no less than it, for packed S in a, which its decomposition overwrites."""
    d = e.shape[0]
    if d > 12:  # the product of so many pivots might leave the range of floats
        _factor(a, logs, size)
        _quadratic(a, e, z, result, size)
        constant = d * _LOG_2PI + 2.0 * log_scale
        for t in range(size):
            result[t] = -0.5 * (result[t] + logs[t] + constant)
        _exponentiate(result, scratch, size)
        return
    _decompose(a, size)
    _quadratic(a, e, z, result, size)
    for t in range(size):
        result[t] *= -0.5
    _exponentiate(result, scratch, size)
    step = math.exp(-_LOG_2PI - 2.0 * log_scale / d)
    for t in range(size):
        scratch[t] = 1.0
    at = -1
    for r in range(d):
        at += r + 1
        pivot = a[at]
        for t in range(size):
            scratch[t] *= step * pivot[t]
    for t in range(size):
        result[t] *= math.sqrt(scratch[t])


@_jit
def _merged(i, start, size, weights, means, packed, share, e, c):
    """Merge component i with a block: the others' share of the weight, their offsets, and packed covariances."""
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


@_jit
def _runnalls_costs(i, first, stop, weights, means, packed, log_determinants, result):
    """Runnalls' bound for merging component i with each of first..stop."""
    d, n_packed = means.shape[0], packed.shape[0]
    share, logs = np.empty(BLOCK), np.empty(BLOCK)
    e, c = np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    for start in range(first, stop, BLOCK):
        size = min(BLOCK, stop - start)
        _merged(i, start, size, weights, means, packed, share, e, c)
        _factor(c, logs, size)
        for t in range(size):
            j = start + t
            own = weights[i] * (logs[t] - log_determinants[i])
            result[j - first] = 0.5 * (own + weights[j] * (logs[t] - log_determinants[j]))


@_jit
def ise_row(i, first, stop, weights, means, packed, self_kernels, log_scale, result):
    """Squared norm of the change that merging component i with each of first..stop makes, over the scale."""
    d, n_packed = means.shape[0], packed.shape[0]
    share, logs, squares, kernel = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    e, step, z = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((d, BLOCK))
    c, s = np.empty((n_packed, BLOCK)), np.empty((n_packed, BLOCK))
    half = 0.5 * d * math.log(4.0 * math.pi) + log_scale
    wi = weights[i]
    for start in range(first, stop, BLOCK):
        size = min(BLOCK, stop - start)
        _merged(i, start, size, weights, means, packed, share, e, c)
        for at in range(n_packed):
            for t in range(size):
                s[at, t] = packed[at, i] + packed[at, start + t]
        _kernels(s, e, z, logs, squares, log_scale, kernel, size)
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
        _kernels(s, step, z, logs, squares, log_scale, kernel, size)
        for t in range(size):
            result[start + t - first] -= 2.0 * (wi + weights[start + t]) * wi * kernel[t]
        for at in range(n_packed):
            for t in range(size):
                s[at, t] = packed[at, start + t] + c[at, t]
        for r in range(d):
            for t in range(size):
                step[r, t] = e[r, t] - step[r, t]
        _kernels(s, step, z, logs, squares, log_scale, kernel, size)
        _factor(c, logs, size)
        for t in range(size):
            wj = weights[start + t]
            total = wi + wj
            result[start + t - first] += total * (total * math.exp(-0.5 * logs[t] - half) - 2.0 * wj * kernel[t])


@_jit
def _salmond_costs(i, first, stop, weights, means, result):
    """Weighted squared distance between the mean of component i and those of first..stop."""
    for j in range(first, stop):
        result[j - first] = 0.0
    for r in range(means.shape[0]):
        for j in range(first, stop):
            step = means[r, j] - means[r, i]
            result[j - first] += step * step
    for j in range(first, stop):
        result[j - first] *= weights[i] * weights[j] / (weights[i] + weights[j])


@_jit
def _costs(kind, i, first, stop, weights, means, packed, own, log_scale, result):
    if kind == SALMOND:
        _salmond_costs(i, first, stop, weights, means, result)
    elif kind == RUNNALLS:
        _runnalls_costs(i, first, stop, weights, means, packed, own, result)
    else:
        ise_row(i, first, stop, weights, means, packed, own, log_scale, result)


@_jit
def _insert(partner, value, time, partners, costs, times, limits, i):
    """Put a partner into row i's sorted list, ties by the lower index; what falls out lowers the row's limit."""
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


@_jit
def _list(i, n, alive, values, time, partners, costs, times, limits):
    """List the cheapest later partners of component i, from the costs of all."""
    for k in range(costs.shape[1]):
        costs[i, k] = np.inf
    limits[i] = np.inf
    last = costs.shape[1] - 1
    for j in range(i + 1, n):
        if alive[j]:
            if values[j] < costs[i, last]:
                _insert(j, values[j], time, partners, costs, times, limits, i)
            else:
                limits[i] = min(limits[i], values[j])


@_jit
def _merge_into(i, j, kind, weights, means, packed, own, log_scale):
    """Put the merge of components i and j in the place of i."""
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
    _factor(single, log_determinant, 1)
    if kind == RUNNALLS:
        own[i] = log_determinant[0]
    elif kind == SQUARED_CHANGE:
        own[i] = math.exp(-0.5 * (d * math.log(4.0 * math.pi) + log_determinant[0]) - log_scale)


@_jit
def _compact(i, n, alive, names, changed, limits, bounds, weights, own, means, packed, partners, times, costs):
    """Move what is alive of the first n components to the front; give the new place of component i."""
    place = np.empty(n, dtype=np.int64)
    at = 0
    for k in range(n):
        place[k] = at
        if alive[k]:
            at += 1
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
    new = place[i]
    at = 0
    for k in range(n):
        if alive[k]:
            at += 1
    for k in range(at):
        alive[k] = True
    return new


@_jit
def _clean(i, alive, changed, partners, costs, times):
    """Drop the entries of row i whose partner has gone or changed since; give how many are left."""
    count = 0
    for k in range(costs.shape[1]):
        j = partners[i, k]
        if costs[i, k] < np.inf and alive[j] and changed[j] <= times[i, k]:
            costs[i, count], partners[i, count], times[i, count] = costs[i, k], j, times[i, k]
            count += 1
    for k in range(count, costs.shape[1]):
        costs[i, k] = np.inf
    return count


@_jit
def merge_pairs(kind, n_components, weights, means, packed, own, log_scale, pairs, values):
    """Merge the cheapest pair until so many components are left; write each pair and its cost.

    Every component lists a few of its cheapest later partners; whatever is not on the list costs at least the
    row's limit. An entry whose partner has changed since is wrong, but no higher than what is left, so that a
    row's bound, its first cost or its limit, is a lower one, and a row is put right only when it comes to the
    front. Changes the columns.
    """
    n = left = weights.shape[0]
    kept, time, started = 8, 0, 0
    names, changed, alive = np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.bool_)
    partners, times = np.empty((n, kept), dtype=np.int64), np.zeros((n, kept), dtype=np.int64)
    costs, limits, bounds, row = np.empty((n, kept)), np.empty(n), np.full(n, np.inf), np.empty(n)
    i, first = 0, 1
    while True:  # one row of costs a turn: that of a component's later partners, or all of one just merged
        _costs(kind, i, first, n, weights, means, packed, own, log_scale, row[first:n])
        if first == 0:
            for k in range(i):
                if alive[k] and row[k] < limits[k]:
                    _insert(i, row[k], time, partners, costs, times, limits, k)
                    bounds[k] = min(bounds[k], row[k])
        _list(i, n, alive, row, time, partners, costs, times, limits)
        bounds[i] = costs[i, 0]
        listed = i  # just searched, so that its first entry is right even if it ties with the limit
        started += 1
        if started < n and first > 0:
            i, first = started, started + 1
            continue
        while True:
            if left <= n_components:
                return
            i = int(np.argmin(bounds[:n]))
            count = _clean(i, alive, changed, partners, costs, times)
            if costs[i, 0] < limits[i] or (i == listed and count > 0):
                if costs[i, 0] > bounds[i]:
                    bounds[i] = costs[i, 0]
                    continue
                break
            if limits[i] > bounds[i]:
                bounds[i] = limits[i]
                continue
            count = -1
            break
        if count < 0:
            first = i + 1
            continue
        j = partners[i, 0]
        pairs[time, 0], pairs[time, 1], values[time] = names[i], names[j], costs[i, 0]
        _merge_into(i, j, kind, weights, means, packed, own, log_scale)
        time += 1
        left -= 1
        changed[i] = time
        alive[j], bounds[j] = False, np.inf
        if left < 0.7 * n:
            i = _compact(
                i, n, alive, names, changed, limits, bounds, weights, own, means, packed, partners, times, costs
            )
            n = left
        first = 0


@_jit
def pair_overlaps(i, first, stop, weights, means, packed, f_weights, f_means, f_packed, log_scale, result):
    """Inner product of a mixture f with component i merged with each of first..stop, over the scale."""
    d, n_packed, n = means.shape[0], packed.shape[0], f_weights.shape[0]
    e, z, s = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    logs, squares, kernel = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
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
            _kernels(s, e, z, logs, squares, log_scale, kernel, size)
            for t in range(size):
                total += f_weights[start + t] * kernel[t]
        result[j - first] = total


@_jit
def add_overlaps(weights, means, packed, h_weights, h_means, h_packed, log_scale, table):
    """Add to the upper triangle the inner products of a few signed components h with the merge of each pair."""
    d, n_packed, n = means.shape[0], packed.shape[0], weights.shape[0]
    share, logs, squares, kernel = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    e, step, z = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((d, BLOCK))
    c, s = np.empty((n_packed, BLOCK)), np.empty((n_packed, BLOCK))
    for i in range(n - 1):
        for start in range(i + 1, n, BLOCK):
            size = min(BLOCK, n - start)
            _merged(i, start, size, weights, means, packed, share, e, c)
            for h in range(h_weights.shape[0]):
                for r in range(d):
                    own = means[r, i] - h_means[r, h]
                    for t in range(size):
                        step[r, t] = own + share[t] * e[r, t]
                for at in range(n_packed):
                    for t in range(size):
                        s[at, t] = c[at, t] + h_packed[at, h]
                _kernels(s, step, z, logs, squares, log_scale, kernel, size)
                for t in range(size):
                    table[i, start + t] += h_weights[h] * kernel[t]


@_jit
def cheapest_pair(weights, own_f, own_g, merged_f, merged_g, changes, by_angle):
    """Give the pair i < j whose merge is best, and its cost, ties by the lowest indices."""
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


@_jit
def _near(k, radii, means, f_radii, f_means, f_reach, threshold, chosen):
    """List the components of f that component l can reach: an upper bound of their kernel against a threshold."""
    count = 0
    d = means.shape[0]
    for i in range(f_reach.shape[0]):
        square = 0.0
        for r in range(d):
            step = f_means[r, i] - means[r, k]
            square += step * step
        if f_reach[i] - 0.5 * square / (f_radii[i] + radii[k]) > threshold:
            chosen[count] = i
            count += 1
    return count


@_jit
def log_inner(f_logs, f_means, f_packed, f_reach, f_radii, logs, means, packed, reach, radii, same):
    """Log inner product of two mixtures; terms below exp(-60) of the largest so far may be left out.

    Reach is a component's log weight plus half the log of its inner product with itself, radius the largest
    eigenvalue of its covariance: together they bound every kernel from above (Cauchy and Schwarz).
    """
    d, n_packed, n = means.shape[0], packed.shape[0], f_logs.shape[0]
    e, z, s = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    log_det, squares = np.empty(BLOCK), np.empty(BLOCK)
    chosen = np.empty(n, dtype=np.int64)
    largest, total = -np.inf, 0.0
    for j in range(logs.shape[0]):
        stop = j + 1 if same else n  # of a mixture with itself the lower half, twice
        limit = largest - 60.0 - reach[j]
        count = _near(j, radii, means, f_radii[:stop], f_means[:, :stop], f_reach[:stop], limit, chosen)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            for r in range(d):
                for t in range(size):
                    e[r, t] = f_means[r, chosen[start + t]] - means[r, j]
            for at in range(n_packed):
                for t in range(size):
                    s[at, t] = f_packed[at, chosen[start + t]] + packed[at, j]
            _factor(s, log_det, size)
            _quadratic(s, e, z, squares, size)
            top = -np.inf
            for t in range(size):
                i = chosen[start + t]
                squares[t] = logs[j] + f_logs[i] - 0.5 * (squares[t] + log_det[t] + d * _LOG_2PI)
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


@_jit
def overlap_gradients(
    f_weights,
    f_means,
    f_packed,
    f_reach,
    f_radii,
    means,
    packed,
    reach,
    radii,
    log_scale,
    cut,
    values,
    mean_gradients,
    packed_gradients,
):
    """Give <f, g_l> over the scale for each component g_l, with derivatives in its mean and packed covariance.

    The derivative in a packed entry off the diagonal is that of one of the two equal entries. Kernels whose
    bound lies below the cut are left out.
    """
    d, n_packed, n = means.shape[0], packed.shape[0], f_weights.shape[0]
    e, z, v = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((d, BLOCK))
    s, x = np.empty((n_packed, BLOCK)), np.empty((n_packed, BLOCK))
    logs, squares, kernel = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    chosen = np.empty(n, dtype=np.int64)
    for j in range(means.shape[1]):
        values[j] = 0.0
        mean_gradients[:, j] = 0.0
        packed_gradients[:, j] = 0.0
        count = _near(j, radii, means, f_radii, f_means, f_reach, cut - reach[j], chosen)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            for r in range(d):
                for t in range(size):
                    e[r, t] = f_means[r, chosen[start + t]] - means[r, j]
            for at in range(n_packed):
                for t in range(size):
                    s[at, t] = f_packed[at, chosen[start + t]] + packed[at, j]
            _kernels(s, e, z, logs, squares, log_scale, kernel, size)
            for t in range(size):
                kernel[t] *= f_weights[chosen[start + t]]
                values[j] += kernel[t]
            # v = S^-1 e by back substitution
            for r in range(d - 1, -1, -1):
                pivot = s[r * (r + 1) // 2 + r]
                for t in range(size):
                    v[r, t] = z[r, t] * pivot[t]
                    z[r, t] = kernel[t] * pivot[t]  # for the inverse of S below
                for k in range(r + 1, d):
                    low = k * (k + 1) // 2 + r
                    for t in range(size):
                        v[r, t] -= s[low, t] * v[k, t]
            # x = L^-1, packed
            for c in range(d):
                for r in range(c, d):
                    at, row = r * (r + 1) // 2 + c, r * (r + 1) // 2
                    for t in range(size):
                        x[at, t] = 1.0 if r == c else 0.0
                    for k in range(c, r):
                        up = k * (k + 1) // 2 + c
                        for t in range(size):
                            x[at, t] -= s[row + k, t] * x[up, t]
            at = 0
            for r in range(d):
                total = 0.0
                for t in range(size):
                    total += kernel[t] * v[r, t]
                mean_gradients[r, j] += total
                for c in range(r + 1):
                    total = 0.0
                    for t in range(size):
                        total += kernel[t] * v[r, t] * v[c, t]
                    for k in range(r, d):  # (S^-1)_rc = sum_k X_kr X_kc / D_k
                        left, right = k * (k + 1) // 2 + r, k * (k + 1) // 2 + c
                        for t in range(size):
                            total -= z[k, t] * x[left, t] * x[right, t]
                    packed_gradients[at, j] += 0.5 * total
                    at += 1
