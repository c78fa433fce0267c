"""The baseline: Runnalls' reduction in straightforward NumPy, with the whole table of costs."""

from __future__ import annotations

import numpy as np


def plain_runnalls(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repeatedly merge the cheapest pair of the table, and recompute its row and the affected minima."""
    w, m, p = weights.copy(), means.copy(), covariances.copy()
    n = len(w)
    log_determinants = np.linalg.slogdet(p)[1]
    table = np.full((n, n), np.inf)

    def row(i: int, others: np.ndarray) -> np.ndarray:
        total = w[i] + w[others]
        a, b = w[i] / total, w[others] / total
        e = m[others] - m[i]
        merged = a[:, None, None] * p[i] + b[:, None, None] * p[others]
        merged += (a * b)[:, None, None] * e[:, :, None] * e[:, None, :]
        grown = np.linalg.slogdet(merged)[1]
        return 0.5 * (total * grown - w[i] * log_determinants[i] - w[others] * log_determinants[others])

    for i in range(n - 1):
        table[i, i + 1 :] = row(i, np.arange(i + 1, n))
    least, where = table.min(axis=1), table.argmin(axis=1)
    alive = np.ones(n, dtype=bool)
    for _ in range(n - n_components):
        i = int(least.argmin())
        j = int(where[i])
        total = w[i] + w[j]
        a, b, e = w[i] / total, w[j] / total, m[j] - m[i]
        p[i] = a * p[i] + b * p[j] + a * b * np.outer(e, e)
        m[i], w[i] = m[i] + b * e, total
        log_determinants[i] = np.linalg.slogdet(p[i])[1]
        alive[j], least[j] = False, np.inf
        table[j], table[:, j] = np.inf, np.inf
        others = np.flatnonzero(alive)
        others = others[others != i]
        costs = row(i, others)
        before = others < i
        table[others[before], i], table[i, others[~before]] = costs[before], costs[~before]
        stale = np.flatnonzero(alive & ((where == i) | (where == j) | (table[:, i] < least)))
        stale = np.union1d(stale, [i])
        least[stale], where[stale] = table[stale].min(axis=1), table[stale].argmin(axis=1)
    return w[alive], m[alive], p[alive]
