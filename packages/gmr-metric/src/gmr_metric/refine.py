"""Quasi-Newton refinement of a reduced mixture: weights, means and covariances together.

The angle has a singular gradient where two mixtures agree, so the Cauchy-Schwarz divergence
``-log cos`` is minimised in its place: it has the same minimisers. The parameters are the
log weights, and each component's shift and lower-triangular stretch in the coordinates of its
own starting covariance, where all of them are of the order of one.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.kernels import Columns, implementation, unpacked, whitened, whitening
from gmr_metric.mixture import GaussianMixture

Objective = Literal["cauchy-schwarz", "ise"]
_NEGLIGIBLE = 60.0  # kernels below exp(-60) of the largest are left out


def refine(
    original: GaussianMixture,
    start: GaussianMixture,
    *,
    objective: Objective = "cauchy-schwarz",
    max_iterations: int = 500,
) -> GaussianMixture:
    """Fit all parameters of a reduced mixture to the original.

    Parameters
    ----------
    original
        The mixture to come near to.
    start
        A mixture of L components in the same dimensions, near the original: one that a reduction gave.
    objective
        ``cauchy-schwarz`` (the angle's minimisers) or ``ise`` (the squared L2 norm of the difference).
    max_iterations
        At most so many steps of L-BFGS.

    Returns
    -------
    GaussianMixture
        Of L components in the order of the start; never farther from the original than the start is.

    Raises
    ------
    InputError
        Where the objective is unknown or the dimensions differ.

    Examples
    --------
    >>> original = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], np.ones((2, 1, 1)))
    >>> moments = GaussianMixture([1.0], [[0.0]], [[[2.0]]])
    >>> refine(original, moments).covariances.round(4).tolist()
    [[[1.9056]]]
    """
    from scipy.optimize import minimize

    if objective not in ("cauchy-schwarz", "ise"):
        raise InputError(f"objective is {objective!r}", "cauchy-schwarz, ise")
    if original.dim != start.dim:
        raise InputError(f"mixtures of {original.dim} and {start.dim} dimensions", "the same number of dimensions")
    problem = _Problem(original, start, objective)
    solved = minimize(
        problem.value_and_gradient,
        np.zeros(problem.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-9},
    )
    return problem.mixture(problem.best) if problem.improved else start


class _Problem:
    """The divergence of a parametrised mixture from the original, in whitened coordinates."""

    def __init__(self, original: GaussianMixture, start: GaussianMixture, objective: Objective) -> None:
        self._d, self._n = start.dim, len(start)
        self._objective = objective
        self._mean, self._factor = whitening(original)
        f = self._f = whitened(original)
        self._inner = implementation(len(original))
        logs = f.log_self()
        self._log_scale = float(logs.max())
        with np.errstate(divide="ignore"):
            self._f_reach = np.log(f.weights) + 0.5 * logs
        self._f_radii = f.radii()
        self._cut = float(2 * self._f_reach.max()) - _NEGLIGIBLE
        here = whitened(start, original)
        self._log_start = np.log(np.maximum(here.weights, 1e-12))
        self._means, self._roots = here.means.T, np.linalg.cholesky(here.covariances())
        self._rows, self._places = np.tril_indices(self._d)
        self._diagonal = self._rows == self._places
        self.size = self._n * (1 + self._d + len(self._rows))
        value, _ = self._divergence(*self._parts(np.zeros(self.size))[:3])
        self._start = self._best_value = value
        self.best = np.zeros(self.size)

    @property
    def improved(self) -> bool:
        """Whether some parameters were better than the start."""
        return self._best_value < self._start

    def mixture(self, parameters: np.ndarray) -> GaussianMixture:
        """Return the mixture of some parameters, in the original's coordinates."""
        weights, means, roots, _ = self._parts(parameters)
        spread = np.matmul(self._factor, roots)
        covariances = np.matmul(spread, np.swapaxes(spread, 1, 2))
        return GaussianMixture(weights, self._mean + means @ self._factor.T, covariances, normalize=True)

    def value_and_gradient(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the divergence and its derivatives in the parameters."""
        weights, means, roots, stretch = self._parts(parameters)
        value, (by_weight, by_mean, by_covariance) = self._divergence(weights, means, roots)
        if value < self._best_value:
            self._best_value, self.best = value, parameters.copy()
        by_log_weight = weights * (by_weight - weights @ by_weight)
        by_shift = np.einsum("nji,nj->ni", self._roots, by_mean)
        by_root = 2 * np.matmul(by_covariance, roots)
        by_stretch = np.einsum("nji,njk->nik", self._roots, by_root)[:, self._rows, self._places]
        by_stretch[:, self._diagonal] *= stretch[:, self._rows, self._places][:, self._diagonal]
        return value, np.concatenate([by_log_weight, by_shift.ravel(), by_stretch.ravel()])

    def _parts(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return weights, means, roots of the covariances, and the stretches of the starting roots."""
        n, d = self._n, self._d
        logs = self._log_start + parameters[:n]
        weights = np.exp(logs - logs.max())
        means = self._means + np.einsum("nij,nj->ni", self._roots, parameters[n : n + n * d].reshape(n, d))
        entries = parameters[n + n * d :].reshape(n, -1).copy()
        entries[:, self._diagonal] = np.exp(entries[:, self._diagonal].clip(-50, 50))
        stretch = np.zeros((n, d, d))
        stretch[:, self._rows, self._places] = entries
        return weights / weights.sum(), means, np.matmul(self._roots, stretch), stretch

    def _divergence(
        self, weights: np.ndarray, means: np.ndarray, roots: np.ndarray
    ) -> tuple[float, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return the divergence, and its derivatives in weights, means and covariances."""
        packed = np.matmul(roots, np.swapaxes(roots, 1, 2))[:, self._rows, self._places].T
        g = Columns(weights, np.ascontiguousarray(means.T), np.ascontiguousarray(packed))
        reach, radii = 0.5 * g.log_self(), g.radii()
        across = self._overlaps(self._f, self._f_reach, self._f_radii, g, reach, radii)
        with np.errstate(divide="ignore"):
            own_reach = np.log(weights) + reach
        within = self._overlaps(g, own_reach, radii, g, reach, radii)
        a, b = float(weights @ across[0]), float(weights @ within[0])
        if self._objective == "ise":
            value, for_a, for_b = b - 2 * a, -2.0, 1.0
        elif a > 0 and b > 0:
            value, for_a, for_b = 0.5 * math.log(b) - math.log(a), -1 / a, 0.5 / b
        else:
            return math.inf, (np.zeros_like(weights), np.zeros_like(means), np.zeros_like(roots))
        by_weight, by_mean, by_packed = (
            for_a * x + 2 * for_b * y for x, y in zip(across, within, strict=True)
        )
        by_covariance = weights[:, None, None] * unpacked(by_packed.T, self._d)
        return value, (by_weight, weights[:, None] * by_mean.T, by_covariance)

    def _overlaps(
        self,
        f: Columns,
        f_reach: np.ndarray,
        f_radii: np.ndarray,
        g: Columns,
        reach: np.ndarray,
        radii: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return <f, g_l> for each component of g, with derivatives in its mean and packed covariance."""
        n = len(g.weights)
        result = np.empty(n), np.empty((self._d, n)), np.empty((len(self._rows), n))
        self._inner.overlap_gradients(
            f.weights, f.means, f.packed, f_reach, f_radii, g.means, g.packed, reach, radii, self._log_scale, self._cut, *result
        )
        return result


