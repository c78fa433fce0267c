"""COWA: West's merges, each followed by a constrained fit of all weights."""

from __future__ import annotations

import math

import numpy as np

from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_kernels
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.outcome import Outcome, Step
from gmr_metric.reduction.west import Dissimilarity, LightestFirst, Weighting, finite_exp

_RIDGE = 1e-13  # keeps the table of normalised components regular if some are duplicates
_LEVEL = 1e-12  # a slope below this fraction of its terms counts as zero


def cowa(
    mixture: GaussianMixture, n_components: int, *, dissimilarity: Dissimilarity = "ise", weighting: Weighting = "trace"
) -> Outcome:
    """Constraint-optimised weight adaptation: West's merges, each followed by a fit of all weights.

    After every merge the weights minimise the integral squared error against the original mixture, subject to being
    non-negative and summing to one. The paper (Chen, Chang and Smith 2010) constrains the sum alone; non-negativity is
    Crouse's (2011). A component whose weight becomes 0 is merged next, and one may remain at the end. The mean is not
    the original's. A step costs O(N) kernels, and the fit a few systems with as many unknowns as there are components.
    The options are those of :func:`~gmr_metric.reduction.west.west`.

    Examples
    --------
    >>> three = GaussianMixture([0.1, 0.5, 0.4], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> cowa(three, 2).mixture.weights.round(3).tolist()
    [0.6, 0.4]
    """
    components = LightestFirst(mixture, dissimilarity, weighting)
    groups, names, history = Groups(len(mixture)), np.arange(len(mixture)), list[Step]()
    fit = _WeightFit(mixture)
    while len(names) > n_components:
        i, j, cost = components.merge_lightest()
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
        fit.merged(i, j, components)
        components.weights, error = fit.weights(components.weights)
        history += (groups.history[-1], Step("refine", (), len(names), error))
    fitted = GaussianMixture(components.weights, components.means, components.covariances, normalize=True)
    return Outcome(groups.outcome().assignment, fitted, history)


class _WeightFit:
    """The weights of merged components with the smallest L2 distance to the original mixture.

    It holds the components' inner products with one another and with the original; a merge changes one row of each.
    Components are divided by their norms, so that wide and narrow ones have the same scale.
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        self._original = mixture
        logs = log_kernels(mixture, mixture)
        self._log_norms = 0.5 * np.diagonal(logs)
        self._reference = float(self._log_norms.max())
        self._table = np.exp(logs - self._log_norms[:, None] - self._log_norms)
        self._target = np.exp(logs - self._log_norms[:, None] - self._reference) @ mixture.weights
        self._squared_norm = float(mixture.weights @ (np.exp(self._log_norms - self._reference) * self._target))

    def merged(self, i: int, j: int, components: LightestFirst) -> None:
        """Update the tables after j was merged into i; ``components`` are those after the merge."""
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
        """Return the best weights, searched from a start, and the remaining integral squared error."""
        norms = np.exp(self._log_norms - self._reference)
        heights = least_squares_on_simplex(self._table, self._target, 1 / norms, start * norms)
        error = self._squared_norm + float(heights @ (self._table @ heights - 2 * self._target))
        weights = heights / norms
        return weights / weights.sum(), finite_exp(math.log(error) + 2 * self._reference) if error > 0 else 0.0


def least_squares_on_simplex(
    table: np.ndarray, target: np.ndarray, masses: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Minimise ``x^T H x - 2 h^T x`` over all x >= 0 with ``c^T x = 1``, by a primal active set.

    H is the ``table``, shape (n, n), symmetric and positive semi-definite with a diagonal of ones; h the ``target``; c
    the ``masses``, all positive. ``start`` satisfies the constraints; the nearer to the solution, the faster.
    """
    x, free, entered = start, start > 0, -1
    for _ in range(20 * len(x) + 20):
        candidate, due = _on_face(table, target, masses, free)
        if np.all(candidate[free] > 0):
            x = candidate
            # A component enters if it reduces the error more than those of positive weight, beyond rounding.
            fitted = table @ x
            gain = np.where(free, 0.0, target + due - fitted)
            gain[gain <= _LEVEL * (target + np.abs(due) + fitted)] = 0.0
            entered = int(gain.argmax())
            if gain[entered] == 0.0:
                break
            free[entered] = True
        elif entered >= 0 and x[entered] == 0.0 and candidate[entered] <= 0:
            break  # the component that has just entered leaves again: the gain was rounding
        else:
            falling = free & (candidate <= 0)
            steps = np.full(len(x), np.inf)
            steps[falling] = x[falling] / (x[falling] - candidate[falling])
            x = x + steps.min() * (candidate - x)
            left = falling & ((steps == steps.min()) | (x <= 0))
            x[left], free[left] = 0.0, False
    return x


def _on_face(table: np.ndarray, target: np.ndarray, masses: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise over the free components, of either sign; return x and the ``k c`` of ``H x = h + k c``."""
    chosen = np.flatnonzero(free)
    largest = masses[chosen].max()
    relative = masses / largest  # squared masses may overflow
    system = table[np.ix_(chosen, chosen)] + _RIDGE * np.eye(len(chosen))
    alone, spread = np.linalg.solve(system, np.column_stack([target[chosen], relative[chosen]])).T
    level = float((1 / largest - relative[chosen] @ alone) / (relative[chosen] @ spread))
    result = np.zeros(len(target))
    result[chosen] = alone + level * spread
    return result, level * relative
