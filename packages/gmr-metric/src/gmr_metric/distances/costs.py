"""Divergences between the components of two mixtures, as tables of shape (N, M); weights do not count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gmr_metric.density.kinds import matching
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_kernels
from gmr_metric.loops.columns import columns

if TYPE_CHECKING:
    from jaxtyping import Float

_BLOCK = 2**20  # floats that a block of rows may hold


def kullback_leibler(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Kullback-Leibler divergences ``KL(f_i || g_j)``, in nats."""
    g = matching(f, g)
    table = np.empty((len(f), len(g)))
    if f.covariances.ndim < 3:
        p, q = (mixture.covariances.reshape(len(mixture), -1) for mixture in (f, g))
        shared = f.dim // p.shape[1]  # dimensions with one variance
        log_p, log_q = (shared * np.log(variances).sum(axis=1) for variances in (p, q))
        twice = shared * (p @ (1 / q).T) - f.dim + log_q - log_p[:, None]
        for rows in _row_blocks(f, g):
            table[rows] = 0.5 * (twice[rows] + ((f.means[rows, None] - g.means) ** 2 / q).sum(axis=2))
        return table.clip(0)
    inverse = np.linalg.inv(g.cholesky)
    for rows in _row_blocks(f, g):
        # With W = R^-1 F, for factors R of g's and F of f's covariances, the textbook's trace is |W|^2, and the ratio
        # of determinants is that of W's diagonal.
        white = np.tensordot(f.cholesky[rows], inverse, axes=(1, 2))  # f, column of W, g, row of W
        offsets = np.matmul(inverse, (f.means[rows, None] - g.means)[..., None])[..., 0]
        log_ratio = np.log(np.diagonal(white, axis1=1, axis2=3)).sum(axis=2)
        table[rows] = 0.5 * ((white**2).sum(axis=(1, 3)) - f.dim + (offsets**2).sum(axis=2)) - log_ratio
    return table.clip(0)


def squared_wasserstein(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Squared 2-Wasserstein distances, in squared units of the space."""
    g = matching(f, g)
    table = np.empty((len(f), len(g)))
    if f.covariances.ndim < 3:
        a, b = (mixture.cholesky.reshape(len(mixture), -1) for mixture in (f, g))
        for rows in _row_blocks(f, g):
            roots = ((a[rows, None] - b) ** 2).sum(axis=2) * (f.dim // a.shape[1])
            table[rows] = ((f.means[rows, None] - g.means) ** 2).sum(axis=2) + roots
        return table
    traces = [np.trace(mixture.covariances, axis1=1, axis2=2) for mixture in (f, g)]
    for rows in _row_blocks(f, g):
        offsets = ((f.means[rows, None] - g.means) ** 2).sum(axis=2)
        # tr (P^1/2 Q P^1/2)^1/2 is the sum of the singular values of F^T R for any factors F of P and R of Q. That
        # avoids the square root of an eigenvalue, which loses half the digits of a small one.
        across = np.matmul(np.swapaxes(f.cholesky[rows, None], 2, 3), g.cholesky)
        overlap = np.linalg.svd(across, compute_uv=False).sum(axis=2)
        table[rows] = offsets + traces[0][rows, None] + traces[1] - 2 * overlap
    return table.clip(0)


def cauchy_schwarz(f: GaussianMixture, g: GaussianMixture) -> Float[np.ndarray, "n m"]:
    """Cauchy-Schwarz divergences: minus the log of the cosine of the components' angle."""
    kernels = log_kernels(f, g)
    log_self_f, log_self_g = columns(f).log_self(), columns(g).log_self()
    table: np.ndarray = 0.5 * (log_self_f[:, None] + log_self_g) - kernels
    return table.clip(0)


def _row_blocks(f: GaussianMixture, g: GaussianMixture) -> Iterator[slice]:
    """Yield blocks of f's components, so that no N x M x d x d array is ever held."""
    step = max(1, _BLOCK // (len(g) * f.dim ** min(2, f.covariances.ndim - 1 or 1)))
    for start in range(0, len(f), step):
        yield slice(start, start + step)
