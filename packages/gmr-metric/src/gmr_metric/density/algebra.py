"""Densities, conditioning and products of mixtures: the arithmetic of :class:`~gmr_metric.GaussianMixture`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gmr_metric.density.mixture import GaussianMixture

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

_BLOCK = 2**21  # floats that a vectorised step holds at once


def log_density(mixture: GaussianMixture, points: np.ndarray) -> np.ndarray:
    """Return the log density at points of shape (points, d), in blocks of bounded memory."""
    from scipy.special import logsumexp

    whitening = np.linalg.inv(mixture.cholesky)
    with np.errstate(divide="ignore"):
        log_factor = np.log(mixture.weights) - np.log(np.diagonal(mixture.cholesky, axis1=1, axis2=2)).sum(axis=1)
    log_factor = log_factor - 0.5 * mixture.dim * math.log(2 * math.pi)
    result = np.empty(len(points))
    step = max(1, _BLOCK // (len(mixture) * mixture.dim))
    for start in range(0, len(points), step):
        offset = points[start : start + step, None, :] - mixture.means
        squared = (np.matmul(whitening, offset[..., None])[..., 0] ** 2).sum(axis=2)
        result[start : start + step] = logsumexp(log_factor - 0.5 * squared, axis=1)
    return result


def conditioned(mixture: GaussianMixture, known: np.ndarray, given: np.ndarray) -> Arrays:
    """Return weights up to a factor, means and covariances of the other dimensions, given values of the known ones."""
    rest = np.setdiff1d(np.arange(mixture.dim), known)
    means, covariances = mixture.means, mixture.covariances
    cross = covariances[:, rest[:, None], known]
    gain = np.swapaxes(np.linalg.solve(covariances[:, known[:, None], known], np.swapaxes(cross, 1, 2)), 1, 2)
    shifted = means[:, rest] + np.matmul(gain, (given - means[:, known])[..., None])[..., 0]
    shrunk = covariances[:, rest[:, None], rest] - np.matmul(gain, np.swapaxes(cross, 1, 2))
    factor = np.linalg.cholesky(covariances[:, known[:, None], known])
    white = np.linalg.solve(factor, (given - means[:, known])[..., None])[..., 0]
    log_determinant = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    with np.errstate(divide="ignore"):
        likelihood = np.log(mixture.weights) - log_determinant - 0.5 * (white**2).sum(axis=1)
    return np.exp(likelihood - likelihood.max()), shifted, (shrunk + np.swapaxes(shrunk, 1, 2)) / 2


def multiplied(f: GaussianMixture, g: GaussianMixture) -> Arrays:
    """Return weights up to a factor, means and covariances of the product of two densities, pair by pair."""
    from gmr_metric.distances.inner import log_kernels

    with np.errstate(divide="ignore"):
        log_weights = np.log(f.weights)[:, None] + np.log(g.weights) + log_kernels(f, g)
    total = f.covariances[:, None] + g.covariances
    share = np.swapaxes(np.linalg.solve(total, np.broadcast_to(f.covariances[:, None], total.shape)), 2, 3)
    covariances = np.matmul(share, g.covariances)
    step = (g.means - f.means[:, None])[..., None]
    means = f.means[:, None] + np.matmul(share, step)[..., 0]
    weights = np.exp(log_weights - log_weights.max()).ravel()
    symmetric = (covariances + np.swapaxes(covariances, 2, 3)) / 2
    return weights, means.reshape(-1, f.dim), symmetric.reshape(-1, f.dim, f.dim)
