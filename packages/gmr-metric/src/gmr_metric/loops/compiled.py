"""The inner loops compiled by numba, with the functions of `vectorised` that have to be as fast as possible.

Import this module through :func:`gmr_metric.loops.choice.implementation`. Only sums of kernels are compiled: with
explicit types, in one function that takes full covariances. All else is `vectorised`, and so is what has another type.
"""

from __future__ import annotations

import math

import numpy as np

from gmr_metric.loops import numba_kernels, vectorised
from gmr_metric.loops.columns import Bounded, Columns

_LEAST = 1e-200  # a smaller sum of kernels is computed again by logarithms
_CHUNKS = 16  # of a mixture with itself: all but a sixteenth of the terms are computed once


def overlaps(g: Columns, f: Columns, log_scale: float) -> np.ndarray:
    """As `vectorised.overlaps`."""
    d = len(f.means)
    if len(f.packed) != d * (d + 1) // 2:
        return vectorised.overlaps(g, f, log_scale)
    result = np.zeros(g.means.shape[1])
    swap = len(result) >= len(f.weights)
    inner, outer = (g, f) if swap else (f, g)
    arrays = (outer.means, outer.packed, inner.means, inner.packed, f.weights)
    numba_kernels.overlaps(*map(np.ascontiguousarray, arrays), log_scale, swap, result)
    return result


def log_inner(f: Bounded, g: Bounded, same: bool) -> float:
    """As `vectorised.log_inner`; terms below exp(-700) of the largest possible one are left out."""
    first, second = (Columns(np.exp(m.weights - m.weights.max()), m.means, m.packed) for m in (f, g))
    log_scale = float((f.reach - f.weights).max() + (g.reach - g.weights).max())
    n, total = len(f.weights), 0.0
    step = -(-n // _CHUNKS) if same else n
    for start in range(0, n, step):
        chunk = first.take(np.arange(start, min(n, start + step)))
        if same:
            total += float(chunk.weights @ overlaps(chunk, chunk, log_scale))
            rest = second.take(np.arange(start + step, n))
            if start + step < n:
                total += 2 * float(chunk.weights @ overlaps(chunk, rest, log_scale))
        else:
            total += float(second.weights @ overlaps(second, chunk, log_scale))
    if not total > _LEAST:
        return vectorised.log_inner(f, g, same)
    return math.log(total) + log_scale + float(f.weights.max() + g.weights.max())
