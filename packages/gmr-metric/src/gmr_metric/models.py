"""Transition and measurement models ``y = f(x) + e``, and the image of Gaussians under them.

The unscented transform follows S. J. Julier and J. K. Uhlmann (2004), scaled as by R. van der Merwe (2004).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.checks import as_floats, symmetric
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Float

_SINGULAR = 1e-10  # tolerated negative eigenvalue of a singular noise covariance, relative to the largest


@dataclass(frozen=True, eq=False)
class Model:
    """A model ``y = f(x) + e`` of one vector given another: a transition or a sensor.

    Parameters
    ----------
    function
        A matrix of shape (m, d) for ``f(x) = matrix @ x``, or a function that maps the rows x of an array of
        shape (n, d) to the rows f(x) of one of shape (n, m).
    noise
        The distribution of e: a covariance of shape (m, m), which may be singular, for a Gaussian around zero; or
        a mixture of m dimensions, such as one with a wide component for outliers or manoeuvres.
    difference
        The difference of two y's, row by row: maps arrays a and b of shape (n, m) to a - b of the same shape. For
        angles, which wrap around; the plain difference by default.

    Examples
    --------
    A bearing from the origin with an error of 0.02 rad, or of 0.5 rad one time in ten:

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
            object.__setattr__(self, "function", as_floats("a model's matrix", self.function, (self.dim, None)))

    @property
    def dim(self) -> int:
        """The number of dimensions m of y."""
        return self.noise.dim if isinstance(self.noise, GaussianMixture) else len(self.noise)

    @property
    def noise_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The noise's weights (M,), means (M, m) and covariances (M, m, m)."""
        if isinstance(self.noise, GaussianMixture):
            return self.noise.weights, self.noise.means, self.noise.convert("full").covariances
        return np.ones(1), np.zeros((1, self.dim)), self.noise[None]

    def subtract(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return a - b by the model's difference; shape (..., m)."""
        if self.difference is None:
            plain: np.ndarray = a - b
            return plain
        rows = (-1, self.dim)
        differences = self.difference(a.reshape(rows), b.reshape(rows))
        shape = (a.size // self.dim, self.dim)
        return as_floats("the difference function's result", differences, shape).reshape(a.shape)


class Image(NamedTuple):
    """N Gaussians after a function: k weighted deviations of each, before and after."""

    means: np.ndarray  # (N, m)
    sources: np.ndarray  # before, (N, k, d)
    deviations: np.ndarray  # after, (N, k, m)
    weights: np.ndarray  # (k,)

    def covariances(self) -> np.ndarray:
        """Return the covariances of the images, shape (N, m, m)."""
        return weighted_products(self.deviations, self.deviations, self.weights)

    def cross_covariances(self) -> np.ndarray:
        """Return the covariances of the Gaussians with their images, shape (N, d, m)."""
        return weighted_products(self.sources, self.deviations, self.weights)


def image(state: GaussianMixture, model: Model, unscented: tuple[float, float, float], role: str) -> Image:
    """Map each component through a model's function, with (alpha, beta, kappa); ``role`` names the model in errors."""
    n, d = state.means.shape
    axes = np.swapaxes(state.convert("full").cholesky, 1, 2)
    if not callable(model.function):
        if model.function.shape[1] != d:
            raise InputError(f"the {role} matrix must have shape ({model.dim}, {d}), got {model.function.shape}")
        return Image(state.means @ model.function.T, axes, axes @ model.function.T, np.ones(d))
    alpha, beta, kappa = unscented
    if not d + kappa > 0:
        raise InputError(f"kappa must be > {-d} in {d} dimensions, got {kappa}")
    scale = alpha**2 * (d + kappa)
    sources = np.concatenate([np.zeros((n, 1, d)), np.sqrt(scale) * axes, -np.sqrt(scale) * axes], axis=1)
    weights = np.full(2 * d + 1, 0.5 / scale)
    weights[0] = 2 - d / scale - alpha**2 + beta
    points = (state.means[:, None] + sources).reshape(-1, d)
    shape = (len(points), model.dim)
    images = as_floats(f"the {role} function's result", model.function(points), shape).reshape(n, -1, model.dim)
    # Relative to the centre's image, whose weight then cancels: exact for any alpha, and correct for angles.
    centre = images[:, :1]
    relative = model.subtract(images, np.broadcast_to(centre, images.shape))
    shift = 0.5 / scale * relative.sum(axis=1, keepdims=True)
    return Image((centre + shift)[:, 0], sources, relative - shift, weights)


def weighted_products(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sums over k of ``weights_k a_k b_k^T``, for a and b of shape (..., k, *)."""
    products: np.ndarray = np.matmul(np.swapaxes(a, -1, -2) * weights, b)
    return products


def _covariance(values: Any) -> np.ndarray:
    """Return a symmetric positive semi-definite matrix."""
    covariance = as_floats("a noise covariance", values, (None, None))
    n, m = covariance.shape
    if n != m or not n:
        raise InputError(f"a noise covariance must be a square matrix, got shape {covariance.shape}")
    matrix: np.ndarray = symmetric("noise covariance", covariance[None])[0]
    eigenvalues = np.linalg.eigvalsh(matrix)
    if eigenvalues[0] < -_SINGULAR * eigenvalues[-1]:
        raise InputError(f"a noise covariance must be positive semi-definite, got the eigenvalue {eigenvalues[0]:g}")
    matrix.setflags(write=False)
    return matrix
