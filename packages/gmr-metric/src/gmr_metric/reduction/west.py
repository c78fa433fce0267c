"""West's reduction: the lightest component joins its nearest neighbour."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from sextet_common.checks import check

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import log_determinants, log_gaussian, log_self_kernels
from gmr_metric.density.kinds import outer, traces
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.outcome import Outcome

Dissimilarity = Literal["kl", "ise"]
Weighting = Literal["plain", "trace", "determinant"]

_FEW = 32  # neighbours whose error is computed first; the number doubles each time
_RESOLVED = 1e-13  # an integral squared error below this fraction of the squared norms is rounding: it counts as 0


def west(
    mixture: GaussianMixture, n_components: int, *, dissimilarity: Dissimilarity = "kl", weighting: Weighting = "plain"
) -> Outcome:
    """Merge the component with the smallest weight with its nearest neighbour, repeatedly (West 1993).

    Every step costs O(N) kernels.

    Parameters
    ----------
    dissimilarity
        Defines the nearest: ``kl``, the Kullback-Leibler divergence of the neighbour from the light component, or
        ``ise``, the integral squared error between the two densities.
    weighting
        Defines the smallest: the weight itself (``plain``), or the weight over the covariance's ``trace`` or
        ``determinant``, as in enhanced versions (Chen, Chang and Smith 2010).

    Examples
    --------
    >>> three = GaussianMixture([0.1, 0.5, 0.4], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> west(three, 2).assignment.tolist()
    [0, 0, 1]
    """
    components = LightestFirst(mixture, dissimilarity, weighting)
    groups, names = Groups(len(mixture)), np.arange(len(mixture))
    while len(names) > n_components:
        i, j, cost = components.merge_lightest()
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
    return groups.outcome()


class LightestFirst:
    """The current components, with the cached terms that find the lightest one and its nearest neighbour."""

    def __init__(self, mixture: GaussianMixture, dissimilarity: Dissimilarity, weighting: Weighting) -> None:
        check("dissimilarity", dissimilarity, Dissimilarity)
        check("weighting", weighting, Weighting)
        self._nearest = self._nearest_by_divergence if dissimilarity == "kl" else self._nearest_by_error
        self._weighting = weighting
        self.weights, self.means = mixture.weights.copy(), mixture.means.copy()
        self.covariances = mixture.covariances.copy()
        self._log_determinants = log_determinants(self.covariances, mixture.dim)
        self._precisions, self._radii = _inverses(self.covariances), _largest(self.covariances)

    def merge_lightest(self) -> tuple[int, int, float]:
        """Merge the lightest component i or j with its nearest, in the place of i < j; return i, j and the cost."""
        light = int(np.argmin(self._modified_weights()))
        near, cost = self._nearest(light)
        i, j = min(light, near), max(light, near)
        total = self.weights[i] + self.weights[j]
        share = self.weights[j] / total if total > 0 else 0.5  # fitted weights may both be 0
        offset = self.means[j] - self.means[i]
        within = (1 - share) * self.covariances[i] + share * self.covariances[j]
        self.weights[i] = total
        self.means[i] += share * offset
        self.covariances[i] = within + share * (1 - share) * outer(offset[None], self.covariances.ndim)[0]
        merged = self.covariances[[i]]
        self._log_determinants[i] = log_determinants(merged, len(offset))[0]
        self._precisions[i], self._radii[i] = _inverses(merged)[0], _largest(merged)[0]
        for name in ("weights", "means", "covariances", "_log_determinants", "_precisions", "_radii"):
            setattr(self, name, np.delete(getattr(self, name), j, axis=0))
        return i, j, cost

    def _modified_weights(self) -> np.ndarray:
        """Return the weights as the weighting defines them; with determinants, their logs."""
        modified: np.ndarray = self.weights
        if self._weighting == "determinant":
            modified = log_of(self.weights) - self._log_determinants
        elif self._weighting == "trace":
            modified = self.weights / traces(self.covariances, self.means.shape[1])
        return modified

    def _nearest_by_divergence(self, i: int) -> tuple[int, float]:
        """Return the j with the smallest KL(f_i || f_j), and that divergence."""
        offsets = self.means - self.means[i]
        precisions = self._precisions.reshape(len(offsets), -1)
        if self._precisions.ndim == 3:
            pulls = np.matmul(self._precisions, offsets[:, :, None])[:, :, 0]
        else:
            pulls = offsets * precisions
        shared = offsets.shape[1] if self._precisions.ndim == 1 else 1  # dimensions with one variance
        products = shared * (precisions @ self.covariances[i].ravel())
        logs = self._log_determinants - self._log_determinants[i]
        divergences = 0.5 * (products + (pulls * offsets).sum(axis=1) - offsets.shape[1] + logs)
        divergences[i] = np.inf
        nearest = int(divergences.argmin())
        return nearest, max(0.0, float(divergences[nearest]))

    def _nearest_by_error(self, i: int) -> tuple[int, float]:
        """Return the j with the smallest integral squared error between the densities f_i and f_j, and that error.

        Kernels K are computed in the order of a lower bound of the errors, until the bound exceeds the smallest error.
        With r the largest eigenvalues of the covariances,
        ``K_ij <= sqrt(K_ii K_jj) exp(-|m_i - m_j|^2 / (2 r_i + 2 r_j))``.
        """
        own = log_self_kernels(self._log_determinants, self.means.shape[1])
        offsets = self.means - self.means[i]
        largest = 0.5 * (own[i] + own - (offsets**2).sum(axis=1) / (self._radii[i] + self._radii))
        bounds = _log_errors(own[i], own, largest) - 1e-9  # the bound is rounded too
        bounds[i] = np.inf
        order = np.argsort(bounds, kind="stable")
        errors = np.full(len(own), np.inf)
        start, size, best = 0, _FEW, np.inf
        while start < len(order) - 1 and bounds[order[start]] <= best:
            chosen = order[start : start + size]
            across = log_gaussian(offsets[chosen], self.covariances[chosen] + self.covariances[i])
            errors[chosen] = _log_errors(own[i], own[chosen], across)
            errors[i] = np.inf
            best = errors.min()
            start, size = start + size, 2 * size
        nearest = int(errors.argmin())
        return nearest, finite_exp(float(errors[nearest]))


def _inverses(covariances: np.ndarray) -> np.ndarray:
    inverses: np.ndarray = np.linalg.inv(covariances) if covariances.ndim == 3 else 1 / covariances
    return inverses


def _largest(covariances: np.ndarray) -> np.ndarray:
    """Return the largest eigenvalues."""
    if covariances.ndim == 3:
        covariances = np.linalg.eigvalsh(covariances)
    largest: np.ndarray = covariances.reshape(len(covariances), -1).max(axis=1)
    return largest


def finite_exp(value: float) -> float:
    """Return the exponential, or infinity: narrow components in many dimensions have errors beyond all floats."""
    return math.exp(value) if value < 709 else math.inf


def _log_errors(own: float, others: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return the logs of ``K_ii + K_jj - 2 K_ij`` from the kernels' logs, -inf if it is within rounding of 0."""
    larger = np.maximum(own, others)
    parts = np.exp(own - larger) + np.exp(others - larger) - 2 * np.exp(across - larger)
    logs: np.ndarray = larger + log_of(np.where(parts > _RESOLVED, parts, 0.0))
    return logs
