"""Quasi-Newton refinement of a reduced mixture: weights, means and covariances together.

The angle's gradient is singular where two mixtures agree, so we minimise the Cauchy-Schwarz divergence ``-log cos``,
which has the same minimisers. The parameters are the log weights, and each component's shift and lower-triangular
stretch in the coordinates of its own starting covariance, where all of them are of the order of one.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from sextet_common.checks import check

from gmr_metric.checks import same_dim
from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import full, log_self_kernels, lower
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_inner_product
from gmr_metric.loops.choice import implementation, numpy_seconds
from gmr_metric.loops.columns import Bounded, Gradients, whitened, whitening

Objective = Literal["cauchy-schwarz", "ise"]
_NEGLIGIBLE = 45.0  # kernels below exp(-45) of the largest are left out
_TOLERANCES = {"ftol": 1e-13, "gtol": 1e-9}
_ISE_WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0, math.inf)
_HALVINGS = 5


def refine(
    original: GaussianMixture,
    start: GaussianMixture,
    *,
    objective: Objective = "cauchy-schwarz",
    max_ise: float | None = None,
    max_iterations: int = 500,
) -> GaussianMixture:
    """Fit all parameters of a mixture near the original, such as the result of a reduction, to the original.

    The result has the components of the start in their order. It is never farther from the original than the start, in
    the objective and, if that is the angle, in the integral squared error.

    Parameters
    ----------
    objective
        ``cauchy-schwarz`` (the angle's minimisers) or ``ise`` (the squared L2 norm of the difference).
    max_ise
        The largest integral squared error allowed when the angle is minimised; by default that of the start. The
        angle ignores a mixture's norm, so its minimum far from the original may have a large squared error. In that
        case a growing share of the error is added to the objective. A start above a user-defined limit is replaced by
        a mixture below it, even at a larger angle. Not specified in the paper.
    max_iterations
        The largest number of L-BFGS steps for one share.

    Examples
    --------
    >>> original = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], np.ones((2, 1, 1)))
    >>> moments = GaussianMixture([1.0], [[0.0]], [[[2.0]]])
    >>> refine(original, moments).covariances.round(4).tolist()  # 1 + sqrt(2)
    [[[2.4142]]]
    """
    check("objective", objective, Objective)
    same_dim(original.dim, start.dim)
    try:
        problem = _Problem(original, start)
        first = problem.errors(np.zeros(problem.size))
    except np.linalg.LinAlgError:  # the mixtures do not overlap beyond rounding: there is no gradient
        return start
    if objective == "ise":
        parameters = problem.descend(np.zeros(problem.size), math.inf, max_iterations)
        return problem.mixture(parameters) if problem.errors(parameters).ise < first.ise else start
    limit = first.ise if max_ise is None else problem.scaled(max_ise)
    parameters = problem.within(limit, max_iterations)
    reached = problem.errors(parameters)
    if reached.ise <= limit and (first.ise > limit or reached.divergence < first.divergence):
        return problem.mixture(parameters)
    return start


class _Errors(NamedTuple):
    """Errors of a mixture: -log cos up to a constant, and the ISE over the original's squared norm."""

    divergence: float
    ise: float


