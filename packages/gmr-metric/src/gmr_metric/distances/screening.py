"""Inner products of large mixtures with diagonal or spherical covariances, in bounded memory.

A kernel over the norms of its two components is at most ``exp(-|e|^2 / (2 r_i + 2 r_j))`` (Cauchy and Schwarz), with e
the offset of the means and r the components' largest variances, and leaving out dimensions of e keeps this a bound. So
one matrix product in single precision bounds all terms of a block of pairs, in as many of the dimensions in which the
means differ most as a sample of pairs needs, and only pairs whose bound is within ``exp(-60)`` of the largest term are
computed. What is left out is below ``N M exp(-60)`` of the inner product: 1e-18 for ten thousand components each. Not
specified in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import LOG_2PI, log_gaussian, log_self_kernels, packed_covariances
from gmr_metric.density.mixture import GaussianMixture

_ROWS = 1024  # components in a block of bounds
_STEP = 32  # dimensions added at a time
_SAMPLE = 2000  # pairs from which the number of dimensions is chosen
_RARE = 2e-3  # a share of pairs that is cheaper to compute than to bound in all dimensions
_NEGLIGIBLE = 60.0  # terms below exp(-60) of the largest may be left out
_LARGEST = 1e10  # scaled means, and 1 / (2 r_i + 2 r_j), are clipped, which keeps the bound, for single precision
_UNIT = 2.0**-24  # relative rounding of single precision
_MANY = 0.05  # a share of pairs from which it is faster to compute all of a block
_BLOCK = 2**17  # floats that a block of offsets may hold


def screened_log_inner(f: GaussianMixture, g: GaussianMixture) -> float:
    """Log inner product of two mixtures with diagonal or spherical covariances."""
    total = _LogSum()
    if len(f) * len(g) * f.dim <= _BLOCK:
        logs = log_gaussian(f.means[:, None] - g.means, f.covariances[:, None] + g.covariances)
        total.add(logs + log_of(f.weights)[:, None] + log_of(g.weights))
        return total.value
    a, b, dims = _sides(f, g)
    if g is f:  # the diagonal; the other pairs count twice
        total.add(2 * a.reach)
    x = a.sorted_means(dims)
    y = x if g is f else b.sorted_means(dims)
    for rows in _blocks(len(f)):
        for columns in _blocks(len(g)):
            if g is f and columns.start < rows.start:
                continue
            bounds = _bounds(a, b, rows, columns, x[rows], y[columns])
            if g is f and columns == rows:
                bounds[np.tri(len(bounds), dtype=np.bool_)] = -np.inf
            _add(total, a, b, bounds, a.order[rows], b.order[columns])
    return total.value


class _LogSum:
    """The log of a running sum of exponentials."""

    def __init__(self) -> None:
        self.largest, self._sum = -math.inf, 0.0

    def add(self, terms: np.ndarray) -> None:
        top = max(self.largest, float(terms.max()))
        if top > -math.inf:
            self._sum = self._sum * math.exp(self.largest - top) + float(np.exp(terms - top).sum())
            self.largest = top

    @property
    def value(self) -> float:
        return self.largest + math.log(self._sum) if self._sum > 0 else -math.inf


class _Side:
    """One mixture's part of the bounds, in units that make f's mean variance one in each dimension.

    ``reach`` (N,) is the log weight plus half the log of the inner product with itself, ``radii`` (N,) the largest
    variance; ``order`` sorts by the latter, so that the components of a block have similar ones.
    """

    def __init__(self, mixture: GaussianMixture, shift: np.ndarray, squares: np.ndarray) -> None:
        self.mixture, self.shift, self.scale = mixture, shift, np.sqrt(squares)
        logs, self.radii = np.empty(len(mixture)), np.empty(len(mixture))
        for rows in _blocks(len(mixture)):
            variances = mixture.covariances[rows].reshape(len(logs[rows]), -1)
            logs[rows] = np.log(variances).sum(axis=1) * (mixture.dim // variances.shape[1])
            self.radii[rows] = (variances / squares).max(axis=1)
        self.reach = log_of(mixture.weights) + 0.5 * log_self_kernels(logs, mixture.dim)
        self.order = np.argsort(self.radii, kind="stable")

    def scaled(self, rows: np.ndarray | slice, dims: np.ndarray) -> np.ndarray:
        """Return scaled means, (n, len(dims))."""
        offsets: np.ndarray = (self.mixture.means[rows][:, dims] - self.shift[dims]) / self.scale[dims]
        return offsets.clip(-_LARGEST, _LARGEST, out=offsets)

    def sorted_means(self, dims: np.ndarray) -> np.ndarray:
        """Return scaled means in single precision, in the order of the radii."""
        result = np.empty((len(self.order), len(dims)), dtype=np.float32)
        for rows in _blocks(len(result)):
            result[rows] = self.scaled(self.order[rows], dims)
        return result


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _ROWS):
        yield slice(start, min(n, start + _ROWS))


def _sides(f: GaussianMixture, g: GaussianMixture) -> tuple[_Side, _Side, np.ndarray]:
    """Return both sides, and the dimensions in which bounds are computed."""
    squares = np.broadcast_to(f.covariances.reshape(len(f), -1).mean(axis=0), f.means.shape[1:])
    a = _Side(f, f.mean(), squares)
    b = a if g is f else _Side(g, f.mean(), squares)
    spread = np.maximum(*(np.ptp(mixture.means, axis=0) for mixture in (f, g))) / np.sqrt(squares)
    dims = np.argsort(-spread, kind="stable")
    draw = np.random.default_rng(0)
    i, j = draw.integers(len(f), size=_SAMPLE), draw.integers(len(g), size=_SAMPLE)
    i, j = i[i != j] if g is f else i, j[i != j] if g is f else j
    if not len(i):
        return a, b, dims
    quadratic = np.zeros(len(i))
    reach = a.reach[i] + b.reach[j]
    for k in range(0, len(dims), _STEP):
        offsets = a.scaled(i, dims[k : k + _STEP]) - b.scaled(j, dims[k : k + _STEP])
        quadratic += (offsets**2).sum(axis=1)
        bounds = reach - 0.5 * quadratic / (a.radii[i] + b.radii[j])
        if np.count_nonzero(bounds > reach.max() - _NEGLIGIBLE) <= _RARE * len(i):
            return a, b, dims[: k + _STEP]
    return a, b, dims


def _bounds(a: _Side, b: _Side, rows: slice, columns: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return upper bounds of the log terms of a block from scaled means.

    With ``h_i = 1 / (2 r_i + 2 max_j r_j)`` they are ``2 h_i x_i . y_j - h_i |x_i|^2 - h_i |y_j|^2`` plus the reach:
    one product of matrices with three more columns. Squares are reduced, and the sum raised, by the rounding of a
    product in single precision.
    """
    rounding = 2 * (x.shape[1] + 8) * _UNIT
    half = (0.5 / (a.radii[a.order[rows]] + b.radii[b.order[columns]].max())).clip(max=_LARGEST)
    squares, others = ((1 - rounding) * np.einsum("nd,nd->n", z, z, dtype=np.float64) for z in (x, y))
    # A weight of 0 has the log -inf, which does not survive a product with 0.
    reach, other_reach = (side.reach[side.order[k]].clip(-_LARGEST) for side, k in ((a, rows), (b, columns)))
    slack = rounding * sum(np.abs(r[r > -_LARGEST]).max(initial=0.0) for r in (reach, other_reach))
    left = np.empty((len(x), x.shape[1] + 3), dtype=np.float32)
    right = np.empty((len(y), left.shape[1]), dtype=np.float32)
    left[:, :-3] = (2 * half)[:, None] * x
    left[:, -3], left[:, -2], left[:, -1] = slack + reach - half * squares, -half, 1
    right[:, :-3] = y
    right[:, -3], right[:, -2], right[:, -1] = 1, others, other_reach
    return left @ right.T


