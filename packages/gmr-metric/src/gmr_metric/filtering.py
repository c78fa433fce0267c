"""The Gaussian-sum filter: a bank of Kalman filters whose mixture is reduced after each step.

Source: H. W. Sorenson and D. L. Alspach, "Recursive Bayesian estimation using Gaussian sums", Automatica 7 (1971);
the unscented transform after S. J. Julier and J. K. Uhlmann (2004), scaled as by R. van der Merwe (2004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from sextet_common.errors import InputError

from gmr_metric.checks import is_whole
from gmr_metric.density.mixture import SYMMETRY_TOLERANCE, GaussianMixture
from gmr_metric.reduction.api import available_methods, reduce

if TYPE_CHECKING:
    from jaxtyping import Float

_SINGULAR = 1e-10  # how far below zero an eigenvalue of a singular noise covariance may be rounded, by the largest


@dataclass(frozen=True, eq=False)
class Model:
    """How one vector follows from another: ``y = f(x) + e``. A transition and a sensor are both such models.

    Parameters
    ----------
    function
        A matrix of shape (m, d) for ``f(x) = matrix @ x``, or a function that takes the rows x of an array of
        shape (n, d) to the rows f(x) of one of shape (n, m).
    noise
        The distribution of e: a covariance of shape (m, m), which may be singular, for a Gaussian around zero; or
        a mixture of m dimensions, such as one with a wide component for outliers or manoeuvres.
    difference
        The difference of two y's, row by row: from arrays a and b of shape (n, m) to a - b of the same shape. For
        angles, which wrap around; the plain difference where it is not given.

    Raises
    ------
    InputError
        Where the matrix or the covariance is none, or their sizes differ.

    Examples
    --------
    A bearing, seen from the origin, that is wrong by 0.02 rad as a rule and by 0.5 rad one time in ten:

    >>> noise = GaussianMixture([0.9, 0.1], [[0.0], [0.0]], [[[0.02**2]], [[0.5**2]]])
    >>> bearing = Model(
    ...     lambda x: np.arctan2(x[:, 1:2], x[:, 0:1]),
    ...     noise,
    ...     difference=lambda a, b: (a - b + np.pi) % (2 * np.pi) - np.pi,
    ... )
    """

    function: Float[np.ndarray, "out dim"] | Callable[[np.ndarray], np.ndarray]
    noise: Float[np.ndarray, "out out"] | GaussianMixture
    difference: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.noise, GaussianMixture):
            object.__setattr__(self, "noise", _covariance(self.noise))
        if not callable(self.function):
            matrix = _finite("the matrix of a model", self.function, (self.dim, None))
            object.__setattr__(self, "function", matrix)

    @property
    def dim(self) -> int:
        """The number of dimensions m of y."""
        return self.noise.dim if isinstance(self.noise, GaussianMixture) else len(self.noise)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a filter knows after one step.

    Parameters
    ----------
    predicted
        The distribution of the state before the measurement.
    posterior
        The distribution of the state given the measurement; the predicted one where there was none.
    log_likelihood
        The log density of the measurement given all earlier ones; 0 where there was none.
    """

    predicted: GaussianMixture
    posterior: GaussianMixture
    log_likelihood: float