class _Problem:
    """The errors of a parametrised mixture, in coordinates where the original is whitened."""

    def __init__(self, original: GaussianMixture, start: GaussianMixture) -> None:
        self._d, self._n = start.dim, len(start)
        self._mean, self._factor = whitening(original)
        f = whitened(original)
        self._f = f.bounded()
        self._kernels = implementation(numpy_seconds(500 * len(original) * len(start), f))
        self._log_scale = float(f.log_self().max())
        self._cut = float(2 * self._f.reach.max()) - _NEGLIGIBLE
        volume = float(np.log(np.diagonal(self._factor)).sum())
        self._log_norm = log_inner_product(original, original)
        self._norm = math.exp(self._log_norm + volume - self._log_scale)
        here = whitened(start, original)
        self._log_start = np.log(np.maximum(here.weights, 1e-12))
        self._means, self._roots = here.means.T, np.linalg.cholesky(here.covariances())
        self._rows, self._places = lower(self._d)
        self._diagonal = self._rows == self._places
        self.size = self._n * (1 + self._d + len(self._rows))

    def scaled(self, ise: float) -> float:
        """Divide an integral squared error by the original's squared norm."""
        return ise * math.exp(-self._log_norm)

    def mixture(self, parameters: np.ndarray) -> GaussianMixture:
        """Return the mixture with these parameters, in the original's coordinates."""
        weights, means, roots, _ = self._parts(parameters)
        spread = np.matmul(self._factor, roots)
        covariances = np.matmul(spread, np.swapaxes(spread, 1, 2))
        return GaussianMixture(weights, self._mean + means @ self._factor.T, covariances, normalize=True)

    def errors(self, parameters: np.ndarray) -> _Errors:
        """Return the errors of the mixture with these parameters."""
        weights, means, roots, _ = self._parts(parameters)
        across, within = self._overlaps(weights, means, roots)
        return self._errors(float(weights @ across.values), float(weights @ within.values))

    def within(self, limit: float, max_iterations: int) -> np.ndarray:
        """Minimise the divergence with the ISE within a limit, or the ISE if the limit cannot be reached.

        The share of the ISE in the objective grows until the limit is met; bisection then finds the least such share.
        """
        parameters, low = np.zeros(self.size), math.log(_ISE_WEIGHTS[1] / 10)
        for ise_weight in _ISE_WEIGHTS:
            parameters = self.descend(parameters, ise_weight, max_iterations)
            if self.errors(parameters).ise <= limit:
                break
            low = math.log(ise_weight) if ise_weight else low
        if ise_weight == 0:
            return parameters
        high = math.log(min(ise_weight, 100 * _ISE_WEIGHTS[-2]))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            trial = self.descend(parameters, math.exp(middle), max_iterations)
            if self.errors(trial).ise <= limit:
                parameters, high = trial, middle
            else:
                low = middle
        return parameters

    def descend(self, start: np.ndarray, ise_weight: float, max_iterations: int) -> np.ndarray:
        """Minimise the divergence plus a share of the ISE, or the ISE alone; return the best parameters evaluated."""
        from scipy.optimize import minimize

        best_value, best = math.inf, start

        def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best_value, best
            try:
                value, gradient = self._objective(parameters, ise_weight)
            except np.linalg.LinAlgError:  # the step is far too long: the line search takes a shorter one
                return abs(best_value) + 1e6, np.zeros_like(parameters)
            if value < best_value:
                best_value, best = value, parameters.copy()
            return value, gradient

        entries = [(-8.0, 8.0) if diagonal else (-3000.0, 3000.0) for diagonal in self._diagonal]
        minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            # Weights and axes stay within factors of e^20 and e^8 of the start, so that nothing over- or underflows.
            bounds=self._n * [(-20.0, 20.0)] + self._n * self._d * [(-1e6, 1e6)] + self._n * entries,
            options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, **_TOLERANCES},
        )
        return best

    def _objective(self, parameters: np.ndarray, ise_weight: float) -> tuple[float, np.ndarray]:
        """Return divergence + weight * ISE, or ISE alone at an infinite weight, and its derivatives."""
        weights, means, roots, stretch = self._parts(parameters)
        across, within = self._overlaps(weights, means, roots)
        a, b = float(weights @ across.values), float(weights @ within.values)
        errors = self._errors(a, b)
        if math.isinf(ise_weight):
            value, for_a, for_b = errors.ise, -2 / self._norm, 1 / self._norm
        else:
            value = errors.divergence + ise_weight * errors.ise
            for_a, for_b = -1 / a - 2 * ise_weight / self._norm, 0.5 / b + ise_weight / self._norm
        by_weight, by_mean, by_packed = (for_a * x + 2 * for_b * y for x, y in zip(across, within, strict=True))
        by_shift = weights[:, None] * np.einsum("nji,jn->ni", self._roots, by_mean)
        by_root = 2 * weights[:, None, None] * np.matmul(full(by_packed, self._d), roots)
        by_stretch = np.einsum("nji,njk->nik", self._roots, by_root)[:, self._rows, self._places]
        by_stretch[:, self._diagonal] *= stretch[:, self._rows, self._places][:, self._diagonal]
        by_log_weight = weights * (by_weight - weights @ by_weight)
        return value, np.concatenate([by_log_weight, by_shift.ravel(), by_stretch.ravel()])

    def _errors(self, a: float, b: float) -> _Errors:
        if not (a > 0 and b > 0 and math.isfinite(a + b)):
            raise np.linalg.LinAlgError("the mixtures do not overlap")
        return _Errors(0.5 * math.log(b) - math.log(a), (b - 2 * a) / self._norm + 1)

    def _parts(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return weights, means, roots of the covariances, and the stretches of the starting roots."""
        n, d = self._n, self._d
        logs = self._log_start + parameters[:n]
        weights = np.exp(logs - logs.max())
        means = self._means + np.einsum("nij,nj->ni", self._roots, parameters[n : n + n * d].reshape(n, d))
        entries = parameters[n + n * d :].reshape(n, -1).copy()
        entries[:, self._diagonal] = np.exp(entries[:, self._diagonal])
        stretch = np.zeros((n, d, d))
        stretch[:, self._rows, self._places] = entries
        return weights / weights.sum(), means, np.matmul(self._roots, stretch), stretch

    def _overlaps(self, weights: np.ndarray, means: np.ndarray, roots: np.ndarray) -> tuple[Gradients, Gradients]:
        """Return <f, g_l> and <g, g_l> with their derivatives in mean and packed covariance."""
        covariances = np.matmul(roots, np.swapaxes(roots, 1, 2))
        packed = np.ascontiguousarray(covariances[:, self._rows, self._places].T)
        spectra = np.linalg.eigvalsh(covariances)
        if not (spectra[:, 0] > self._d * np.finfo(float).eps * spectra[:, -1]).all():
            raise np.linalg.LinAlgError("a covariance is singular to rounding")
        log_determinants = 2 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
        reach = 0.5 * log_self_kernels(log_determinants, self._d)
        g = Bounded(weights, np.ascontiguousarray(means.T), packed, reach, spectra[:, -1].copy())
        weighted = g._replace(reach=log_of(weights) + reach)
        return self._gradients(self._f, g), self._gradients(weighted, g)

    def _gradients(self, f: Bounded, g: Bounded) -> Gradients:
        gradients: Gradients = self._kernels.overlap_gradients(f, g, self._log_scale, self._cut)
        return gradients