def _add(total: _LogSum, a: _Side, b: _Side, bounds: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Add the terms of a block of pairs that are not negligible."""
    best = int(bounds.argmax())
    i, j = divmod(best, len(columns))
    if not bounds[i, j] > max(total.largest - _NEGLIGIBLE, -_LARGEST / 2):
        return
    largest = max(total.largest, float(_terms(a, b, rows[[i]], columns[[j]])[0]))
    counting = bounds > largest - _NEGLIGIBLE
    twice = math.log(2) if a is b else 0.0
    if np.count_nonzero(counting) > _MANY * bounds.size:
        total.add(np.where(counting, _all_terms(a, b, rows, columns), -np.inf) + twice)
        return
    first, second = np.nonzero(counting)
    step = max(1, _BLOCK // a.mixture.dim)
    for at in range(0, len(first), step):
        chosen = slice(at, at + step)
        terms = _terms(a, b, rows[first[chosen]], columns[second[chosen]])
        total.add(terms + twice)


def _all_terms(a: _Side, b: _Side, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the log terms of all pairs of a block."""
    if len(rows) > len(columns):
        return _all_terms(b, a, columns, rows).T
    terms = np.empty((len(rows), len(columns)))
    # Scaling by powers of two is exact.
    powers = np.exp2(np.round(np.log2(a.scale)))
    x, p = _in_columns(a.mixture, rows, powers)
    step = max(32, _BLOCK // (8 * len(x)))
    for start in range(0, len(columns), step):
        y, q = _in_columns(b.mixture, columns[start : start + step], powers)
        e, s = np.empty_like(y), np.empty_like(q)
        for k in range(len(rows)):
            np.subtract(x[:, k, None], y, out=e)
            np.add(p[:, k, None], q, out=s)
            logs = _log_products(s)
            e *= e
            e /= s
            terms[k, start : start + step] = e.sum(axis=0) + len(x) // len(s) * logs
    terms *= -0.5
    terms -= 0.5 * len(x) * LOG_2PI + np.log(powers).sum()
    terms += log_of(a.mixture.weights[rows])[:, None]
    terms += log_of(b.mixture.weights[columns])
    return terms


def _log_products(s: np.ndarray) -> np.ndarray:
    """Return the sums of logarithms over the first axis, with one logarithm for four numbers where that is safe."""
    whole = len(s) // 4 * 4
    parts = s[:whole].reshape(-1, 4, s.shape[1])
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        logs: np.ndarray = np.log(parts[:, 0] * parts[:, 1] * (parts[:, 2] * parts[:, 3])).sum(axis=0)
    logs += np.log(s[whole:]).sum(axis=0)
    return logs if np.isfinite(logs).all() else np.log(s).sum(axis=0)


def _in_columns(mixture: GaussianMixture, rows: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled means (d, n) and variances (T, n) of some components."""
    packed = packed_covariances(mixture.covariances[rows])
    packed /= scale[: len(packed), None] ** 2
    return np.array((mixture.means[rows] / scale).T, order="C"), packed


def _terms(a: _Side, b: _Side, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return log terms pair by pair."""
    f, g = a.mixture, b.mixture
    logs = log_gaussian(f.means[i] - g.means[j], f.covariances[i] + g.covariances[j])
    terms: np.ndarray = logs + log_of(f.weights[i]) + log_of(g.weights[j])
    return terms
