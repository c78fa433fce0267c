"""Inner products of mixtures in L2, in log space: the one place with the formula, and its gradients.

For Gaussians ``<N(m, P), N(n, Q)> = N(m; n, P + Q)``, so for mixtures
``<f, g> = sum_ij w_i v_j N(m_i; n_j, P_i + Q_j)`` (arXiv 2306.07309; the identity is older).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.loops.columns import columns, implementation
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Float

_BLOCK = 2**19  # floats that a block of summed covariances may hold


class Gradients(NamedTuple):
    """Derivatives of an inner product in the parameters of its first mixture.

    Attributes
    ----------
    weights
        Shape (N,).
    means
        Shape (N, d).
    covariances
        Shape (N, d, d), symmetric: the change is the sum of entrywise products with a symmetric change.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def log_kernels(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Log inner products of the components, without their weights.

    Parameters
    ----------
    f, g
        Mixtures of N and M components in the same d dimensions.

    Returns
    -------
    numpy.ndarray
        ``log N(m_i; n_j, P_i + Q_j)``, shape (N, M).

    Raises
    ------
    InputError
        Where the dimensions differ.

    Examples
    --------
    >>> unit = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    >>> np.exp(log_kernels(unit, unit)).round(6).tolist()  # 1 / sqrt(4 pi)
    [[0.282095]]
    """
    return np.concatenate([kernels for _, kernels in _row_blocks(f, g)])


def log_inner_product(f: GaussianMixture, g: GaussianMixture) -> float:
    """Log of the integral of f times g.

    Parameters
    ----------
    f, g
        Mixtures in the same dimensions.

    Returns
    -------
    float
        The logarithm, which stays finite where the inner product itself underflows.

    Raises
    ------
    InputError
        Where the dimensions differ.

    Examples
    --------
    >>> near, far = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 100.0))
    >>> round(log_inner_product(near, far), 4)
    -2501.2655
    """
    if f.dim != g.dim:
        raise InputError(f"mixtures of {f.dim} and {g.dim} dimensions", "the same number of dimensions")
    inner = implementation(min(len(f), len(g)))
    same = g is f
    first = _laid_out(f)
    return float(inner.log_inner(*first, *(first if same else _laid_out(g)), same))


def inner_product(f: GaussianMixture, g: GaussianMixture) -> float:
    """Integral of f times g; 0 where it underflows: see :func:`log_inner_product`.

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
    """Log inner product and its derivatives in f's weights, means and covariances.

    They are those of ``log <f, g>``, which neither underflow far apart nor blow up. The
    derivatives of ``log <f, f>`` are twice those with g = f, by symmetry.

    Parameters
    ----------
    f, g
        Mixtures in the same dimensions.

    Returns
    -------
    float
        The log inner product.
    Gradients
        The derivatives in f, g held fixed.

    Raises
    ------
    InputError
        Where the dimensions differ.
    """
    total = log_inner_product(f, g)
    with np.errstate(divide="ignore"):
        log_v = np.log(g.weights)
    found = Gradients(np.empty_like(f.weights), np.empty_like(f.means), np.empty_like(f.covariances))
    for rows, kernels in _row_blocks(f, g):
        share = np.exp(kernels + log_v - total)  # of <f, g>, per unit of w_i
        inverse = np.linalg.inv(f.covariances[rows, None] + g.covariances)
        pull = np.matmul(inverse, (f.means[rows, None] - g.means)[..., None])[..., 0]
        weight = f.weights[rows, None]
        found.weights[rows] = share.sum(axis=1)
        found.means[rows] = -weight * np.einsum("nm,nmd->nd", share, pull)
        outer = np.einsum("nm,nmd,nme->nde", share, pull, pull) - np.einsum("nm,nmde->nde", share, inverse)
        found.covariances[rows] = 0.5 * weight[..., None] * outer
    return total, found


def _laid_out(f: GaussianMixture) -> tuple[np.ndarray, ...]:
    """Return log weights, means and covariances in columns, and what bounds the components' kernels from above."""
    laid = columns(f)
    with np.errstate(divide="ignore"):
        logs = np.log(f.weights)
    return logs, laid.means, laid.packed, logs + 0.5 * laid.log_self(), laid.radii()


def _row_blocks(f: GaussianMixture, g: GaussianMixture) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of the table of log kernels, so that no N x M x d x d array is ever held."""
    if f.dim != g.dim:
        raise InputError(f"mixtures of {f.dim} and {g.dim} dimensions", "the same number of dimensions")
    step = max(1, _BLOCK // (len(g) * f.dim**2))
    for start in range(0, len(f), step):
        rows = slice(start, start + step)
        total = f.covariances[rows, None] + g.covariances
        yield rows, log_gaussian(f.means[rows, None] - g.means, total)


def log_gaussian(offsets: Float[np.ndarray, "... dim"], covariances: Float[np.ndarray, "... dim dim"]) -> np.ndarray:
    """Log density of centred Gaussians at some offsets, shape (...).

    Parameters
    ----------
    offsets
        Shape (..., d).
    covariances
        Positive definite, shape (..., d, d).

    Returns
    -------
    numpy.ndarray
        Shape (...).
    """
    d = offsets.shape[-1]
    if d == 1:
        variance = covariances[..., 0, 0]
        return np.asarray(-0.5 * (np.log(2 * math.pi * variance) + offsets[..., 0] ** 2 / variance))
    factor = np.linalg.cholesky(covariances)
    white: list[np.ndarray] = []
    for row in range(d):  # forward substitution, vectorised over the leading axes
        known = sum((factor[..., row, k] * white[k] for k in range(row)), start=np.zeros(()))
        white.append((offsets[..., row] - known) / factor[..., row, row])
    squared = sum((part**2 for part in white), start=np.zeros(()))
    log_determinant = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
    return np.asarray(-0.5 * (d * math.log(2 * math.pi) + squared) - log_determinant)


def _logsumexp(values: np.ndarray) -> float:
    largest = float(values.max())
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(float(np.exp(values - largest).sum()))
