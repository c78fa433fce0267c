"""The difference of two nearly equal mixtures, to full relative precision.

``||f - g||^2`` computed as ``<f, f> - 2 <f, g> + <g, g>`` loses all digits once the mixtures agree to 1e-8. Here each
component of f is paired with the nearest one of g, the difference is the sum of ``h_i = q_i N(b_i) - p_i N(a_i)``, and
every ``<h_i, h_j>`` is computed from the pair's *changes* of weight, mean and covariance alone, without subtracting
large numbers. If one mixture has fewer components, each of them is paired with all those nearest to it, and its weight
is split in proportion to theirs. With diagonal covariances the logs of kernels, and so their changes, are sums over the
dimensions. Not specified in the paper.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.mixture import GaussianMixture

_BLOCK = 2**17  # floats that a block of pair covariances may hold
_MOST = 2**31  # comparisons of numbers, up to which components are paired
_SMALL = 2**18  # numbers up to which all distances of points are computed


class Difference(NamedTuple):
    """The difference h = g - f of two mixtures."""

    log_squared_norm: float  # log <f, f>
    along: float  # <f, h> / <f, f>
    squared: float  # <h, h> / <f, f>
    rounding: float  # the error of ``squared``
    floor: float  # the error of weights that had to be split

    @property
    def sine(self) -> float:
        """The sine of the angle between f and g: the part of h orthogonal to f, over the norm of g."""
        # h integrates to zero and f to one, so h is never parallel to f and this subtraction keeps its digits.
        return math.sqrt(max(0.0, self.squared - self.along**2) / (1 + 2 * self.along + self.squared))

    @property
    def error(self) -> float:
        """An estimate of the rounding error of the sine, from above."""
        square = self.rounding / (1 + 2 * self.along + self.squared)
        return self.floor + (square / max(self.sine, math.sqrt(square)) if square else 0.0)

    @property
    def ise(self) -> float:
        """The squared norm of f - g."""
        return math.exp(self.log_squared_norm + math.log(self.squared)) if self.squared > 0 else 0.0


class _Pairs(NamedTuple):
    """Components a and b with weights, means (n, d) and matrices (n, d, d), or (n, d, 1, 1) of diagonal covariances."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    change: np.ndarray  # of the log weight
    mean_change: np.ndarray
    covariance_change: np.ndarray


