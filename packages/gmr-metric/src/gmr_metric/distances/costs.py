"""What it costs to stand for one Gaussian by another: tables of divergences between the components of two mixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gmr_metric.distances.inner import log_kernels
from gmr_metric.loops.columns import columns
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Float

_BLOCK = 2**20  # floats that a block of rows may hold


def kullback_leibler(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Kullback-Leibler divergences of g's components from f's, in nats.

    Parameters
    ----------
    f, g
        Mixtures of N and M components in the same d dimensions; their weights do not count.

    Returns
    -------
    numpy.ndarray
        ``KL(f_i || g_j)``, shape (N, M).

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 2.0))
    >>> kullback_leibler(f, g).tolist()
    [[2.0]]
    """
    table = np.empty((len(f), len(g)))
    inverse = np.linalg.inv(g.cholesky)
    for rows in _row_blocks(f, g):
        # With factors R of g's and F of f's, W = R^-1 F gives the textbook's trace, |W|^2, and ratio of determinants.
        white = np.tensordot(f.cholesky[rows], inverse, axes=(1, 2))  # f, column of W, g, row of W
        offsets = np.matmul(inverse, (f.means[rows, None] - g.means)[..., None])[..., 0]
        log_ratio = np.log(np.diagonal(white, axis1=1, axis2=3)).sum(axis=2)
        table[rows] = 0.5 * ((white**2).sum(axis=(1, 3)) - f.dim + (offsets**2).sum(axis=2)) - log_ratio
    return table.clip(0)


def squared_wasserstein(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Squared 2-Wasserstein distances between f's and g's components, in squared units of the space.

    Parameters
    ----------
    f, g
        Mixtures of N and M components in the same d dimensions; their weights do not count.

    Returns
    -------
    numpy.ndarray
        Shape (N, M).

    Examples
    --------
    >>> f, g = GaussianMixture([1.0], [[0.0]], [[[1.0]]]), GaussianMixture([1.0], [[3.0]], [[[4.0]]])
    >>> squared_wasserstein(f, g).tolist()
    [[10.0]]
    """
    table = np.empty((len(f), len(g)))
    traces = [np.trace(mixture.covariances, axis1=1, axis2=2) for mixture in (f, g)]
    for rows in _row_blocks(f, g):
        offsets = ((f.means[rows, None] - g.means) ** 2).sum(axis=2)
        # tr (P^1/2 Q P^1/2)^1/2 is the sum of the singular values of F^T R, whatever the factors F of P and R of Q:
        # no square root of an eigenvalue, which would lose half the digits of a small one.
        across = np.matmul(np.swapaxes(f.cholesky[rows, None], 2, 3), g.cholesky)
        overlap = np.linalg.svd(across, compute_uv=False).sum(axis=2)
        table[rows] = offsets + traces[0][rows, None] + traces[1] - 2 * overlap
    return table.clip(0)


def cauchy_schwarz(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Cauchy-Schwarz divergences between f's and g's components: minus the log of the cosine of their angle.

    Parameters
    ----------
    f, g
        Mixtures of N and M components in the same d dimensions; their weights do not count.

    Returns
    -------
    numpy.ndarray
        Shape (N, M).

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 2.0))
    >>> cauchy_schwarz(f, g).round(12).tolist()
    [[1.0]]
    """
    log_self_f, log_self_g = columns(f).log_self(), columns(g).log_self()
    return np.asarray((0.5 * (log_self_f[:, None] + log_self_g) - log_kernels(f, g)).clip(0))


def _row_blocks(f: GaussianMixture, g: GaussianMixture) -> Iterator[slice]:
    """Yield blocks of f's components, so that no N x M x d x d array is ever held."""
    step = max(1, _BLOCK // (len(g) * f.dim**2))
    for start in range(0, len(f), step):
        yield slice(start, start + step)