@dataclass(frozen=True)
class GaussianSumFilter:
    """A Gaussian-sum filter, linear where a model is a matrix and unscented where it is a function.

    A prediction has one component per component of the state and of the transition's noise, an update one per
    component of the state and of the sensor's noise; where these are too many, they are reduced. With one component
    throughout, this is the Kalman filter.

    Parameters
    ----------
    n_components
        How many components a state has at most; None never reduces.
    method
        How they are reduced: one of :func:`gmr_metric.reduction.api.available_methods`.
    options
        More keywords for :func:`gmr_metric.reduction.api.reduce`: the method's own options, or ``max_distance``.
    alpha, beta, kappa
        The unscented transform's parameters. The points lie ``alpha * sqrt(d + kappa)`` standard deviations from the
        mean. The defaults are *ours*: no point in the centre and none with a negative weight, so that covariances
        stay positive definite (the cubature filter of I. Arasaratnam and S. Haykin, 2009). The often seen
        ``alpha=1e-3`` puts a weight of about -1e6 on the centre, which costs digits and may cost definiteness.

    Raises
    ------
    InputError
        Where a number is out of its range or the method is unknown.

    Examples
    --------
    A position and a velocity, of which every measured position is wrong by 10 one time in twenty:

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

    n_components: int | None = 20
    method: str = "runnalls"
    options: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 1.0
    beta: float = 0.0
    kappa: float = 0.0

    def __post_init__(self) -> None:
        n = self.n_components
        if n is not None and not (is_whole(n) and n >= 1):
            raise InputError(f"n_components is {n}", "a whole number >= 1, or None")
        if self.method not in available_methods():
            raise InputError(f"method {self.method!r} is unknown", ", ".join(available_methods()))
        if not self.alpha > 0:
            raise InputError(f"alpha is {self.alpha}", "a number > 0")

    def predict(self, state: GaussianMixture, transition: Model) -> GaussianMixture:
        """Move the state one step on.

        Parameters
        ----------
        state
            The state's distribution, in d dimensions.
        transition
            From a state to the next, both of d dimensions.

        Returns
        -------
        GaussianMixture
            The next state's distribution.

        Raises
        ------
        InputError
            Where the shapes do not fit.

        Examples
        --------
        >>> state = GaussianMixture([1.0], [[3.0]], [[[1.0]]])
        >>> GaussianSumFilter().predict(state, Model([[2.0]], [[0.5]])).covariances.tolist()
        [[[4.5]]]
        """
        d = state.dim
        if transition.dim != d:
            raise InputError(f"the transition's noise has {transition.dim} dimensions", f"{d}, as the state has")
        image = self._image(state, transition, "transition")
        weights, offsets, covariances = _noise(transition)
        return self._reduced(
            GaussianMixture(
                np.outer(state.weights, weights).ravel(),
                (image.means[:, None] + offsets).reshape(-1, d),
                (image.covariances()[:, None] + covariances).reshape(-1, d, d),
                normalize=True,
            )
        )

    def update(
        self, state: GaussianMixture, measurement: Float[np.ndarray, " out"] | None, sensor: Model
    ) -> tuple[GaussianMixture, float]:
        """Condition the state on a measurement.

        Parameters
        ----------
        state
            The state's distribution, in d dimensions.
        measurement
            Shape (m,); None where there is none.
        sensor
            From a state to its measurement of m dimensions.

        Returns
        -------
        GaussianMixture
            The state's distribution given the measurement.
        float
            The log density of the measurement, 0 where there is none.

        Raises
        ------
        InputError
            Where the shapes do not fit, or the measurement's predicted covariance is not positive definite.

        Examples
        --------
        >>> state = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> posterior, log_likelihood = GaussianSumFilter().update(state, [2.0], Model([[1.0]], [[1.0]]))
        >>> posterior.means.tolist(), round(log_likelihood, 6)
        ([[1.0]], -2.265512)
        """
        if measurement is None:
            return state, 0.0
        z = _finite("the measurement", measurement, (sensor.dim,))
        image = self._image(state, sensor, "sensor")
        weights, offsets, noise = _noise(sensor)
        d, m = state.dim, sensor.dim
        predicted = image.means[:, None] + offsets
        innovation = _difference(sensor, np.broadcast_to(z, predicted.shape), predicted)
        spread = image.covariances()[:, None] + noise
        try:
            factor = np.linalg.cholesky(spread)
        except np.linalg.LinAlgError:
            raise InputError(
                "the predicted measurement's covariance is not positive definite",
                "measurement noise of full rank, and an unscented transform without large negative weights",
            ) from None
        white = np.linalg.solve(factor, innovation[..., None])[..., 0]
        log_determinant = 2 * np.log(np.diagonal(factor, axis1=2, axis2=3)).sum(axis=2)
        with np.errstate(divide="ignore"):
            log_weights = np.log(np.outer(state.weights, weights))
        log_weights = log_weights - 0.5 * ((white**2).sum(axis=2) + log_determinant + m * np.log(2 * np.pi))
        log_likelihood = float(logsumexp(log_weights))

        cross = image.covariances(image.sources)
        gain = np.swapaxes(np.linalg.solve(spread, np.swapaxes(cross, 1, 2)[:, None]), 2, 3)
        means = state.means[:, None] + np.matmul(gain, innovation[..., None])[..., 0]
        # A sum of squares, Joseph's form for any set of points: rounding cannot make it indefinite.
        rest = image.sources[:, None] - np.matmul(image.deviations[:, None], np.swapaxes(gain, 2, 3))
        covariances = _weighted_square(rest, rest, image.weights)
        covariances = covariances + np.matmul(gain, np.matmul(noise, np.swapaxes(gain, 2, 3)))
        posterior = GaussianMixture(
            np.exp(log_weights - log_likelihood).ravel(),
            means.reshape(-1, d),
            covariances.reshape(-1, d, d),
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
        """Predict and update once per measurement, as they come.

        Parameters
        ----------
        prior
            The state's distribution one step before the first measurement.
        measurements
            Each of shape (m,), or None where one is missing.
        transition, sensor
            The models of all steps. Where they change, as with uneven intervals, call :meth:`predict` and
            :meth:`update` in a loop.

        Yields
        ------
        Estimate
            One per measurement.

        Raises
        ------
        InputError
            As :meth:`predict` and :meth:`update`.
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

    def _image(self, state: GaussianMixture, model: Model, role: str) -> _Image:
        """Send each component through a model's function."""
        n, d = state.means.shape
        axes = np.swapaxes(state.cholesky, 1, 2)
        if not callable(model.function):
            if model.function.shape[1] != d:
                raise InputError(f"the {role} matrix has shape {model.function.shape}", f"({model.dim}, {d})")
            return _Image(state.means @ model.function.T, axes, axes @ model.function.T, np.ones(d))
        if not d + self.kappa > 0:
            raise InputError(f"kappa is {self.kappa} in {d} dimensions", f"a number > {-d}")
        scale = self.alpha**2 * (d + self.kappa)
        sources = np.concatenate([np.zeros((n, 1, d)), np.sqrt(scale) * axes, -np.sqrt(scale) * axes], axis=1)
        weights = np.full(2 * d + 1, 0.5 / scale)
        weights[0] = 2 - d / scale - self.alpha**2 + self.beta
        points = (state.means[:, None] + sources).reshape(-1, d)
        images = _finite(f"the {role} function's result", model.function(points), (len(points), model.dim))
        images = images.reshape(n, -1, model.dim)
        # Relative to the centre's image, whose weight then cancels: exact however small alpha is, and right for angles.
        centre = images[:, :1]
        relative = _difference(model, images, np.broadcast_to(centre, images.shape))
        shift = 0.5 / scale * relative.sum(axis=1, keepdims=True)
        return _Image((centre + shift)[:, 0], sources, relative - shift, weights)