def difference(f: GaussianMixture, g: GaussianMixture) -> Difference | None:
    """Compare two nearly equal mixtures; None if the components of one cannot all be paired with the other's."""
    pairs = _paired(_distinct(f), _distinct(g))
    if pairs is None:
        return None
    sums, largest = np.zeros(4), -math.inf
    step = max(1, _BLOCK // (len(pairs.weights) * pairs.covariances[0].size))
    for start in range(0, len(pairs.weights), step):
        logs = _block(pairs, slice(start, start + step))
        top = max(largest, *(float(log.max()) for log in logs[:4]))
        sums = sums * math.exp(largest - top) + _sums(logs, top)
        largest = top
    norm, along, squared, absolute = sums.tolist()
    unit = float(np.finfo(float).eps) * max(condition(f), condition(g)) * (8 + 2 * f.dim)
    squared, absolute = max(0.0, squared / norm), absolute / norm
    floor = 16 * float(np.finfo(float).eps) * (len(f) != len(g))
    return Difference(largest + math.log(norm), along / norm, squared, unit * absolute, floor)


def condition(mixture: GaussianMixture) -> float:
    """Estimate the condition number of the worst covariance, scaled to a diagonal of ones.

    It is the ratio of a variance to the same dimension's variance given those before it, the squared diagonal entry of
    the Cholesky factor.
    """
    if mixture.covariance_type != "full":
        return 1.0
    given = np.diagonal(mixture.cholesky, axis1=1, axis2=2) ** 2
    return float((np.diagonal(mixture.covariances, axis1=1, axis2=2) / given).max())


def _distinct(mixture: GaussianMixture) -> GaussianMixture:
    """Drop components of zero weight, and merge those that are bitwise equal."""
    if mixture.weights.all() and len(np.unique(mixture.means[:, 0])) == len(mixture):
        return mixture
    rows = np.concatenate([mixture.means, mixture.covariances.reshape(len(mixture), -1)], axis=1)
    unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    weights = np.bincount(inverse.ravel(), weights=mixture.weights, minlength=len(unique))
    kept, d = weights > 0, mixture.dim
    if kept.sum() == len(mixture):
        return mixture
    covariances = unique[kept, d:].reshape(-1, *mixture.covariances.shape[1:])
    return GaussianMixture(weights[kept], unique[kept, :d], covariances, normalize=True)


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the index of the point nearest to each of the others; few need no import of SciPy."""
    if len(points) * others.size <= _SMALL:
        few: np.ndarray = ((others[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
        return few
    from scipy.spatial import cKDTree

    hubs: np.ndarray = cKDTree(points).query(others)[1]
    return hubs


def _paired(f: GaussianMixture, g: GaussianMixture) -> _Pairs | None:
    """Pair each component of the larger mixture with the nearest of the other, if that leaves none out."""
    fewer, more = (f, g) if len(f) <= len(g) else (g, f)
    features = [np.column_stack([m.means, m.covariances.reshape(len(m), -1)]) for m in (fewer, more)]
    if len(f) * len(g) * features[0].shape[1] > _MOST:
        return None
    hubs = _nearest(*features)
    together = np.bincount(hubs, weights=more.weights, minlength=len(fewer))
    if not together.all():
        return None
    split = fewer.weights[hubs] * (more.weights / together[hubs])  # exact where a hub has one partner
    means, covariances = fewer.means[hubs], fewer.covariances[hubs]
    a, b = (split, means, covariances), (more.weights, more.means, more.covariances)
    if fewer is not f:
        a, b = b, a
    change = [np.log1p((b[0] - a[0]) / a[0]), b[1] - a[1], b[2] - a[2]]
    if f.covariances.ndim == 3:
        return _Pairs(*a, *change)
    shape = (len(more), f.dim, 1, 1)
    wide, wide_change = (np.broadcast_to(x.reshape(len(more), -1, 1, 1), shape) for x in (a[2], change[2]))
    return _Pairs(a[0], a[1][..., None], wide, change[0], change[1][..., None], wide_change)


def _sums(logs: tuple[np.ndarray, ...], top: float) -> np.ndarray:
    """Return the sums of <f_i, f_j>, <f_i, h_j>, <h_i, h_j> and the latter's sizes, over e^top, from `_block`."""
    x, y, s = logs[4:]
    near = (np.abs(x) < 1) & (np.abs(y) < 1) & (np.abs(s) < 1)
    size, changed, other, twice = (np.exp(part - top) for part in logs[:4])
    x, y, s = (np.where(near, part, 0.0) for part in (x, y, s))  # the others would overflow
    along = np.where(near, size * np.expm1(y), other - size)
    change = np.expm1(x) * np.expm1(y) + np.exp(x + y) * np.expm1(s)
    second = np.where(near, size * change, twice - changed - other + size)
    absolute = np.where(near, np.abs(size * change), twice + changed + other + size)
    return np.array([size.sum(), along.sum(), second.sum(), absolute.sum()])


def _block(pairs: _Pairs, rows: slice) -> tuple[np.ndarray, ...]:
    """Return log <a_i, a_j>, <b_i, a_j>, <a_i, b_j> and <b_i, b_j>, weighted, and their differences x, y and s.

    With l(a, b) the log kernel of two components, x = l(b_i, a_j) - l(a_i, a_j), y the same in j and s their mixed
    second difference, the first two with the weights' changes added::

        <f_i, h_j> = p_i p_j K(a_i, a_j) expm1(y)
        <h_i, h_j> = p_i p_j K(a_i, a_j) (expm1(x) expm1(y) + exp(x + y) expm1(s))
    """
    covariance = pairs.covariances[rows, None] + pairs.covariances
    offset = pairs.means[rows, None] - pairs.means
    e, u = pairs.mean_change[rows, None], pairs.covariance_change[rows, None]
    # The second component's change enters the offset with the other sign.
    g, v = -pairs.mean_change[None], pairs.covariance_change[None]
    e, g = np.broadcast_to(e, offset.shape), np.broadcast_to(g, offset.shape)
    u, v = np.broadcast_to(u, covariance.shape), np.broadcast_to(v, covariance.shape)
    inverse = _inverse(covariance)
    inverse_u, inverse_v = _inverse(covariance + u), _inverse(covariance + v)
    inverse_uv = _inverse(covariance + u + v)

    x = _first(offset, inverse, e, u, inverse_u)
    y = _first(offset, inverse, g, v, inverse_v)
    s = -0.5 * _log_determinant(-inverse_u @ u @ inverse_v @ v)
    s = s - 0.5 * _second_quadratic(offset, inverse, e, u, inverse_u, g, v, inverse_v, inverse_uv)
    log = log_gaussian(offset, covariance)
    if covariance.ndim == 5:
        x, y, s, log = (part.sum(axis=2) for part in (x, y, s, log))
    log = log + np.log(pairs.weights[rows, None]) + np.log(pairs.weights)
    x, y = x + pairs.change[rows, None], y + pairs.change
    return log, log + x, log + y, log + x + y + s, x, y, s


def _inverse(matrices: np.ndarray) -> np.ndarray:
    inverse: np.ndarray = np.linalg.inv(matrices) if matrices.shape[-1] > 1 else 1 / matrices
    return inverse


def _first(
    offset: np.ndarray, inverse: np.ndarray, step: np.ndarray, growth: np.ndarray, grown_inverse: np.ndarray
) -> np.ndarray:
    """Return the change of the log kernel as its offset moves by a step and its covariance grows."""
    quadratic = _form(2 * offset + step, grown_inverse, step) - _form(offset, grown_inverse @ growth @ inverse, offset)
    change: np.ndarray = -0.5 * (_log_determinant(inverse @ growth) + quadratic)
    return change


def _second_quadratic(
    offset: np.ndarray,
    inverse: np.ndarray,
    e: np.ndarray,
    u: np.ndarray,
    inverse_u: np.ndarray,
    g: np.ndarray,
    v: np.ndarray,
    inverse_v: np.ndarray,
    inverse_uv: np.ndarray,
) -> np.ndarray:
    """Return the mixed second difference of ``offset^T covariance^-1 offset``; each term has a change of either."""
    moved = inverse_uv @ v @ inverse_u
    second: np.ndarray = (
        2 * _form(e, inverse_uv, g)
        - _form(g + 2 * offset, inverse_uv @ u @ inverse_v, g)
        - _form(e, moved, offset + e)
        - _form(offset, moved, e)
        + _form(offset, inverse_uv @ u @ inverse_v @ v @ inverse_u, offset)
        + _form(offset, inverse_v @ v @ inverse_u @ u @ inverse, offset)
    )
    return second


def _form(a: np.ndarray, matrix: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a^T M b over the leading axes."""
    form: np.ndarray = np.einsum("...i,...ij,...j->...", a, matrix, b)
    return form


def _log_determinant(change: np.ndarray) -> np.ndarray:
    """Return log |I + change|, accurate for changes however small."""
    if change.shape[-1] == 1:
        of_one: np.ndarray = np.log1p(change[..., 0, 0])
        return of_one
    values = np.linalg.eigvals(change)
    # This is log |1 + z|; NumPy's log1p of a complex z would form 1 + z first.
    logs: np.ndarray = 0.5 * np.log1p(2 * values.real + values.real**2 + values.imag**2).sum(axis=-1)
    return logs
