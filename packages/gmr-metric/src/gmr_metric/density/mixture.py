"""The Gaussian mixture: a frozen, checked value that everything else takes and returns."""

from __future__ import annotations

import math
import os
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from gmr_metric.density import algebra, storage
from gmr_metric.checks import as_floats, is_whole, symmetric

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from jaxtyping import Float
    from torch.distributions import MixtureSameFamily

WEIGHT_TOLERANCE = 1e-8  # how far from one the weights may sum
SYMMETRY_TOLERANCE = 1e-8  # largest asymmetry of a covariance, relative to its largest entry


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of N Gaussians in d dimensions; its arrays are float64 and read-only.

    Parameters
    ----------
    weights
        At least 0, summing to one within 1e-8; shape (N,).
    means
        Shape (N, d).
    covariances
        Symmetric and positive definite; shape (N, d, d).
    normalize
        Accept weights of any positive sum, and divide by it.

    Raises
    ------
    InputError
        Where a shape, a weight or a covariance is not as said; the component is named.

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
        weights = as_floats("weights", self.weights, 1)
        means = as_floats("means", self.means, 2)
        covariances = as_floats("covariances", self.covariances, 3)
        n, d = means.shape
        if not n or not d or weights.shape != (n,) or covariances.shape != (n, d, d):
            shapes = f"weights {weights.shape}, means {means.shape}, covariances {covariances.shape}"
            raise InputError(f"shapes do not fit: {shapes}", "(N,), (N, d), (N, d, d) with N and d at least 1")
        negative = np.flatnonzero(weights < 0)
        if negative.size:
            raise InputError(f"weight {negative[0]} is {weights[negative[0]]:g}", "weights >= 0")
        try:
            total = math.fsum(weights)
        except OverflowError:
            total = math.inf
        if normalize and 0 < total < math.inf:
            weights = weights / total
        elif abs(total - 1) > WEIGHT_TOLERANCE:
            raise InputError(f"weights sum to {total:.12g}", f"1 within {WEIGHT_TOLERANCE:g}, or normalize=True")
        for name, array in (
            ("weights", weights),
            ("means", means),
            ("covariances", symmetric(covariances, SYMMETRY_TOLERANCE)),
        ):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _ = self.cholesky  # refuses what is not positive definite

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
        """Log density at some points.

        Parameters
        ----------
        points
            Shape (points, d).

        Returns
        -------
        numpy.ndarray
            Shape (points,).

        Raises
        ------
        InputError
            Where the points have another number of dimensions.

        Examples
        --------
        >>> GaussianMixture([1.0], [[0.0]], [[[1.0]]]).logpdf(np.zeros((1, 1))).round(6).tolist()
        [-0.918939]
        """
        x = as_floats("points", points, 2)
        if x.shape[1] != self.dim:
            raise InputError(f"points have shape {x.shape}", f"(points, {self.dim})")
        return algebra.log_density(self, x)

    def pdf(self, points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Density at some points, shape (points,): see :meth:`logpdf`."""
        return np.asarray(np.exp(self.logpdf(points)))

    def sample(self, size: int, seed: int = 0) -> Float[np.ndarray, "size dim"]:
        """Draw independent points.

        Parameters
        ----------
        size
            How many, at least 0.
        seed
            The same seed gives the same points.

        Returns
        -------
        numpy.ndarray
            Shape (size, d).
        """
        if not (is_whole(size) and size >= 0):
            raise InputError(f"size is {size}", "a whole number >= 0")
        draw = generator(seed, "mixture sample")
        chosen = draw.choice(len(self), size=size, p=self.weights / self.weights.sum())
        noise = draw.standard_normal((size, self.dim))
        return np.asarray(self.means[chosen] + np.matmul(self.cholesky[chosen], noise[..., None])[..., 0])

    def mean(self) -> Float[np.ndarray, " dim"]:
        """Return the mixture's mean, shape (d,)."""
        return np.asarray(self.weights @ self.means)

    def covariance(self) -> Float[np.ndarray, "dim dim"]:
        """Return the mixture's covariance, within plus between components, shape (d, d)."""
        offset = self.means - self.mean()
        between = (self.weights[:, None] * offset).T @ offset
        return np.asarray(np.tensordot(self.weights, self.covariances, axes=1) + between)

    def marginal(self, dims: Sequence[int]) -> GaussianMixture:
        """Keep some dimensions and integrate the others out.

        Parameters
        ----------
        dims
            The dimensions to keep, in their new order, without repeats.

        Returns
        -------
        GaussianMixture
            The marginal, of as many components.

        Raises
        ------
        InputError
            Where a dimension is not there or named twice.
        """
        kept = self._dimensions(dims)
        return GaussianMixture(self.weights, self.means[:, kept], self.covariances[:, kept[:, None], kept])

    def condition(self, dims: Sequence[int], values: Float[np.ndarray, " given"]) -> GaussianMixture:
        """Condition on known values of some dimensions.

        Parameters
        ----------
        dims
            The known dimensions; at least one other must remain.
        values
            Their values, shape (len(dims),).

        Returns
        -------
        GaussianMixture
            The mixture of the remaining dimensions, in their old order.

        Raises
        ------
        InputError
            Where the dimensions or the values do not fit.

        Examples
        --------
        >>> joint = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> joint.condition([0], [2.0]).means.tolist()
        [[1.0]]
        """
        known = self._dimensions(dims)
        given = as_floats("values", values, 1)
        if given.shape != known.shape or known.size == self.dim:
            raise InputError(
                f"{given.size} values for {known.size} of {self.dim} dimensions", "one each, and a dimension left over"
            )
        return GaussianMixture(*algebra.conditioned(self, known, given), normalize=True)

    def affine(
        self, matrix: Float[np.ndarray, "new dim"], offset: Float[np.ndarray, " new"] | float = 0.0
    ) -> GaussianMixture:
        """Return the distribution of ``matrix @ x + offset``.

        Parameters
        ----------
        matrix
            Of full row rank, shape (new, d).
        offset
            Shape (new,), or one number.

        Returns
        -------
        GaussianMixture
            The image, of as many components.

        Raises
        ------
        InputError
            Where the shapes do not fit or the image is degenerate.
        """
        a = as_floats("matrix", matrix, 2)
        if a.shape[1] != self.dim:
            raise InputError(f"matrix has shape {a.shape}", f"(new, {self.dim})")
        spread = np.matmul(a, self.cholesky)
        return GaussianMixture(self.weights, self.means @ a.T + offset, np.matmul(spread, np.swapaxes(spread, 1, 2)))

    def product(self, other: GaussianMixture) -> GaussianMixture:
        """Multiply two densities and normalise: one component per pair, as in belief propagation.

        Parameters
        ----------
        other
            A mixture of as many dimensions.

        Returns
        -------
        GaussianMixture
            ``len(self) * len(other)`` components.

        Raises
        ------
        InputError
            Where the dimensions differ.

        Examples
        --------
        >>> unit = GaussianMixture([1.0], [[1.0]], [[[1.0]]])
        >>> unit.product(unit).covariances.tolist()
        [[[0.5]]]
        """
        return GaussianMixture(*algebra.multiplied(self, other), normalize=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as .json (readable, exact) or .npz, whole or not at all.

        Parameters
        ----------
        path
            The file; its ending decides.

        Raises
        ------
        InputError
            Where the ending is another.
        """
        storage.write(path, {name: getattr(self, name) for name in ("weights", "means", "covariances")})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GaussianMixture:
        """Read a saved mixture.

        Parameters
        ----------
        path
            A .json or .npz file.

        Returns
        -------
        GaussianMixture
            The mixture.

        Raises
        ------
        InputError
            Where the file is missing, broken, of another kind, or holds no valid mixture.
        """
        try:
            return cls(**storage.read(path))
        except InputError as error:
            if str(path) in error.given:
                raise
            raise InputError(f"{path}: {error.given}", error.expected) from error

    @classmethod
    def from_sklearn(cls, model: Any) -> GaussianMixture:
        """Take over a fitted mixture of scikit-learn.

        Parameters
        ----------
        model
            A fitted ``sklearn.mixture.GaussianMixture`` or ``BayesianGaussianMixture`` of any covariance type.

        Returns
        -------
        GaussianMixture
            The same density.

        Raises
        ------
        InputError
            Where the model is another or not fitted.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture as Fitted
        >>> points = np.random.default_rng(0).normal(size=(100, 2))
        >>> GaussianMixture.from_sklearn(Fitted(3, random_state=0).fit(points)).means.shape
        (3, 2)
        """
        from gmr_metric.density import conversions

        return conversions.from_sklearn(model)

    def to_sklearn(self) -> Any:
        """Make a fitted scikit-learn mixture, ready to score, predict and sample.

        Returns
        -------
        sklearn.mixture.GaussianMixture
            The same density, of covariance type ``full``. Where a weight is 0, NumPy warns of its logarithm when the
            model is used; the numbers are right.

        Examples
        --------
        >>> pair = GaussianMixture([0.5, 0.5], [[-3.0], [3.0]], np.ones((2, 1, 1)))
        >>> pair.to_sklearn().predict([[-1.0], [2.0]]).tolist()
        [0, 1]
        """
        from gmr_metric.density import conversions

        return conversions.to_sklearn(self)

    @classmethod
    def from_torch(cls, distribution: MixtureSameFamily) -> GaussianMixture:
        """Take over a mixture of torch.

        Parameters
        ----------
        distribution
            One ``MixtureSameFamily``, no batch, of ``MultivariateNormal``, ``Independent(Normal, 1)`` or, in one
            dimension, ``Normal`` components.

        Returns
        -------
        GaussianMixture
            The same density, in float64.

        Raises
        ------
        InputError
            Where it is another distribution, or a batch.

        Examples
        --------
        >>> import torch; import torch.distributions as D
        >>> weights, parts = D.Categorical(torch.ones(2)), D.Normal(torch.tensor([0.0, 1.0]), torch.ones(2))
        >>> GaussianMixture.from_torch(D.MixtureSameFamily(weights, parts)).means.tolist()
        [[0.0], [1.0]]
        """
        from gmr_metric.density import conversions

        return conversions.from_torch(distribution)

    def to_torch(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> MixtureSameFamily:
        """Return a ``torch.distributions.MixtureSameFamily`` of ``MultivariateNormal`` components.

        Parameters
        ----------
        dtype
            The tensors' type; float64 by default.
        device
            Where they lie; torch's default where not given.

        Returns
        -------
        torch.distributions.MixtureSameFamily
            The same density.

        Examples
        --------
        >>> import torch
        >>> unit = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> unit.to_torch(dtype=torch.float32).log_prob(torch.zeros(1))
        tensor(-0.9189)
        """
        from gmr_metric.density import conversions

        return conversions.to_torch(self, dtype, device)

    @classmethod
    def from_kde(
        cls,
        samples: Float[np.ndarray, "samples dim"],
        bandwidth: str | float | Float[np.ndarray, "dim dim"] = "scott",
        weights: Float[np.ndarray, " samples"] | None = None,
    ) -> GaussianMixture:
        """Estimate a density by a Gaussian at each sample: that of ``scipy.stats.gaussian_kde``.

        Parameters
        ----------
        samples
            Shape (n, d).
        bandwidth
            ``scott`` or ``silverman``, the rules for the factor of the samples' standard deviations; that factor
            itself; or the kernel's covariance, shape (d, d).
        weights
            The samples' weights, of any positive sum, shape (n,); equal where not given.

        Returns
        -------
        GaussianMixture
            n components of one covariance.

        Raises
        ------
        InputError
            Where an argument is not as said, or the samples span fewer than d dimensions (too few, or on a line) and
            the bandwidth is no matrix.

        Examples
        --------
        >>> GaussianMixture.from_kde([[0.0], [1.0], [2.0]], bandwidth=0.5).covariances[0].round(6).tolist()
        [[0.25]]
        """
        from gmr_metric.density import conversions

        return conversions.from_kde(samples, bandwidth, weights)

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
