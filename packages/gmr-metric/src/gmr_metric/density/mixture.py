"""The Gaussian mixture: a frozen, validated value that the rest of the package takes and returns."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common import hub
from sextet_common.checks import Natural, check
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from gmr_metric.checks import as_floats, same_dim, symmetric
from gmr_metric.density import algebra, conversions, storage

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch.distributions import MixtureSameFamily

WEIGHT_TOLERANCE = 1e-8  # largest deviation of the weights' sum from one


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of N Gaussians in d dimensions; its arrays are float64 and read-only.

    The weights, shape (N,), are at least 0 and sum to one within 1e-8; with ``normalize`` they may have any positive
    sum and are divided by it. The means have shape (N, d); the covariances, shape (N, d, d), are symmetric and positive
    definite.

    Examples
    --------
    >>> mixture = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> mixture.mean().tolist(), mixture.covariance().tolist()
    ([0.0], [[2.0]])
    """

    weights: Float[np.ndarray, " components"]
    means: Float[np.ndarray, "components dim"]
    covariances: Float[np.ndarray, "components dim dim"]
    normalize: InitVar[bool] = False

    def __post_init__(self, normalize: bool) -> None:
        weights = as_floats("weights", self.weights, (None,))
        means = as_floats("means", self.means, (None, None))
        covariances = as_floats("covariances", self.covariances, (None, None, None))
        n, d = means.shape
        if not n or not d or weights.shape != (n,) or covariances.shape != (n, d, d):
            shapes = f"weights {weights.shape}, means {means.shape}, covariances {covariances.shape}"
            raise InputError(f"shapes do not match: {shapes}", "(N,), (N, d), (N, d, d) with N and d at least 1")
        negative = np.flatnonzero(weights < 0)
        if negative.size:
            raise InputError(f"weight {negative[0]} must be >= 0, got {weights[negative[0]]:g}")
        try:
            total = math.fsum(weights)
        except OverflowError:
            total = math.inf
        if normalize and 0 < total < math.inf:
            weights = weights / total
        elif abs(total - 1) > WEIGHT_TOLERANCE:
            raise InputError(f"weights sum to {total:.12g}", f"1 within {WEIGHT_TOLERANCE:g}, or normalize=True")
        arrays = {"weights": weights, "means": means, "covariances": symmetric("covariance", covariances)}
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _ = self.cholesky  # raises if a covariance is not positive definite

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def dim(self) -> int:
        """The number of dimensions d."""
        return int(self.means.shape[1])

    @cached_property
    def cholesky(self) -> Float[np.ndarray, "components dim dim"]:
        """The covariances' lower Cholesky factors."""
        try:
            factors: np.ndarray = np.linalg.cholesky(self.covariances)
        except np.linalg.LinAlgError:
            for number, covariance in enumerate(self.covariances):
                smallest = np.linalg.eigvalsh(covariance)[0]
                try:
                    np.linalg.cholesky(covariance)
                except np.linalg.LinAlgError:
                    raise InputError(
                        f"covariance {number} is not positive definite: its smallest eigenvalue is {smallest:g}",
                        "symmetric positive definite matrices",
                    ) from None
            raise
        factors.setflags(write=False)
        return factors

    def logpdf(self, points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Log density at points of shape (points, d).

        Examples
        --------
        >>> GaussianMixture([1.0], [[0.0]], [[[1.0]]]).logpdf(np.zeros((1, 1))).round(6).tolist()
        [-0.918939]
        """
        return algebra.log_density(
            as_floats("points", points, (None, self.dim)), self.weights, self.means, self.cholesky
        )

    def pdf(self, points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Density at points of shape (points, d)."""
        density: np.ndarray = np.exp(self.logpdf(points))
        return density

    def sample(self, size: int, seed: int = 0) -> Float[np.ndarray, "size dim"]:
        """Draw independent points, shape (size, d); the same seed gives the same points."""
        check("size", size, Natural)
        draw = generator(seed, "mixture sample")
        chosen = draw.choice(len(self), size=size, p=self.weights / self.weights.sum())
        noise = draw.standard_normal((size, self.dim))
        points: np.ndarray = self.means[chosen] + np.matmul(self.cholesky[chosen], noise[..., None])[..., 0]
        return points

    def mean(self) -> Float[np.ndarray, " dim"]:
        """Return the mean of the whole mixture, shape (d,)."""
        mean: np.ndarray = self.weights @ self.means
        return mean

    def covariance(self) -> Float[np.ndarray, "dim dim"]:
        """Return the covariance of the whole mixture, within plus between components, shape (d, d)."""
        offset = self.means - self.mean()
        within: np.ndarray = np.tensordot(self.weights, self.covariances, axes=1)
        within += (self.weights[:, None] * offset).T @ offset
        return within

    def subset(self, chosen: Sequence[int] | np.ndarray) -> GaussianMixture:
        """Keep the chosen components, and scale their weights to sum one."""
        return GaussianMixture(self.weights[chosen], self.means[chosen], self.covariances[chosen], normalize=True)

    def marginal(self, dims: Sequence[int]) -> GaussianMixture:
        """Keep the given dimensions, in the given order, and integrate out the others."""
        kept = self._dimensions(dims)
        return GaussianMixture(self.weights, self.means[:, kept], self.covariances[:, kept[:, None], kept])

    def condition(self, dims: Sequence[int], values: Float[np.ndarray, " given"]) -> GaussianMixture:
        """Condition on known values, shape (len(dims),), of some dimensions.

        The result has the other dimensions, at least one, in their original order.

        Examples
        --------
        >>> joint = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> joint.condition([0], [2.0]).means.tolist()
        [[1.0]]
        """
        known = self._dimensions(dims)
        given = as_floats("values", values, (None,))
        if given.shape != known.shape or known.size == self.dim:
            raise InputError(
                f"{given.size} values for {known.size} of {self.dim} dimensions",
                "one value each, and at least one dimension left",
            )
        arrays = algebra.conditioned(self.weights, self.means, self.covariances, known, given)
        return GaussianMixture(*arrays, normalize=True)

    def affine(
        self, matrix: Float[np.ndarray, "new dim"], offset: Float[np.ndarray, " new"] | float = 0.0
    ) -> GaussianMixture:
        """Return the distribution of ``matrix @ x + offset``.

        The matrix, shape (new, d), has full row rank; the offset has shape (new,) or is one number.
        """
        a = as_floats("matrix", matrix, (None, self.dim))
        spread = np.matmul(a, self.cholesky)
        return GaussianMixture(self.weights, self.means @ a.T + offset, np.matmul(spread, np.swapaxes(spread, 1, 2)))

    def product(self, other: GaussianMixture) -> GaussianMixture:
        """Multiply two densities and normalise: one component per pair, as in belief propagation.

        Examples
        --------
        >>> unit = GaussianMixture([1.0], [[1.0]], [[[1.0]]])
        >>> unit.product(unit).covariances.tolist()
        [[[0.5]]]
        """
        same_dim(self.dim, other.dim)
        return GaussianMixture(*algebra.multiplied(self._arrays, other._arrays), normalize=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as .json (readable and exact), .npz or .safetensors, by the suffix; written whole or not at all."""
        storage.write(path, {name: getattr(self, name) for name in ("weights", "means", "covariances")})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GaussianMixture:
        """Load a mixture from a .json, .npz or .safetensors file."""
        try:
            return cls(**storage.read(path))
        except InputError as error:
            if str(path) in error.given:
                raise
            raise InputError(f"{path}: {error.given}", error.expected) from error

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> GaussianMixture:
        """Load the mixture of a folder that `export_hub` wrote, or of OWNER/NAME on the Hugging Face Hub.

        ``revision`` is a branch, tag or commit there (extra ``hub`` of sextet-common).
        """
        folder = hub.local_folder(name_or_path, revision=revision, only=[storage.HUB_FILE])
        return cls.load(folder / storage.HUB_FILE)

    @classmethod
    def from_sklearn(cls, model: Any) -> GaussianMixture:
        """Convert scikit-learn's fitted ``GaussianMixture`` or ``BayesianGaussianMixture``, of any covariance type.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture as Fitted
        >>> points = np.random.default_rng(0).normal(size=(100, 2))
        >>> GaussianMixture.from_sklearn(Fitted(3, random_state=0).fit(points)).means.shape
        (3, 2)
        """
        return cls(*conversions.from_sklearn(model), normalize=True)

    def to_sklearn(self) -> Any:
        """Return a fitted ``sklearn.mixture.GaussianMixture`` of covariance type ``full``.

        It is ready to score, predict and sample. If a weight is 0, NumPy warns about its logarithm when the model is
        used; the results are correct.

        Examples
        --------
        >>> pair = GaussianMixture([0.5, 0.5], [[-3.0], [3.0]], np.ones((2, 1, 1)))
        >>> pair.to_sklearn().predict([[-1.0], [2.0]]).tolist()
        [0, 1]
        """
        return conversions.to_sklearn(*self._arrays, self.cholesky)

    @classmethod
    def from_torch(cls, distribution: MixtureSameFamily) -> GaussianMixture:
        """Convert one ``MixtureSameFamily`` without batch dimensions, to float64.

        Its components must be ``MultivariateNormal``, ``Independent(Normal, 1)`` or, in one dimension, ``Normal``.

        Examples
        --------
        >>> import torch; import torch.distributions as D
        >>> weights, parts = D.Categorical(torch.ones(2)), D.Normal(torch.tensor([0.0, 1.0]), torch.ones(2))
        >>> GaussianMixture.from_torch(D.MixtureSameFamily(weights, parts)).means.tolist()
        [[0.0], [1.0]]
        """
        return cls(*conversions.from_torch(distribution), normalize=True)

    def to_torch(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> MixtureSameFamily:
        """Return a ``torch.distributions.MixtureSameFamily`` of ``MultivariateNormal`` components.

        The default dtype is float64, the default device torch's.

        Examples
        --------
        >>> import torch
        >>> unit = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> unit.to_torch(dtype=torch.float32).log_prob(torch.zeros(1))
        tensor(-0.9189)
        """
        return conversions.to_torch(self.weights, self.means, self.cholesky, dtype, device)

    @classmethod
    def from_kde(
        cls,
        samples: Float[np.ndarray, "samples dim"],
        bandwidth: str | float | Float[np.ndarray, "dim dim"] = "scott",
        weights: Float[np.ndarray, " samples"] | None = None,
    ) -> GaussianMixture:
        """Estimate a density with one Gaussian at each sample, as ``scipy.stats.gaussian_kde`` does.

        Parameters
        ----------
        samples
            Shape (n, d). Unless the bandwidth is a matrix, they must span all d dimensions.
        bandwidth
            ``scott`` or ``silverman``, the rules for the factor that scales the samples' covariance; that factor
            itself; or the kernel's covariance, shape (d, d).
        weights
            Of any positive sum, shape (n,); equal by default.

        Examples
        --------
        >>> GaussianMixture.from_kde([[0.0], [1.0], [2.0]], bandwidth=0.5).covariances[0].round(6).tolist()
        [[0.25]]
        """
        return cls(*conversions.from_kde(samples, bandwidth, weights), normalize=True)

    @property
    def _arrays(self) -> algebra.Arrays:
        return self.weights, self.means, self.covariances

    def _dimensions(self, dims: Sequence[int]) -> np.ndarray:
        chosen = np.asarray(dims)
        if (
            chosen.ndim != 1
            or chosen.dtype.kind not in "iu"
            or not chosen.size
            or len(set(chosen.tolist())) < chosen.size
            or np.any((chosen < 0) | (chosen >= self.dim))
        ):
            raise InputError(f"dims are {list(np.ravel(chosen))}", f"different whole numbers from 0 to {self.dim - 1}")
        return chosen
