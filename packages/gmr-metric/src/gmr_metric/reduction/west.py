"""West's reduction, the lightest component joins its nearest, and COWA, which also fits the weights."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gmr_metric.checks import one_of
from gmr_metric.reduction.greedy import Groups
from gmr_metric.distances.inner import log_gaussian, log_kernels
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.outcome import Outcome, Step

Dissimilarity = Literal["kl", "ise"]
Weighting = Literal["plain", "trace", "determinant"]

_FEW = 32  # neighbours whose error is computed at once, twice as many each time
_RESOLVED = 1e-13  # an integral squared error of less than this part of the squared norms is rounding: it counts as 0
_RIDGE = 1e-13  # keeps the table of normalised components regular where some are duplicates
_LEVEL = 1e-12  # a slope of less than this part of its terms is level


def west(
    mixture: GaussianMixture,
    n_components: int,
    *,
    dissimilarity: Dissimilarity = "kl",
    weighting: Weighting = "plain",
) -> Outcome:
    """Merge the component of the smallest weight with its nearest neighbour, again and again (West 1993).

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        How many to keep.
    dissimilarity
        What nearest means: ``kl``, the Kullback-Leibler divergence of the neighbour from the light component, or
        ``ise``, the integral squared error between the two densities.
    weighting
        What smallest means: by the weight itself (``plain``), or by the weight over the covariance's ``trace`` or
        ``determinant``, as enhanced versions have it (Chen, Chang and Smith 2010).

    Returns
    -------
    Outcome
        The groups; every step costs O(N) kernels.

    Raises
    ------
    InputError
        Where an option is unknown.

    Examples
    --------
    >>> three = GaussianMixture([0.1, 0.5, 0.4], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> west(three, 2).assignment.tolist()
    [0, 0, 1]
    """
    components = _Components(mixture, dissimilarity, weighting)
    groups, names = Groups(len(mixture)), np.arange(len(mixture))
    while len(names) > n_components:
        i, j, cost = components.merge_lightest()
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
    return groups.outcome()


def cowa(
    mixture: GaussianMixture,
    n_components: int,
    *,
    dissimilarity: Dissimilarity = "ise",
    weighting: Weighting = "trace",
) -> Outcome:
    """Constraint-optimised weight adaptation: West's merges, each followed by a fit of all weights.

    After every merge the weights minimise the integral squared error against the original mixture, subject to
    being at least 0 and summing to one. The paper (Chen, Chang and Smith 2010) has the sum alone; that no weight
    may turn negative is Crouse's (2011). A component whose weight becomes 0 is the next to be merged, and one may
    be left at the end.

    Parameters
    ----------
    mixture, n_components, dissimilarity, weighting
        As for :func:`west`.

    Returns
    -------
    Outcome
        The mixture of the fitted weights; its mean is not the original's. A step costs O(N) kernels, and the fit
        a few systems of as many unknowns as there are components.

    Raises
    ------
    InputError
        Where an option is unknown.

    Examples
    --------
    >>> three = GaussianMixture([0.1, 0.5, 0.4], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> cowa(three, 2).mixture.weights.round(3).tolist()
    [0.6, 0.4]
    """
    components = _Components(mixture, dissimilarity, weighting)
    groups, names = Groups(len(mixture)), np.arange(len(mixture))
    fit = _WeightFit(mixture)
    while len(names) > n_components:
        i, j, cost = components.merge_lightest()
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
        fit.merged(i, j, components)
        components.weights, error = fit.weights(components.weights)
        groups.history.append(Step("refine", (), len(names), error))
    fitted = GaussianMixture(components.weights, components.means, components.covariances, normalize=True)
    return Outcome(groups.outcome().assignment, fitted, tuple(groups.history))


class _Components:
    """The components as they are merged, with what it takes to find the lightest and its nearest kept beside them."""

    def __init__(self, mixture: GaussianMixture, dissimilarity: Dissimilarity, weighting: Weighting) -> None:
        one_of("dissimilarity", dissimilarity, ("kl", "ise"))
        one_of("weighting", weighting, ("plain", "trace", "determinant"))
        self._nearest = self._nearest_by_divergence if dissimilarity == "kl" else self._nearest_by_error
        self._weighting = weighting
        self.weights, self.means = mixture.weights.copy(), mixture.means.copy()
        self.covariances = mixture.covariances.copy()
        self._log_determinants = _log_determinants(self.covariances)
        self._precisions = np.linalg.inv(self.covariances)
        self._radii = np.linalg.eigvalsh(self.covariances)[:, -1]

    def merge_lightest(self) -> tuple[int, int, float]:
        """Merge the lightest component with its nearest, into the place of the first of the two.

        Returns
        -------
        int, int
            The two, in ascending order; the second's place is given up.
        float
            How unlike they were.
        """
        light = int(np.argmin(self._modified_weights()))
        near, cost = self._nearest(light)
        i, j = min(light, near), max(light, near)
        total = self.weights[i] + self.weights[j]
        share = self.weights[j] / total if total > 0 else 0.5  # weights that were fitted may both be 0
        offset = self.means[j] - self.means[i]
        within = (1 - share) * self.covariances[i] + share * self.covariances[j]
        self.weights[i] = total
        self.means[i] += share * offset
        self.covariances[i] = within + share * (1 - share) * np.outer(offset, offset)
        self._log_determinants[i] = _log_determinants(self.covariances[[i]])[0]
        self._precisions[i] = np.linalg.inv(self.covariances[i])
        self._radii[i] = np.linalg.eigvalsh(self.covariances[i])[-1]
        for name in ("weights", "means", "covariances", "_log_determinants", "_precisions", "_radii"):
            setattr(self, name, np.delete(getattr(self, name), j, axis=0))
        return i, j, cost

    def _modified_weights(self) -> np.ndarray:
        """Return the weights as the weighting has them, those by determinants as logarithms."""
        if self._weighting == "plain":
            return self.weights
        if self._weighting == "trace":
            return np.asarray(self.weights / np.trace(self.covariances, axis1=1, axis2=2))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.weights) - self._log_determinants)

    def _nearest_by_divergence(self, i: int) -> tuple[int, float]:
        """Return the j of the smallest KL(f_i || f_j), and that divergence."""
        offsets = self.means - self.means[i]
        pulls = np.matmul(self._precisions, offsets[:, :, None])[:, :, 0]
        traces = self._precisions.reshape(len(offsets), -1) @ self.covariances[i].ravel()
        logs = self._log_determinants - self._log_determinants[i]
        apart = 0.5 * (traces + (pulls * offsets).sum(axis=1) - offsets.shape[1] + logs)
        apart[i] = np.inf
        nearest = int(apart.argmin())
        return nearest, max(0.0, float(apart[nearest]))

    def _nearest_by_error(self, i: int) -> tuple[int, float]:
        """Return the j of the smallest integral squared error between the densities f_i and f_j, and that error.

        Kernels are computed in the order of a lower bound of the errors, and no longer once the bound is above the
        smallest: where K is a kernel and r the largest eigenvalues of the covariances,
        ``K_ij <= sqrt(K_ii K_jj) exp(-|m_i - m_j|^2 / (2 r_i + 2 r_j))``.
        """
        own = -0.5 * (self.means.shape[1] * math.log(4 * math.pi) + self._log_determinants)
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
        return nearest, _exp(float(errors[nearest]))


class _WeightFit:
    """The weights that bring merged components nearest to the original mixture in L2.

    It holds the components' inner products with one another and with the original, of which a merge changes
    one row. Each component is divided by its norm, so that wide and narrow ones are on one scale.
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        self._original = mixture
        logs = log_kernels(mixture, mixture)
        self._log_norms = 0.5 * np.diagonal(logs)
        self._reference = float(self._log_norms.max())
        self._table = np.exp(logs - self._log_norms[:, None] - self._log_norms)
        self._target = np.exp(logs - self._log_norms[:, None] - self._reference) @ mixture.weights
        self._squared_norm = float(mixture.weights @ (np.exp(self._log_norms - self._reference) * self._target))

    def merged(self, i: int, j: int, components: _Components) -> None:
        """Take note that j was merged into i, and of the components after it."""
        mean, covariance = components.means[i], components.covariances[i]
        across = log_gaussian(components.means - mean, components.covariances + covariance)
        self._log_norms = np.delete(self._log_norms, j)
        self._log_norms[i] = 0.5 * across[i]
        self._table = np.delete(np.delete(self._table, j, axis=0), j, axis=1)
        self._table[i] = self._table[:, i] = np.exp(across - self._log_norms[i] - self._log_norms)
        with_original = log_gaussian(self._original.means - mean, self._original.covariances + covariance)
        kernels = np.exp(with_original - self._log_norms[i] - self._reference)
        self._target = np.delete(self._target, j)
        self._target[i] = kernels @ self._original.weights

    def weights(self, start: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the best weights, found from some, and the integral squared error that they leave."""
        norms = np.exp(self._log_norms - self._reference)
        heights = least_squares_on_simplex(self._table, self._target, 1 / norms, start * norms)
        error = self._squared_norm + float(heights @ (self._table @ heights - 2 * self._target))
        weights = heights / norms
        return weights / weights.sum(), _exp(math.log(error) + 2 * self._reference) if error > 0 else 0.0


def least_squares_on_simplex(
    table: np.ndarray, target: np.ndarray, masses: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Minimise ``x^T H x - 2 h^T x`` over all x >= 0 with ``c^T x = 1``, by a primal active set.

    Parameters
    ----------
    table
        H, symmetric and positive semi-definite with a diagonal of ones, shape (n, n).
    target
        h, shape (n,).
    masses
        c, all positive, shape (n,).
    start
        An x that satisfies the constraints, shape (n,); the nearer to the solution, the sooner it is found.

    Returns
    -------
    numpy.ndarray
        The minimiser, shape (n,).
    """
    x, free, entered = start, start > 0, -1
    for _ in range(20 * len(x) + 20):
        wanted, due = _on_face(table, target, masses, free)
        if np.all(wanted[free] > 0):
            x = wanted
            # A component enters where it reduces the error more than what has weight does, beyond rounding.
            fitted = table @ x
            gain = np.where(free, 0.0, target + due - fitted)
            gain[gain <= _LEVEL * (target + np.abs(due) + fitted)] = 0.0
            entered = int(gain.argmax())
            if gain[entered] == 0.0:
                break
            free[entered] = True
        elif entered >= 0 and x[entered] == 0.0 and wanted[entered] <= 0:
            break  # what has just entered does not stay: the gain was rounding
        else:
            falling = free & (wanted <= 0)
            steps = np.full(len(x), np.inf)
            steps[falling] = x[falling] / (x[falling] - wanted[falling])
            x = x + steps.min() * (wanted - x)
            left = falling & ((steps == steps.min()) | (x <= 0))
            x[left], free[left] = 0.0, False
    return x


def _on_face(table: np.ndarray, target: np.ndarray, masses: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise over some components with negative x allowed; give x and the ``k c`` of ``H x = h + k c``."""
    chosen = np.flatnonzero(free)
    largest = masses[chosen].max()
    relative = masses / largest  # the squares of masses may be beyond all floats
    system = table[np.ix_(chosen, chosen)] + _RIDGE * np.eye(len(chosen))
    alone, spread = np.linalg.solve(system, np.column_stack([target[chosen], relative[chosen]])).T
    level = float((1 / largest - relative[chosen] @ alone) / (relative[chosen] @ spread))
    result = np.zeros(len(target))
    result[chosen] = alone + level * spread
    return result, level * relative


def _exp(value: float) -> float:
    """Return the exponential; infinity where narrow components in many dimensions have errors beyond all floats."""
    return math.exp(value) if value < 709 else math.inf


def _log_errors(own: float, others: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return the logs of ``K_ii + K_jj - 2 K_ij`` from the kernels' logs, -inf where that is within rounding of 0."""
    larger = np.maximum(own, others)
    parts = np.exp(own - larger) + np.exp(others - larger) - 2 * np.exp(across - larger)
    with np.errstate(divide="ignore"):
        return np.asarray(larger + np.log(np.where(parts > _RESOLVED, parts, 0.0)))


def _log_determinants(covariances: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(covariances)
    return np.asarray(2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1))
