"""Components in columns, the layout of the inner loops, and whitened coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import full, log_determinants, log_self_kernels, lower
from gmr_metric.density.mixture import GaussianMixture

SALMOND, RUNNALLS, SQUARED_CHANGE = 0, 1, 2  # the costs that the compiled greedy loop knows


class Bounded(NamedTuple):
    """:class:`Columns` with bounds of their kernels (Cauchy and Schwarz); for ``log_inner`` the weights are logs.

    ``reach`` (n,) is the log weight, if it counts, plus half the log of the inner product with itself, ``radii`` (n,)
    the covariances' largest eigenvalues.
    """

    weights: np.ndarray
    means: np.ndarray
    packed: np.ndarray
    reach: np.ndarray
    radii: np.ndarray


class Gradients(NamedTuple):
    """Inner products of a mixture with components (n,), and derivatives in their means (d, n) and packed covariances.

    The latter, of shape (T, n), are off the diagonal those of one of the two equal entries.
    """

    values: np.ndarray
    means: np.ndarray
    packed: np.ndarray


class Columns(NamedTuple):
    """Weights (n,), means (d, n) and the covariances' lower triangles row after row, (T, n) with T = d (d + 1) / 2."""

    weights: np.ndarray
    means: np.ndarray
    packed: np.ndarray

    def take(self, chosen: np.ndarray) -> Columns:
        """Keep the chosen components."""
        return Columns(*(np.ascontiguousarray(array[..., chosen]) for array in self))

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Replace components i by their moment-preserving merges with j, pair by pair."""
        total = self.weights[i] + self.weights[j]
        q = self.weights[j] / total
        e = self.means[:, j] - self.means[:, i]
        rows, places = lower(len(e))
        self.packed[:, i] = (1 - q) * (self.packed[:, i] + q * e[rows] * e[places]) + q * self.packed[:, j]
        self.means[:, i] += q * e
        self.weights[i] = total

    def log_self(self) -> np.ndarray:
        """Return the logs of the components' inner products with themselves, without their weights."""
        return log_self_kernels(self.log_determinants(), len(self.means))

    def log_determinants(self) -> np.ndarray:
        """Return the logs of the covariances' determinants."""
        return log_determinants(self.covariances())

    def bounded(self, *, weighted: bool = True, log_weights: bool = False) -> Bounded:
        """Add the bounds; ``weighted`` counts the weights in the reach, ``log_weights`` replaces them by their logs."""
        logs = log_of(self.weights)
        reach = (logs if weighted else 0.0) + 0.5 * self.log_self()
        radii = np.linalg.eigvalsh(self.covariances())[:, -1].copy()  # contiguous: numba compiles once
        return Bounded(logs if log_weights else self.weights, self.means, self.packed, reach, radii)

    def covariances(self) -> np.ndarray:
        """Return the covariances unpacked, shape (n, d, d)."""
        return full(self.packed, len(self.means))


def columns(mixture: GaussianMixture) -> Columns:
    """Return a mixture's components in columns."""
    rows, places = lower(mixture.dim)
    packed = np.ascontiguousarray(mixture.covariances[:, rows, places].T)
    return Columns(mixture.weights.copy(), np.ascontiguousarray(mixture.means.T), packed)


def whitening(mixture: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and a factor R of the mixture's covariance: R^-1 (x - mean) has the identity as covariance.

    The angle, and every criterion that an affine map only scales, are the same in these coordinates, where all numbers
    are of the order of one. If rounding makes the covariance indefinite, R only scales the axes.
    """
    covariance = mixture.covariance()
    scale = np.sqrt(np.diagonal(covariance))
    try:
        factor = np.linalg.cholesky(covariance / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        factor = np.eye(mixture.dim)
    return mixture.mean(), scale[:, None] * factor


def whitened(mixture: GaussianMixture, by: GaussianMixture | None = None) -> Columns:
    """Return a mixture's components in columns, whitened by itself or by another mixture."""
    from scipy.linalg import solve_triangular

    mean, factor = whitening(by or mixture)
    means = solve_triangular(factor, (mixture.means - mean).T, lower=True)
    inverse = solve_triangular(factor, np.eye(mixture.dim), lower=True)
    spread = np.matmul(inverse, mixture.cholesky)
    rows, places = lower(mixture.dim)
    packed = np.matmul(spread, np.swapaxes(spread, 1, 2))[:, rows, places]
    return Columns(mixture.weights.copy(), np.ascontiguousarray(means), np.ascontiguousarray(packed.T))
