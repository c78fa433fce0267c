"""The difference of two nearly equal mixtures, to full relative precision.

``||f - g||^2`` computed as ``<f, f> - 2 <f, g> + <g, g>`` loses all digits once the mixtures agree to 1e-8. Here each
component of f is paired with the nearest one of g, the difference is the sum of ``h_i = q_i N(b_i) - p_i N(a_i)``, and
every ``<h_i, h_j>`` is computed from the pair's *changes* of weight, mean and covariance alone, without subtracting
large numbers. Not specified in the paper.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.mixture import GaussianMixture

_BLOCK = 2**17  # floats that a block of pair covariances may hold


class Difference(NamedTuple):
    """The difference h = g - f of two mixtures."""

    log_squared_norm: float  # log <f, f>
    along: float  # <f, h> / <f, f>
    squared: float  # <h, h> / <f, f>

    @property
    def sine(self) -> float:
        """The sine of the angle between f and g: the part of h orthogonal to f, over the norm of g."""
        # h integrates to zero and f to one, so h is never parallel to f and this subtraction keeps its digits.
        return math.sqrt(max(0.0, self.squared - self.along**2) / (1 + 2 * self.along + self.squared))

    @property
    def ise(self) -> float:
        """The squared norm of f - g."""
        return math.exp(self.log_squared_norm + math.log(self.squared)) if self.squared > 0 else 0.0


def difference(f: GaussianMixture, g: GaussianMixture) -> Difference | None:
    """Compare two nearly equal mixtures; None if their components cannot be paired one to one."""
    f, g = _distinct(f), _distinct(g)
    order = _pairing(f, g)
    if order is None:
        return None
    weights, means, covariances = g.weights[order], g.means[order], g.covariances[order]
    change = np.log1p((weights - f.weights) / f.weights)
    mean_change, covariance_change = means - f.means, covariances - f.covariances
    sums, largest = np.zeros(3), -math.inf
    step = max(1, _BLOCK // (len(f) * f.dim**2))
    for start in range(0, len(f), step):
        log_size, first, second = _block(f, slice(start, start + step), change, mean_change, covariance_change)
        top = max(largest, float(log_size.max()))
        size = np.exp(log_size - top)
        sums = sums * math.exp(largest - top) + [size.sum(), (size * first).sum(), (size * second).sum()]
        largest = top
    norm, along, squared = sums.tolist()
    return Difference(largest + math.log(norm), along / norm, max(0.0, squared / norm))


def _distinct(mixture: GaussianMixture) -> GaussianMixture:
    """Drop components of zero weight, and merge those that are bitwise equal."""
    rows = np.concatenate([mixture.means, mixture.covariances.reshape(len(mixture), -1)], axis=1)
    unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    weights = np.bincount(inverse.ravel(), weights=mixture.weights, minlength=len(unique))
    kept, d = weights > 0, mixture.dim
    if kept.sum() == len(mixture):
        return mixture
    covariances = unique[kept, d:].reshape(-1, d, d)
    return GaussianMixture(weights[kept], unique[kept, :d], covariances, normalize=True)


def _pairing(f: GaussianMixture, g: GaussianMixture) -> np.ndarray | None:
    """Return the nearest component of g for each of f, if that is one to one."""
    from scipy.spatial import cKDTree

    if len(f) != len(g):
        return None
    features = [np.column_stack([m.means, m.covariances.reshape(len(m), -1)]) for m in (f, g)]
    _, order = cKDTree(features[1]).query(features[0])
    return order if len(np.unique(order)) == len(f) else None


def _block(
    f: GaussianMixture, rows: slice, change: np.ndarray, mean_change: np.ndarray, covariance_change: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log <f_i, f_j>, and <f_i, h_j> and <h_i, h_j> as multiples of <f_i, f_j>, for a block of i and all j.

    With l(a, b) the log kernel of two components, x = l(b_i, a_j) - l(a_i, a_j), y the same
    in j and s their mixed second difference, all with the weights' changes added::

        <f_i, h_j> = p_i p_j K(a_i, a_j) expm1(y)
        <h_i, h_j> = p_i p_j K(a_i, a_j) (expm1(x) expm1(y) + exp(x + y) expm1(s))
    """
    covariance = f.covariances[rows, None] + f.covariances
    offset = f.means[rows, None] - f.means
    e, u = mean_change[rows, None], covariance_change[rows, None]
    # The second component's change enters the offset with the other sign.
    g, v = -mean_change[None], covariance_change[None]
    e, g = np.broadcast_to(e, offset.shape), np.broadcast_to(g, offset.shape)
    u, v = np.broadcast_to(u, covariance.shape), np.broadcast_to(v, covariance.shape)
    inverse = np.linalg.inv(covariance)
    inverse_u, inverse_v = np.linalg.inv(covariance + u), np.linalg.inv(covariance + v)
    inverse_uv = np.linalg.inv(covariance + u + v)

    x = _first(offset, inverse, e, u, inverse_u) + change[rows, None]
    y = _first(offset, inverse, g, v, inverse_v) + change
    s = -0.5 * _log_determinant(-inverse_u @ u @ inverse_v @ v)
    s = s - 0.5 * _second_quadratic(offset, inverse, e, u, inverse_u, g, v, inverse_v, inverse_uv)
    log_size = np.log(f.weights[rows, None]) + np.log(f.weights) + log_gaussian(offset, covariance)
    along = np.expm1(y)
    return log_size, along, np.expm1(x) * along + np.exp(x + y) * np.expm1(s)


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
    values = np.linalg.eigvals(change)
    # This is log |1 + z|; NumPy's log1p of a complex z would form 1 + z first.
    logs: np.ndarray = 0.5 * np.log1p(2 * values.real + values.real**2 + values.imag**2).sum(axis=-1)
    return logs
