"""The Gaussian-sum filter: a bank of Kalman filters whose mixture is reduced after each step.

Source: H. W. Sorenson and D. L. Alspach, "Recursive Bayesian estimation using Gaussian sums", Automatica 7 (1971).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp
from sextet_common.checks import Count, Positive, check_fields
from sextet_common.errors import InputError

from gmr_metric.checks import as_floats
from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.models import Image, Model, image, weighted_products
from gmr_metric.reduction.api import check_method, reduce

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Estimate", "GaussianSumFilter", "Model"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A filter's state before (``predicted``) and after a measurement (``posterior``).

    ``log_likelihood`` is the measurement's log density given all earlier ones. Without a measurement it is 0, and the
    posterior is the predicted state.
    """

    predicted: GaussianMixture
    posterior: GaussianMixture
    log_likelihood: float


@dataclass(frozen=True)
class GaussianSumFilter:
    """A Gaussian-sum filter, linear for models with a matrix and unscented for those with a function.

    A prediction has one component per pair of components of the state and of the transition's noise, an update one per
    pair of components of the state and of the sensor's noise. If these are more than ``n_components``
    (None for no limit), :func:`gmr_metric.reduce` reduces them by ``method`` with the keywords ``options``. With one
    component throughout, this is the Kalman filter. Motion and measurements correlate dimensions, so that diagonal and
    spherical covariances of a prior or a noise become full.

    Parameters
    ----------
    alpha, beta, kappa
        The unscented transform's parameters. The points lie ``alpha * sqrt(d + kappa)`` standard deviations from the
        mean. The defaults give no point in the centre and no negative weight, so that covariances stay positive
        definite (the cubature filter of I. Arasaratnam and S. Haykin, 2009). The frequent choice ``alpha=1e-3`` gives
        the centre a weight of about -1e6, which costs digits and may cost definiteness.

    Examples
    --------
    A position and a velocity, where one measured position in twenty has an error of 10:

    >>> transition = Model([[1.0, 1.0], [0.0, 1.0]], 0.01 * np.eye(2))
    >>> noise = GaussianMixture([0.95, 0.05], [[0.0], [0.0]], [[[1.0]], [[100.0]]])
    >>> sensor = Model([[1.0, 0.0]], noise)
    >>> tracker = GaussianSumFilter(n_components=5)
    >>> state = GaussianMixture([1.0], [[0.0, 1.0]], [np.eye(2)])
    >>> for estimate in tracker.run(state, [[1.2], [1.9], [19.0], None, [5.1]], transition, sensor):
    ...     print(estimate.posterior.mean().round(1), round(estimate.log_likelihood, 1))
    [1.1 1.1] -1.5
    [2. 1.] -1.5
    [3.2 1.1] -7.5
    [4.3 1.1] 0.0
    [5.1 1. ] -1.9
    """

    n_components: Count | None = 20
    method: str = "runnalls"
    options: Mapping[str, Any] = field(default_factory=dict)
    alpha: Positive = 1.0
    beta: float = 0.0
    kappa: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_method(self.method)

    def predict(self, state: GaussianMixture, transition: Model) -> GaussianMixture:
        """Return the next state's distribution; both states have the transition's number of dimensions.

        Examples
        --------
        >>> state = GaussianMixture([1.0], [[3.0]], [[[1.0]]])
        >>> GaussianSumFilter().predict(state, Model([[2.0]], [[0.5]])).covariances.tolist()
        [[[4.5]]]
        """
        d = state.dim
        if transition.dim != d:
            raise InputError(f"the transition's noise must have {d} dimensions like the state, got {transition.dim}")
        moved = self._image(state, transition, "transition")
        weights, offsets, covariances = transition.noise_arrays
        return self._reduced(
            GaussianMixture(
                np.outer(state.weights, weights).ravel(),
                (moved.means[:, None] + offsets).reshape(-1, d),
                (moved.covariances()[:, None] + covariances).reshape(-1, d, d),
                normalize=True,
            )
        )

    def update(
        self, state: GaussianMixture, measurement: Float[np.ndarray, " out"] | None, sensor: Model
    ) -> tuple[GaussianMixture, float]:
        """Condition the state, of d dimensions, on a measurement of shape (m,); None if there is none.

        Also return the log density of the measurement, 0 if there is none.

        Examples
        --------
        >>> state = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> posterior, log_likelihood = GaussianSumFilter().update(state, [2.0], Model([[1.0]], [[1.0]]))
        >>> posterior.means.tolist(), round(log_likelihood, 6)
        ([[1.0]], -2.265512)
        """
        if measurement is None:
            return state, 0.0
        z = as_floats("the measurement", measurement, (sensor.dim,))
        seen = self._image(state, sensor, "sensor")
        weights, offsets, noise = sensor.noise_arrays
        predicted = seen.means[:, None] + offsets
        innovation = sensor.subtract(np.broadcast_to(z, predicted.shape), predicted)
        spread = seen.covariances()[:, None] + noise
        try:
            log_densities = log_gaussian(innovation, spread)
        except np.linalg.LinAlgError:
            raise InputError(
                "the predicted measurement's covariance is not positive definite",
                "measurement noise of full rank, and an unscented transform without large negative weights",
            ) from None
        log_weights = log_of(np.outer(state.weights, weights)) + log_densities
        log_likelihood = float(logsumexp(log_weights))
        means, covariances = _conditioned(state, seen, innovation, spread, noise)
        posterior = GaussianMixture(
            np.exp(log_weights - log_likelihood).ravel(),
            means.reshape(-1, state.dim),
            covariances.reshape(-1, state.dim, state.dim),
            normalize=True,
        )
        return self._reduced(posterior), log_likelihood

    def run(
        self,
        prior: GaussianMixture,
        measurements: Iterable[Float[np.ndarray, " out"] | None],
        transition: Model,
        sensor: Model,
    ) -> Iterator[Estimate]:
        """Predict and update once per measurement, as they arrive, and yield an estimate for each.

        The prior is the state's distribution one step before the first measurement. A measurement has shape (m,), or is
        None if it is missing. If the models change, for example with uneven intervals, call :meth:`predict` and
        :meth:`update` in a loop.
        """
        state = prior
        for measurement in measurements:
            predicted = self.predict(state, transition)
            state, log_likelihood = self.update(predicted, measurement, sensor)
            yield Estimate(predicted, state, log_likelihood)

    def _reduced(self, mixture: GaussianMixture) -> GaussianMixture:
        if self.n_components is None or len(mixture) <= self.n_components:
            return mixture
        return reduce(mixture, self.n_components, self.method, **self.options).mixture

    def _image(self, state: GaussianMixture, model: Model, role: str) -> Image:
        return image(state, model, (self.alpha, self.beta, self.kappa), role)


def _conditioned(
    state: GaussianMixture, seen: Image, innovation: np.ndarray, spread: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior means (N, M, d) and covariances for every component of the state and the noise."""
    cross = seen.cross_covariances()
    gain = np.swapaxes(np.linalg.solve(spread, np.swapaxes(cross, 1, 2)[:, None]), 2, 3)
    means = state.means[:, None] + np.matmul(gain, innovation[..., None])[..., 0]
    # A sum of squares, Joseph's form for any set of points: rounding cannot make it indefinite.
    rest = seen.sources[:, None] - np.matmul(seen.deviations[:, None], np.swapaxes(gain, 2, 3))
    covariances = weighted_products(rest, rest, seen.weights)
    return means, covariances + np.matmul(gain, np.matmul(noise, np.swapaxes(gain, 2, 3)))
