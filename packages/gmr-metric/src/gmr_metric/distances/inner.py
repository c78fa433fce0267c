"""Inner products of mixtures in L2, in log space, and their gradients.

For Gaussians ``<N(m, P), N(n, Q)> = N(m; n, P + Q)``, so for mixtures
``<f, g> = sum_ij w_i v_j N(m_i; n_j, P_i + Q_j)`` (arXiv 2306.07309; the identity is older).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.kinds import matching
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.screening import screened_log_inner
from gmr_metric.loops.choice import implementation, numpy_seconds
from gmr_metric.loops.columns import columns

if TYPE_CHECKING:
    from jaxtyping import Float

_BLOCK = 2**19  # floats that a block of summed covariances may hold
_NORM = "_log_squared_norm"  # kept in the mixture, which never changes


class Gradients(NamedTuple):
    """Derivatives of an inner product in its first mixture's weights (N,), means (N, d) and covariances.

    The latter have the covariances' shape. Those in matrices are symmetric: the change of the inner product is the sum
    of entrywise products with a symmetric change.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def log_kernels(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Log inner products of components without their weights, ``log N(m_i; n_j, P_i + Q_j)``, shape (N, M).

    Examples
    --------
    >>> unit = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    >>> np.exp(log_kernels(unit, unit)).round(6).tolist()  # 1 / sqrt(4 pi)
    [[0.282095]]
    """
    return np.concatenate([kernels for _, kernels in _row_blocks(f, g)])


def log_inner_product(f: GaussianMixture, g: GaussianMixture) -> float:
    """Log of the integral of f times g; finite even where the inner product itself underflows.

    The inner product of a mixture with itself is computed once and remembered as long as the mixture lives.

    Examples
    --------
    >>> near, far = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 100.0))
    >>> round(log_inner_product(near, far), 4)
    -2501.2655
    """
    matching(f, g)
    same = g is f
    if same and _NORM in vars(f):
        return float(vars(f)[_NORM])
    if f.covariance_type != "full" and f.dim > 1:
        value = screened_log_inner(f, g)
    else:
        first = columns(f).bounded(log_weights=True)
        second = first if same else columns(g).bounded(log_weights=True)
        seconds = numpy_seconds(len(f) * len(g) / (1 + same), first)
        value = float(implementation(seconds).log_inner(first, second, same))
    if same:
        vars(f)[_NORM] = value
    return value


def inner_product(f: GaussianMixture, g: GaussianMixture) -> float:
    """Integral of f times g; 0 where it underflows, see :func:`log_inner_product`.

    Examples
    --------
    >>> unit = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    >>> round(inner_product(unit, unit), 6)
    0.282095
    """
    return math.exp(log_inner_product(f, g))


def norm(f: GaussianMixture) -> float:
    """L2 norm of a mixture: the square root of the integral of its square.

    Examples
    --------
    >>> round(norm(GaussianMixture([1.0], [[0.0]], [[[1.0]]])) ** 2, 6)
    0.282095
    """
    return math.exp(0.5 * log_inner_product(f, f))


def log_inner_product_gradients(f: GaussianMixture, g: GaussianMixture) -> tuple[float, Gradients]:
    """Log inner product and its derivatives with respect to f's weights, means and covariances.

    The derivatives of ``log <f, g>`` neither vanish nor blow up for distant mixtures. By symmetry, the derivatives of
    ``log <f, f>`` are twice those with g = f.
    """
    total, g = log_inner_product(f, g), matching(f, g)
    log_v = log_of(g.weights)
    gradients = Gradients(np.empty_like(f.weights), np.empty_like(f.means), np.empty_like(f.covariances))
    for rows, kernels in _row_blocks(f, g):
        share = np.exp(kernels + log_v - total)  # of <f, g>, per unit of w_i
        offsets, covariances = f.means[rows, None] - g.means, f.covariances[rows, None] + g.covariances
        pull, outer = (
            _full_terms(share, offsets, covariances) if f.covariances.ndim == 3 else _terms(share, offsets, covariances)
        )
        weight = f.weights[rows]
        gradients.weights[rows] = share.sum(axis=1)
        gradients.means[rows] = -weight[:, None] * np.einsum("nm,nmd->nd", share, pull)
        gradients.covariances[rows] = 0.5 * weight.reshape(-1, *(outer.ndim - 1) * (1,)) * outer
    return total, gradients


def _full_terms(share: np.ndarray, offsets: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``u = S^-1 e`` of every pair, and the sums of ``u u^T - S^-1`` over the second components."""
    inverse = np.linalg.inv(covariances)
    pull = np.matmul(inverse, offsets[..., None])[..., 0]
    return pull, np.einsum("nm,nmd,nme->nde", share, pull, pull) - np.einsum("nm,nmde->nde", share, inverse)


def _terms(share: np.ndarray, offsets: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for variances (n, m, d), or (n, m) with the sum over dimensions."""
    if variances.ndim == 3:
        pull = offsets / variances
        return pull, np.einsum("nm,nmd->nd", share, pull**2 - 1 / variances)
    pull = offsets / variances[..., None]
    return pull, (share * ((pull**2).sum(axis=2) - offsets.shape[2] / variances)).sum(axis=1)


def _row_blocks(f: GaussianMixture, g: GaussianMixture) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of the table of log kernels, so that no N x M x d x d array is ever held."""
    g = matching(f, g)
    step = max(1, _BLOCK // (len(g) * f.dim ** (2 if f.covariances.ndim == 3 else 1)))
    for start in range(0, len(f), step):
        rows = slice(start, start + step)
        yield rows, log_gaussian(f.means[rows, None] - g.means, f.covariances[rows, None] + g.covariances)
