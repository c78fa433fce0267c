"""Groups of weighted points, their covariance, and the likelihood by which a bandwidth is chosen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from sextet_common.errors import InputError

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import LOG_2PI

FACTORS = 2.0 ** (np.arange(-12, 3) / 2)  # bandwidths that compete, as multiples of Scott's rule
_FLAT = 1e-12  # smallest eigenvalue of the points' correlation matrix


class Groups(NamedTuple):
    """All groups at one time, buffered points included; their shares sum to one."""

    shares: np.ndarray
    means: np.ndarray
    scatters: np.ndarray
    effective: float  # Kish's effective number of points


def covariance_of(groups: Groups) -> np.ndarray:
    """Return the unbiased covariance of the weighted points; refuse points that do not span all dimensions."""
    offsets = groups.means - groups.means[0]  # exactly 0 in a dimension where all are equal
    offsets = np.sqrt(groups.shares)[:, None] * (offsets - groups.shares @ offsets)
    covariance: np.ndarray = offsets.T @ offsets + np.tensordot(groups.shares, groups.scatters, axes=1)
    deviations = np.sqrt(np.diagonal(covariance))
    scale = np.where(deviations > 0, deviations, 1)
    rank = int((np.linalg.eigvalsh(covariance / np.outer(scale, scale)) > _FLAT).sum())
    if rank < len(covariance):
        raise InputError(
            f"the points so far span {rank} of {len(covariance)} dimensions",
            "more points, a larger buffer, no constant columns, or a bandwidth matrix",
        )
    return covariance / (1 - 1 / groups.effective)


def left_out(groups: Groups, count: int) -> np.ndarray:
    """Return the log likelihood of the last ``count`` groups, single points, under each factor of Scott's rule.

    Each point is left out of the density that it is evaluated under.
    """
    d, n = groups.means.shape[1], len(groups.shares)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance_of(groups)))
    kernels = (FACTORS * groups.effective ** (-1 / (d + 4))) ** 2
    # In the eigenvectors' axes of each group, all bandwidths share their squared offsets.
    variances, axes = np.linalg.eigh(whitening @ groups.scatters @ whitening.T)
    spread = np.maximum(variances, 0)[:, :, None] + kernels  # (K, d, bandwidths)
    points = groups.means[-count:] @ whitening.T
    squared = np.matmul(points - (groups.means @ whitening.T)[:, None], axes) ** 2  # (K, count, d)
    logs = -0.5 * (np.matmul(squared, 1 / spread) + (np.log(spread).sum(axis=1) + d * LOG_2PI)[:, None])
    logs += log_of(groups.shares)[:, None, None]
    own = np.arange(count)
    logs[n - count + own, own] = -np.inf
    densities = logsumexp(logs, axis=0) - np.log1p(-groups.shares[-count:])[:, None]
    likelihoods: np.ndarray = densities.sum(axis=0)
    return likelihoods
