"""Densities, conditioning and products on the arrays of a :class:`~gmr_metric.GaussianMixture`."""

from __future__ import annotations

import numpy as np

from gmr_metric.density.gaussian import log_gaussian, log_gaussian_from_factors

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights up to a factor, means, covariances

_BLOCK = 2**21  # floats that a vectorised step holds at once


def log_density(points: np.ndarray, weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the log density at points of shape (points, d) from Cholesky factors, in blocks of bounded memory."""
    from scipy.special import logsumexp

    result = np.empty(len(points))
    log_weights = log_of(weights)
    step = max(1, _BLOCK // means.size)
    for start in range(0, len(points), step):
        offsets = points[start : start + step, None, :] - means
        terms = log_weights + log_gaussian_from_factors(offsets, factors[None])
        result[start : start + step] = logsumexp(terms, axis=1)
    return result


def conditioned(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, known: np.ndarray, values: np.ndarray
) -> Arrays:
    """Return the distribution of the other dimensions given values of the known ones."""
    rest = np.setdiff1d(np.arange(means.shape[1]), known)
    if covariances.ndim < 3:  # the dimensions of a component are independent: its weight alone changes
        within, left = (
            (covariances, covariances) if covariances.ndim == 1 else (covariances[:, known], covariances[:, rest])
        )
        log_weights = log_of(weights) + log_gaussian(values - means[:, known], within)
        return np.exp(log_weights - log_weights.max()), means[:, rest], left
    within, cross = covariances[:, known[:, None], known], covariances[:, rest[:, None], known]
    offsets = values - means[:, known]
    gain = np.swapaxes(np.linalg.solve(within, np.swapaxes(cross, 1, 2)), 1, 2)
    shifted = means[:, rest] + np.matmul(gain, offsets[..., None])[..., 0]
    reduced = covariances[:, rest[:, None], rest] - np.matmul(gain, np.swapaxes(cross, 1, 2))
    log_weights = log_of(weights) + log_gaussian(offsets, within)
    return np.exp(log_weights - log_weights.max()), shifted, (reduced + np.swapaxes(reduced, 1, 2)) / 2


def multiplied(f: Arrays, g: Arrays) -> Arrays:
    """Return the product of two densities: one component for every pair."""
    (f_weights, f_means, f_covariances), (g_weights, g_means, g_covariances) = f, g
    offsets, total = g_means - f_means[:, None], f_covariances[:, None] + g_covariances
    log_weights = log_of(f_weights)[:, None] + log_of(g_weights) + log_gaussian(offsets, total)
    weights = np.exp(log_weights - log_weights.max()).ravel()
    d = offsets.shape[-1]
    if total.ndim < 4:
        share = f_covariances[:, None] / total
        covariances = share * g_covariances
        means = f_means[:, None] + (share if share.ndim == 3 else share[..., None]) * offsets
        return weights, means.reshape(-1, d), covariances.reshape(-1, *covariances.shape[2:])
    share = np.swapaxes(np.linalg.solve(total, np.broadcast_to(f_covariances[:, None], total.shape)), 2, 3)
    covariances = np.matmul(share, g_covariances)
    means = f_means[:, None] + np.matmul(share, offsets[..., None])[..., 0]
    symmetric = (covariances + np.swapaxes(covariances, 2, 3)) / 2
    return weights, means.reshape(-1, d), symmetric.reshape(-1, d, d)


def log_of(weights: np.ndarray) -> np.ndarray:
    """Return log weights, -inf for zero."""
    with np.errstate(divide="ignore"):
        logs: np.ndarray = np.log(weights)
    return logs