class _Image(NamedTuple):
    """N Gaussians after a function: k weighted deviations of each, before and after."""

    means: np.ndarray  # (N, m)
    sources: np.ndarray  # (N, k, d)
    deviations: np.ndarray  # (N, k, m)
    weights: np.ndarray  # (k,)

    def covariances(self, others: np.ndarray | None = None) -> np.ndarray:
        """Return the covariances of the images, or those of other deviations with the images."""
        return _weighted_square(self.deviations if others is None else others, self.deviations, self.weights)


def _weighted_square(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(np.matmul(np.swapaxes(a, -1, -2) * weights, b))


def _noise(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (M,), means (M, m) and covariances (M, m, m)."""
    if isinstance(model.noise, GaussianMixture):
        return model.noise.weights, model.noise.means, model.noise.covariances
    return np.ones(1), np.zeros((1, model.dim)), model.noise[None]


def _difference(model: Model, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if model.difference is None:
        return np.asarray(a - b)
    rows = (-1, model.dim)
    found = model.difference(a.reshape(rows), b.reshape(rows))
    return _finite("the difference function's result", found, (a.size // model.dim, model.dim)).reshape(a.shape)


def _finite(name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a finite, read-only float64 array of a shape, None for any length."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array of numbers: {error}", "numbers") from error
    fits = array.ndim == len(shape) and all(size in (None, have) for size, have in zip(shape, array.shape, strict=True))
    if not fits or not array.size:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name} has shape {array.shape}", f"({sizes}{',' * (len(shape) == 1)})")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds {array[~np.isfinite(array)][0]}", "finite numbers")
    array.setflags(write=False)
    return array


def _covariance(values: Any) -> np.ndarray:
    """Return a symmetric positive semi-definite matrix."""
    covariance = _finite("a noise covariance", values, (None, None))
    n, m = covariance.shape
    if n != m or np.abs(covariance - covariance.T).max() > SYMMETRY_TOLERANCE * np.abs(covariance).max():
        raise InputError(f"a noise covariance is {covariance.tolist()}", "a symmetric matrix")
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] < -_SINGULAR * eigenvalues[-1]:
        raise InputError(f"a noise covariance has the eigenvalue {eigenvalues[0]:g}", "a positive semi-definite matrix")
    return covariance
