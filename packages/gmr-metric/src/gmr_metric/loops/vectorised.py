"""The inner loops of the reductions in NumPy alone: the same functions as in `compiled`, for where numba is absent.

Components lie in columns: weights (n,), means (d, n), covariances as packed lower triangles (T, n) with
T = d (d + 1) / 2. Import this module through `kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

_LOG_2PI = math.log(2 * math.pi)
_FEW = 12  # dimensions up to which a factorisation in array operations beats one call per matrix


def _block(d: int) -> int:
    """Return how many kernels to compute at a time: few enough that their matrices stay in the cache, or in memory."""
    return max(1, min(2**12, 2**20 // d**2))


def _factor(packed: np.ndarray, d: int) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return the Cholesky factors of packed matrices, row by row with inverted diagonals, and log determinants."""
    rows: list[list[np.ndarray]] = []
    log_determinant = np.zeros(packed.shape[1:])
    at = 0
    for r in range(d):
        row: list[np.ndarray] = []
        for c in range(r + 1):
            entry = packed[at]
            for k in range(c):
                entry = entry - row[k] * (rows[c][k] if c < r else row[k])
            if c < r:
                row.append(entry * rows[c][c])
            else:
                log_determinant += np.log(entry)
                row.append(1 / np.sqrt(entry))
            at += 1
        rows.append(row)
    return rows, log_determinant


def _log_determinants(packed: np.ndarray, d: int) -> np.ndarray:
    """Return the log determinants of packed matrices (T, ...)."""
    if d <= _FEW:
        return _factor(packed, d)[1]
    return np.asarray(np.linalg.slogdet(full(packed, d))[1])


