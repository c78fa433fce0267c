"""Chooses who runs the inner loops, numba or NumPy, and lays mixtures out for them."""

from __future__ import annotations

import importlib.util
import math
import os
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops.vectorised import full, lower

SMALL = 32  # below so many components NumPy is quick enough, and nothing has to be compiled


def implementation(n_components: int) -> ModuleType:
    """Return the module of inner loops for a mixture of this size.

    It is `compiled` where numba is installed and the mixture is not small, else `vectorised`. The environment
    variable ``GMR_METRIC_NUMBA=0`` keeps numba out.
    """
    if n_components >= SMALL and os.environ.get("GMR_METRIC_NUMBA") != "0" and importlib.util.find_spec("numba"):
        from gmr_metric.loops import compiled

        return compiled
    from gmr_metric.loops import vectorised

    return vectorised


class Columns(NamedTuple):
    """Components in columns.

    Attributes
    ----------
    weights
        Shape (n,).
    means
        Shape (d, n).
    packed
        The covariances' lower triangles, row after row, shape (d (d + 1) / 2, n).
    """

    weights: np.ndarray
    means: np.ndarray
    packed: np.ndarray

    def take(self, chosen: np.ndarray) -> Columns:
        """Keep some components."""
        return Columns(*(np.ascontiguousarray(array[..., chosen]) for array in self))

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Put the moment-preserving merges of components i and j in the places of i, pair by pair."""
        total = self.weights[i] + self.weights[j]
        q = self.weights[j] / total
        e = self.means[:, j] - self.means[:, i]
        rows, places = lower(len(e))
        self.packed[:, i] = (1 - q) * (self.packed[:, i] + q * e[rows] * e[places]) + q * self.packed[:, j]
        self.means[:, i] += q * e
        self.weights[i] = total

    def log_self(self) -> np.ndarray:
        """Return the logs of the components' inner products with themselves, without their weights."""
        d = len(self.means)
        return np.asarray(-0.5 * (d * math.log(4 * math.pi) + self.log_determinants()))

    def log_determinants(self) -> np.ndarray:
        """Return the logs of the covariances' determinants."""
        factor = np.linalg.cholesky(self.covariances())
        return np.asarray(2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1))

    def radii(self) -> np.ndarray:
        """Return the covariances' largest eigenvalues."""
        return np.asarray(np.linalg.eigvalsh(self.covariances())[:, -1])

    def covariances(self) -> np.ndarray:
        """Return the covariances unpacked, shape (n, d, d)."""
        return full(self.packed, len(self.means))


def columns(mixture: GaussianMixture) -> Columns:
    """Lay a mixture out in columns."""
    rows, places = lower(mixture.dim)
    packed = np.ascontiguousarray(mixture.covariances[:, rows, places].T)
    return Columns(mixture.weights.copy(), np.ascontiguousarray(mixture.means.T), packed)


def whitening(mixture: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and a factor R of the mixture's covariance: R^-1 (x - mean) has the identity for covariance.

    The angle, and every criterion that an affine map only scales, stay as they are in these coordinates, where
    nothing is far from one. Where rounding makes the covariance indefinite, R only scales the axes.
    """
    covariance = mixture.covariance()
    scale = np.sqrt(np.diagonal(covariance))
    try:
        factor = np.linalg.cholesky(covariance / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        factor = np.eye(mixture.dim)
    return mixture.mean(), scale[:, None] * factor


def whitened(mixture: GaussianMixture, by: GaussianMixture | None = None) -> Columns:
    """Lay a mixture out in columns, in the coordinates of :func:`whitening` by itself or by another."""
    from scipy.linalg import solve_triangular

    mean, factor = whitening(by or mixture)
    means = solve_triangular(factor, (mixture.means - mean).T, lower=True)
    inverse = solve_triangular(factor, np.eye(mixture.dim), lower=True)
    spread = np.matmul(inverse, mixture.cholesky)
    rows, places = lower(mixture.dim)
    packed = np.matmul(spread, np.swapaxes(spread, 1, 2))[:, rows, places]
    return Columns(mixture.weights.copy(), np.ascontiguousarray(means), np.ascontiguousarray(packed.T))
