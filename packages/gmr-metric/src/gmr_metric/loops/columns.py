"""Components in columns, the layout of the inner loops, and whitened coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import (
    log_determinants,
    log_self_kernels,
    packed_covariances,
    packed_outer,
    packed_radii,
    unpacked,
)
from gmr_metric.density.mixture import GaussianMixture


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


class Columns(NamedTuple):
    """Weights (n,), means (d, n) and packed covariances (T, n): the lower triangles, the variances or one of them."""

    weights: np.ndarray
    means: np.ndarray
    packed: np.ndarray

    def take(self, chosen: np.ndarray) -> Columns:
        """Keep the chosen components."""
        return Columns(*(array.take(chosen, axis=-1) for array in self))

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Replace components i by their moment-preserving merges with j, projected to the type, pair by pair."""
        total = self.weights[i] + self.weights[j]
        q = self.weights[j] / total
        e = self.means[:, j] - self.means[:, i]
        spread = self.packed[:, i] + q * packed_outer(e, len(self.packed))
        self.packed[:, i] = (1 - q) * spread + q * self.packed[:, j]
        self.means[:, i] += q * e
        self.weights[i] = total

    def log_self(self) -> np.ndarray:
        """Return the logs of the components' inner products with themselves, without their weights."""
        return log_self_kernels(self.log_determinants(), len(self.means))

    def log_determinants(self) -> np.ndarray:
        """Return the logs of the covariances' determinants."""
        return log_determinants(self.covariances(), len(self.means))

    def bounded(self, *, weighted: bool = True, log_weights: bool = False) -> Bounded:
        """Add the bounds; ``weighted`` counts the weights in the reach, ``log_weights`` replaces them by their logs."""
        logs = log_of(self.weights)
        reach = (logs if weighted else 0.0) + 0.5 * self.log_self()
        weights = logs if log_weights else self.weights
        return Bounded(weights, self.means, self.packed, reach, packed_radii(self.packed, len(self.means)))

    def covariances(self) -> np.ndarray:
        """Return the covariances unpacked: (n, d, d), (n, d) or (n,)."""
        return unpacked(self.packed, len(self.means))

    def mixture(self, by: Whitening | None = None) -> GaussianMixture:
        """Return the components as a mixture, out of the whitened coordinates if these are given."""
        means, covariances = self.means.T, self.covariances()
        if by is not None:
            means, covariances = by.unwhitened(means, covariances)
        return GaussianMixture(self.weights, means, covariances, normalize=True)


class Whitening(NamedTuple):
    """The map ``x = mean + R z`` from coordinates z in which a mixture has the identity as covariance.

    R, a matrix (d, d), keeps angles and every criterion that an affine map only scales; all numbers are of the order of
    one in its coordinates. To keep the type of covariances it is a scale per axis (d,) for diagonal ones, and one
    number () for spherical ones.
    """

    mean: np.ndarray
    factor: np.ndarray

    @property
    def log_volume(self) -> float:
        """The log of the determinant of R."""
        if self.factor.ndim == 2:
            return float(np.log(np.diagonal(self.factor)).sum())
        return float(np.log(self.factor).sum()) * (len(self.mean) if self.factor.ndim == 0 else 1)

    def unwhitened(self, means: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means (n, d) and covariances of the mixture's type in its own coordinates."""
        if self.factor.ndim == 2:
            spread = np.matmul(self.factor, np.linalg.cholesky(covariances))
            return self.mean + means @ self.factor.T, np.matmul(spread, np.swapaxes(spread, 1, 2))
        return self.mean + means * self.factor, covariances * self.factor**2


def columns(mixture: GaussianMixture) -> Columns:
    """Return a mixture's components in columns."""
    means = np.array(mixture.means.T, order="C")
    return Columns(mixture.weights.copy(), means, packed_covariances(mixture.covariances))


def whitening(mixture: GaussianMixture) -> Whitening:
    """Return the map that whitens a mixture; if rounding makes its covariance indefinite, it only scales the axes."""
    if mixture.covariance_type != "full" and mixture.dim > 1:
        variances = mixture.variances()
        return Whitening(mixture.mean(), np.sqrt(variances if mixture.covariance_type == "diag" else variances.mean()))
    covariance = mixture.covariance()
    scale = np.sqrt(np.diagonal(covariance))
    try:
        factor = np.linalg.cholesky(covariance / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        factor = np.eye(mixture.dim)
    return Whitening(mixture.mean(), scale[:, None] * factor)


def whitened(mixture: GaussianMixture, by: GaussianMixture | None = None) -> Columns:
    """Return a mixture's components in columns, whitened by itself or by another mixture of its type."""
    mean, factor = whitening(by or mixture)
    if factor.ndim < 2:
        means = np.ascontiguousarray(((mixture.means - mean) / factor).T)
        return Columns(mixture.weights.copy(), means, packed_covariances(mixture.covariances / factor**2))
    scale = np.diagonal(factor)
    inverse = np.linalg.inv(factor / scale[:, None]) / scale
    means = inverse @ (mixture.means - mean).T
    spread = np.matmul(inverse, mixture.cholesky.reshape(len(mixture), mixture.dim, -1))
    packed = packed_covariances(np.matmul(spread, np.swapaxes(spread, 1, 2)))
    return Columns(mixture.weights.copy(), np.ascontiguousarray(means), packed)