def log_kernels(offsets: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Return log N(e; 0, S) for offsets (d, ...) and packed covariances (T, ...)."""
    d = len(offsets)
    if d > _FEW:
        factor = np.linalg.cholesky(full(packed, d))
        column = np.moveaxis(offsets, 0, -1)[..., None]
        squared = (np.linalg.solve(factor, np.broadcast_to(column, (*factor.shape[:-1], 1))) ** 2).sum(axis=(-2, -1))
        log_determinant = 2 * np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
        return np.asarray(-0.5 * (squared + log_determinant + d * _LOG_2PI))
    rows, log_determinant = _factor(packed, d)
    white: list[np.ndarray] = []
    squared = np.zeros(np.broadcast_shapes(offsets.shape[1:], packed.shape[1:]))
    for r, row in enumerate(rows):
        entry = offsets[r]
        for k in range(r):
            entry = entry - row[k] * white[k]
        white.append(entry * row[r])
        squared += white[r] ** 2
    return np.asarray(-0.5 * (squared + log_determinant + d * _LOG_2PI))


def full(packed: np.ndarray, d: int) -> np.ndarray:
    """Return symmetric matrices (..., d, d) from packed ones (T, ...)."""
    rows, columns = lower(d)
    matrices = np.empty((*packed.shape[1:], d, d))
    matrices[..., rows, columns] = matrices[..., columns, rows] = np.moveaxis(packed, 0, -1)
    return matrices


@lru_cache(maxsize=64)
def lower(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the packed entries of a d x d matrix."""
    indices = np.tril_indices(d)
    for part in indices:
        part.setflags(write=False)
    return indices


def _merged(
    i: np.ndarray, j: np.ndarray, weights: np.ndarray, means: np.ndarray, packed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge components i with components j: the latter's share of the weight, offsets and packed covariances."""
    share = weights[j] / (weights[i] + weights[j])
    rest = 1 - share
    e = means[:, j] - means[:, i]
    weighted = share * rest * e
    merged = packed[:, j]
    merged *= share
    for at, (r, c) in enumerate(zip(*lower(len(means)), strict=True)):  # row by row, which stays in the cache
        merged[at] += rest * packed[at, i]
        merged[at] += weighted[r] * e[c]
    return share, e, merged


def runnalls_costs(
    i: np.ndarray,
    j: np.ndarray,
    weights: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    log_determinants: np.ndarray,
) -> np.ndarray:
    """Runnalls' bound for merging components i with components j, pair by pair."""
    costs = np.empty(len(j))
    for chosen, first, second in _pair_blocks(len(means), i, j):
        _, _, c = _merged(first, second, weights, means, packed)
        logs = _log_determinants(c, len(means))
        own = weights[first] * (logs - log_determinants[first])
        costs[chosen] = 0.5 * (own + weights[second] * (logs - log_determinants[second]))
    return costs


def ise_costs(
    i: np.ndarray,
    j: np.ndarray,
    weights: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    self_kernels: np.ndarray,
    log_scale: float,
) -> np.ndarray:
    """Squared norm of the change that merging components i with components j makes, pair by pair, over the scale."""
    costs = np.empty(len(j))
    for chosen, first, second in _pair_blocks(len(means), i, j):
        v, w = weights[first], weights[second]
        share, e, c = _merged(first, second, weights, means, packed)
        across = np.exp(log_kernels(e, packed[:, first] + packed[:, second]) - log_scale)
        first_to_merged = np.exp(log_kernels(share * e, packed[:, first] + c) - log_scale)
        second_to_merged = np.exp(log_kernels((1 - share) * e, packed[:, second] + c) - log_scale)
        merged = np.exp(log_kernels(np.zeros_like(e), 2 * c) - log_scale)
        total = v + w
        costs[chosen] = (
            v * v * self_kernels[first]
            + w * w * self_kernels[second]
            + 2 * v * w * across
            + total * (total * merged - 2 * (v * first_to_merged + w * second_to_merged))
        )
    return costs


def ise_row(
    i: int,
    first: int,
    stop: int,
    weights: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    self_kernels: np.ndarray,
    log_scale: float,
    result: np.ndarray,
) -> None:
    """Squared norm of the change that merging component i with each of first..stop makes, over the scale."""
    others = np.arange(first, stop)
    result[:] = ise_costs(np.array([i]), others, weights, means, packed, self_kernels, log_scale)


def _pair_blocks(d: int, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    step = _block(d)
    for start in range(0, len(j), step):
        chosen = slice(start, start + step)
        yield chosen, i if len(i) == 1 else i[chosen], j[chosen]


def overlaps(
    means: np.ndarray,
    packed: np.ndarray,
    f_weights: np.ndarray,
    f_means: np.ndarray,
    f_packed: np.ndarray,
    log_scale: float,
) -> np.ndarray:
    """Inner products of a mixture f with components, over the scale."""
    result = np.empty(means.shape[1])
    step = max(1, _block(len(means)) // len(f_weights))
    for start in range(0, len(result), step):
        chosen = slice(start, start + step)
        logs = log_kernels(f_means[:, None] - means[:, chosen, None], f_packed[:, None] + packed[:, chosen, None])
        result[chosen] = np.exp(logs - log_scale) @ f_weights
    return result


def pair_overlaps(
    i: int,
    first: int,
    stop: int,
    weights: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    f_weights: np.ndarray,
    f_means: np.ndarray,
    f_packed: np.ndarray,
    log_scale: float,
    result: np.ndarray,
) -> None:
    """Inner product of a mixture f with component i merged with each of first..stop, over the scale."""
    step = max(1, _block(len(means)) // len(f_weights))
    for start in range(first, stop, step):
        others = np.arange(start, min(stop, start + step))
        share, e, c = _merged(np.array([i]), others, weights, means, packed)
        offsets = f_means[:, None] - (means[:, i, None] + share * e)[..., None]
        logs = log_kernels(offsets, f_packed[:, None] + c[..., None])
        result[others - first] = np.exp(logs - log_scale) @ f_weights


def add_overlaps(
    weights: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    h_weights: np.ndarray,
    h_means: np.ndarray,
    h_packed: np.ndarray,
    log_scale: float,
    table: np.ndarray,
) -> None:
    """Add to the upper triangle the inner products of a few signed components h with the merge of each pair."""
    for _, i, j in _pair_blocks(len(means), *np.triu_indices(len(weights), 1)):
        share, e, c = _merged(i, j, weights, means, packed)
        for weight, mean, covariance in zip(h_weights, h_means.T, h_packed.T, strict=True):
            offsets = means[:, i] - mean[:, None] + share * e
            table[i, j] += weight * np.exp(log_kernels(offsets, c + covariance[:, None]) - log_scale)


def cheapest_pair(
    weights: np.ndarray,
    own_f: np.ndarray,
    own_g: np.ndarray,
    merged_f: np.ndarray,
    merged_g: np.ndarray,
    changes: np.ndarray,
    by_angle: bool,
) -> tuple[int, int, float]:
    """Return the pair i < j whose merge is best, and its cost: the growth of the angle or of the squared error.

    ``own`` are the components' shares of <f, g> and <g, g>; the tables are those of `oggmr`. The angle's cost is
    1 / cos^2 over that before, less one: it grows with the angle, and keeps small digits.
    """
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


def log_inner(
    f_logs: np.ndarray,
    f_means: np.ndarray,
    f_packed: np.ndarray,
    f_reach: np.ndarray,
    f_radii: np.ndarray,
    logs: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    reach: np.ndarray,
    radii: np.ndarray,
    same: bool,
) -> float:
    """Log inner product of two mixtures. The bounds on what may be left out are not used here."""
    step = max(1, 8 * _block(len(means)) // len(logs))
    largest, total = -math.inf, 0.0
    for start in range(0, len(f_logs), step):
        rows = slice(start, start + step)
        offsets = f_means[:, rows, None] - means[:, None]
        terms = log_kernels(offsets, f_packed[:, rows, None] + packed[:, None]) + f_logs[rows, None] + logs
        top = max(largest, float(terms.max()))
        if top > -math.inf:
            total = total * math.exp(largest - top) + float(np.exp(terms - top).sum())
            largest = top
    return largest + math.log(total) if total > 0 else -math.inf


def overlap_gradients(
    f_weights: np.ndarray,
    f_means: np.ndarray,
    f_packed: np.ndarray,
    f_reach: np.ndarray,
    f_radii: np.ndarray,
    means: np.ndarray,
    packed: np.ndarray,
    reach: np.ndarray,
    radii: np.ndarray,
    log_scale: float,
    cut: float,
    values: np.ndarray,
    mean_gradients: np.ndarray,
    packed_gradients: np.ndarray,
) -> None:
    """Give <f, g_l> over the scale for each component g_l, with derivatives in its mean and packed covariance."""
    d = len(means)
    rows, columns = lower(d)
    step = max(1, _block(len(means)) // len(f_weights))
    for start in range(0, means.shape[1], step):
        chosen = slice(start, start + step)
        offsets = f_means[:, None] - means[:, chosen, None]
        total = f_packed[:, None] + packed[:, chosen, None]
        kernel = f_weights * np.exp(log_kernels(offsets, total) - log_scale)
        inverse = np.linalg.inv(full(total, d))
        v = np.einsum("lnij,jln->iln", inverse, offsets)
        values[chosen] = kernel.sum(axis=1)
        mean_gradients[:, chosen] = np.einsum("ln,iln->il", kernel, v)
        outer = v[rows] * v[columns] - np.moveaxis(inverse[..., rows, columns], -1, 0)
        packed_gradients[:, chosen] = 0.5 * (kernel * outer).sum(axis=2)
