"""Gaussian kernels of many components at a time, compiled by numba.

Components are columns: packed lower triangles (T, n) with T = d (d + 1) / 2, offsets (d, n). A block of columns goes
through each step of a factorisation together, so that the compiler uses vector instructions for any d.

numba's cache on disk notices changes of the file of a function, not of the functions it calls in other files: after a
change here, delete the cache (``__pycache__/*.nbi``). The tests use a cache of their own for every version.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False
# numba infers the types of these functions; `compiled` and `vectorised` state them.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BLOCK = 128  # columns per step: their factors fit into the first-level cache
LOG_2PI = math.log(2 * math.pi)
PIVOTS = 4  # pivots multiplied before a logarithm is taken


# "contract" fuses a multiplication and an addition, which rounds once; nothing is reordered.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "fastmath": {"contract"}}


def jit(function: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
    """Compile, and cache the result on disk if a folder is writable."""
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(signature, cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no writable folder: compiled anew in each process
        compiled = numba.njit(signature, **_OPTIONS)(function)
    return compiled


def typed(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for these types at once."""
    return lambda function: jit(function, signature)


@jit
def workspace(d, n_packed):
    """Return buffers for one block: offsets e, L^-1 e, packed sums, log determinants, squares and kernels."""
    e, z, s = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((n_packed, BLOCK))
    return e, z, s, np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)


@jit
def decompose(a, size):
    """Factor packed matrices S = L D L^T in place; the inverses of D replace L's unit diagonal.

    Unlike a Cholesky factor, this takes no square root per row, the slowest instruction.
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


@jit
def factor(a, log_determinants, size):
    """Decompose packed matrices in place, and write their log determinants."""
    decompose(a, size)
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
        if r % PIVOTS == 0 or at >= a.shape[0]:  # a longer product may leave the range of floats
            for t in range(size):
                log_determinants[t] -= math.log(product[t])
                product[t] = 1.0


@jit
def quadratic(a, e, z, result, size):
    """Write e^T S^-1 e from the decomposition of S, and L^-1 e to z."""
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


@jit
def exponentiate(values, scratch, size):
    """Replace values, at most 700, by their exponentials, 0 below -700; accurate to two units in the last place.

    A library call per value would prevent vector instructions. Here e^x = 2^k e^r with |r| < 0.35: a Taylor polynomial
    for e^r, and k shifted into the exponent's bits.
    """
    bits = scratch.view(np.int64)
    for t in range(size):
        x = max(values[t], -700.0)
        shifted = x * 1.4426950408889634 + 6755399441055744.0  # 1.5 * 2^52 moves k to the lowest bits
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


@jit
def gaussians(a, e, z, logs, scratch, log_scale, result, size):
    """Write N(e; 0, S) / scale, for a scale that no kernel exceeds; the decomposition overwrites the packed S in a."""
    d = e.shape[0]
    if d > 12:  # the product of so many pivots may leave the range of floats
        factor(a, logs, size)
        quadratic(a, e, z, result, size)
        constant = d * LOG_2PI + 2.0 * log_scale
        for t in range(size):
            result[t] = -0.5 * (result[t] + logs[t] + constant)
        exponentiate(result, scratch, size)
        return
    decompose(a, size)
    quadratic(a, e, z, result, size)
    for t in range(size):
        result[t] *= -0.5
    exponentiate(result, scratch, size)
    step = math.exp(-LOG_2PI - 2.0 * log_scale / d)
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


@typed("void(f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1], f8[::1], f8, b1, f8[::1])")
def overlaps(outer_means, outer_packed, means, packed, weights, log_scale, by_inner, result):
    """Add weighted kernels of all outer with all inner components over the scale: by inner or by outer component.

    The weights are those of the other side. The inner components, preferably the more numerous, go in blocks.
    """
    d, n_packed, n = means.shape[0], packed.shape[0], means.shape[1]
    e, z, s, logs, squares, kernel = workspace(d, n_packed)
    for j in range(outer_means.shape[1]):
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            for r in range(d):
                for t in range(size):
                    e[r, t] = means[r, start + t] - outer_means[r, j]
            for at in range(n_packed):
                for t in range(size):
                    s[at, t] = packed[at, start + t] + outer_packed[at, j]
            gaussians(s, e, z, logs, squares, log_scale, kernel, size)
            if by_inner:
                for t in range(size):
                    result[start + t] += weights[j] * kernel[t]
            else:
                for t in range(size):
                    result[j] += weights[start + t] * kernel[t]
