"""Potentials of a graph: densities and measurements of one variable, relations of two, and rings for distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sextet_common.checks import Count, Positive, check
from sextet_common.errors import InputError

from gmr_metric.belief import information
from gmr_metric.belief.information import Information, Noise
from gmr_metric.checks import as_floats
from gmr_metric.density.algebra import log_of
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.models import Model

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Unary:
    """A potential of one variable: a mixture of its dimensions, such as a prior; its scale has no effect."""

    variable: str
    mixture: GaussianMixture

    @property
    def dims(self) -> dict[str, int]:
        """The dimensions of each of its variables."""
        return {self.variable: self.mixture.dim}

    def message(self) -> Information:
        """Return the potential in information form."""
        return information.of_mixture(self.mixture)


@dataclass(frozen=True, eq=False)
class Measurement:
    """The likelihood of a variable x given a measured value z, shape (m,), of ``matrix @ x + noise``.

    ``model`` has a matrix, which may be of any rank, and a noise, a covariance or a mixture, of full rank.
    """

    variable: str
    model: Model
    value: Float[np.ndarray, " out"]

    def __post_init__(self) -> None:
        _matrix(self.model)
        object.__setattr__(self, "value", as_floats("a measurement", self.value, (self.model.dim,)))

    @property
    def dims(self) -> dict[str, int]:
        """The dimensions of each of its variables."""
        return {self.variable: _matrix(self.model).shape[1]}

    def message(self) -> Information:
        """Return the potential in information form."""
        seen = information.point(self.value, self.model.noise_arrays)
        return information.pulled_back(seen, _matrix(self.model))


@dataclass(frozen=True, eq=False)
class Linear:
    """The relation ``target = matrix @ source + noise`` of two variables.

    ``model`` has a matrix and a noise: a covariance, which may be singular, or a mixture, whose mean is an offset.
    """

    source: str
    target: str
    model: Model

    def __post_init__(self) -> None:
        _matrix(self.model)
        _different(self.source, self.target)

    @property
    def dims(self) -> dict[str, int]:
        """The dimensions of each of its variables."""
        m, d = _matrix(self.model).shape
        return {self.source: d, self.target: m}

    def message(self, incoming: Information, to: str) -> Information:
        """Return the message to one variable, given that of the other to this potential."""
        matrix, noise = _matrix(self.model), self.model.noise_arrays
        if to == self.source:
            return information.pulled_back(information.convolved(incoming, noise), matrix)
        m, d = matrix.shape
        if incoming.says_nothing and np.linalg.matrix_rank(matrix) == m:
            return information.constant(m)
        if m == d and np.linalg.matrix_rank(matrix) == d:
            moved = information.pulled_back(incoming, np.linalg.inv(matrix))
            return information.convolved(moved, noise, -1)
        moments = information.to_moments(incoming)
        if moments is None:
            raise InputError(
                f"the message from {self.source} to {self.target} has no density",
                f"a Unary potential of {self.source}, which may be wide, or an invertible matrix",
            )
        return _pushed(moments, matrix, noise)


@dataclass(frozen=True, eq=False)
class Joint:
    """A potential of two variables: a mixture over the first's dimensions followed by the second's."""

    first: str
    second: str
    mixture: GaussianMixture
    first_dim: int = 1

    def __post_init__(self) -> None:
        check("first_dim", self.first_dim, Count)
        _different(self.first, self.second)
        if not self.first_dim < self.mixture.dim:
            raise InputError(f"first_dim is {self.first_dim} of {self.mixture.dim} dimensions", "at least one left")

    @property
    def dims(self) -> dict[str, int]:
        """The dimensions of each of its variables."""
        return {self.first: self.first_dim, self.second: self.mixture.dim - self.first_dim}

    def message(self, incoming: Information, to: str) -> Information:
        """Return the message to one variable, given that of the other to this potential."""
        joint = self.mixture.convert("full")
        mine, other = np.arange(self.first_dim), np.arange(self.first_dim, joint.dim)
        if to == self.first:
            mine, other = other, mine  # mine: the dimensions of the incoming message
        n, k, d = len(incoming.logs), len(joint), len(mine)
        information.check_size(n * k)
        p, means = joint.covariances[:, mine[:, None], mine], joint.means[:, mine]
        cross = joint.covariances[:, other[:, None], mine]
        j = incoming.matrices[:, None]
        residual = incoming.vectors[:, None] - np.matmul(j, means[..., None])[..., 0]
        mixed = np.eye(d) + np.matmul(j, p)
        solved = np.linalg.solve(mixed, np.concatenate([np.broadcast_to(j, mixed.shape), residual[..., None]], axis=-1))
        gain, moved = solved[..., :d], solved[..., d]
        logs = incoming.logs[:, None] + 0.5 * ((incoming.vectors[:, None] + residual) * means).sum(axis=-1)
        logs = logs + 0.5 * (residual * np.matmul(p, moved[..., None])[..., 0]).sum(axis=-1)
        logs = logs - 0.5 * np.linalg.slogdet(mixed)[1]
        logs = logs + log_of(joint.weights)
        shifted = joint.means[:, other] + np.matmul(cross, moved[..., None])[..., 0]
        spread = joint.covariances[:, other[:, None], other] - np.matmul(
            cross, np.matmul(gain, np.swapaxes(cross, 1, 2))
        )
        m = len(other)
        spread = spread.reshape(-1, m, m)
        return information.of_moments(logs.ravel(), shifted.reshape(-1, m), (spread + np.swapaxes(spread, 1, 2)) / 2)


def ring(distance: float, deviation: float, dim: int = 2, n_components: int | None = None) -> GaussianMixture:
    """Return a mixture for an offset of known length, with a standard deviation, and of unknown direction.

    Its components lie on a circle, on a sphere or, in one dimension, at two points. They are flat, and their number is
    by default such that none leaves the circle by more than about half a deviation, up to 64 in two and 256 in three
    dimensions. Mean and variance of the length are those given. Not specified in the literature; our own choice.

    Examples
    --------
    >>> ring(3.0, 0.1, dim=1).means.tolist()
    [[-3.0], [3.0]]
    >>> len(ring(3.0, 0.5))
    12
    """
    check("distance", distance, Positive)
    check("deviation", deviation, Positive)
    if dim == 1:
        return GaussianMixture(np.full(2, 0.5), distance * np.array([[-1.0], [1.0]]), np.full((2, 1, 1), deviation**2))
    if dim not in (2, 3):
        raise InputError(f"dim is {dim!r}", "1, 2 or 3")
    check("n_components", n_components, Count | None)
    return _shell(float(distance), float(deviation), dim, n_components)


def _shell(distance: float, deviation: float, dim: int, n_components: int | None) -> GaussianMixture:
    """Return tangent Gaussians around a circle or sphere."""
    if dim == 2:
        n = n_components or int(np.clip(np.ceil(4.5 * np.sqrt(distance / deviation)), 8, 64))
        angles = 2 * np.pi * np.arange(n) / n
        directions = np.column_stack([np.cos(angles), np.sin(angles)])
        width = np.pi * distance / n
    else:
        n = n_components or int(np.clip(np.ceil(2 * np.pi * distance / deviation), 12, 256))
        height = 1 - (2 * np.arange(n) + 1) / n
        angles = np.pi * (3 - np.sqrt(5)) * np.arange(n)  # the golden angle
        radius = np.sqrt(1 - height**2)
        directions = np.column_stack([radius * np.cos(angles), radius * np.sin(angles), height])
        width = np.sqrt(np.pi / n) * distance
    # A tangent plane leaves the sphere: the length of its points is larger and varies.
    longer, varies = (dim - 1) * width**2 / (2 * distance), (dim - 1) * width**4 / (2 * distance**2)
    radial = max(deviation**2 - varies, deviation**2 / 2)
    outward = directions[:, :, None] * directions[:, None, :]
    covariances = width**2 * np.eye(dim) + (radial - width**2) * outward
    return GaussianMixture(np.full(n, 1 / n), (distance - longer) * directions, covariances)


def _pushed(moments: tuple[np.ndarray, np.ndarray, np.ndarray], matrix: np.ndarray, noise: Noise) -> Information:
    """Return the message about ``matrix @ x + noise`` of a density of x."""
    (logs, means, covariances), (weights, offsets, spread) = moments, noise
    information.check_size(len(logs) * len(weights))
    m = len(matrix)
    sums = (matrix @ covariances @ matrix.T)[:, None] + spread
    shifted = (means @ matrix.T)[:, None] + offsets
    return information.of_moments(
        (logs[:, None] + log_of(weights)).ravel(), shifted.reshape(-1, m), sums.reshape(-1, m, m)
    )


def _matrix(model: Model) -> np.ndarray:
    if callable(model.function):
        raise InputError("the model of a potential has a function", "a matrix")
    return np.asarray(model.function)


def _different(first: str, second: str) -> None:
    if first == second:
        raise InputError(f"a relation of {first!r} with itself", "two different variables")
