"""The Gaussian mixture: a frozen, validated value that the rest of the package takes and returns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common import hub
from sextet_common.checks import Natural, check
from sextet_common.errors import InputError

from gmr_metric.checks import as_floats, dimensions, drawing, summing_to_one
from gmr_metric.density import algebra, conversions, kinds, storage
from gmr_metric.density.kinds import CovarianceType

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch.distributions import MixtureSameFamily


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of N Gaussians in d dimensions; its arrays are float64 and read-only.

    The weights, shape (N,), are at least 0 and sum to one within 1e-8, or within 1e-5 if they are float32 or float16,
    and are then scaled to sum one; with ``normalize`` they may have any positive sum and are divided by it. The means
    have shape (N, d), or (N,) in one dimension. The covariances are positive definite, and their shape is their
    ``covariance_type``, as in scikit-learn: symmetric matrices (N, d, d) are ``full``, variances (N, d) ``diag``, and
    one variance for all dimensions, (N,), ``spherical``. Mixtures are equal if all their values are.

    Examples
    --------
    >>> mixture = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> mixture.mean().tolist(), mixture.covariance().tolist()
    ([0.0], [[2.0]])
    >>> GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [1.0, 4.0]).covariance_type
    'spherical'
    """

    weights: Float[np.ndarray, " components"]
    means: Float[np.ndarray, "components dim"]
    covariances: Float[np.ndarray, "components ..."]
    normalize: InitVar[bool] = False

    def __post_init__(self, normalize: bool) -> None:
        weights = as_floats("weights", self.weights, (None,))
        means = as_floats("means", self.means)
        if means.ndim == 1:
            means = means[:, None]
        if means.ndim != 2 or not means.size or weights.shape != means.shape[:1]:
            shapes = f"weights {weights.shape}, means {means.shape}, covariances {np.shape(self.covariances)}"
            raise InputError(
                f"shapes do not match: {shapes}", "(N,), (N, d) and (N, d, d), (N, d) or (N,) with N and d at least 1"
            )
        covariances = kinds.checked(self.covariances, *means.shape)
        single = getattr(self.weights, "dtype", None) in (np.float32, np.float16)
        weights = summing_to_one(weights, normalize=normalize, single=single)
        for name, array in {"weights": weights, "means": means, "covariances": covariances}.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if covariances.ndim == 3:
            _ = self.cholesky  # raises if a covariance is not positive definite

    def __len__(self) -> int:
        return len(self.weights)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GaussianMixture):
            return NotImplemented
        same_type = self.dim == 1 or self.covariance_type == other.covariance_type
        return (self is other) or bool(
            same_type
            and self.means.shape == other.means.shape
            and all(np.array_equal(a.ravel(), b.ravel()) for a, b in zip(self._arrays, other._arrays, strict=True))
        )

    def __hash__(self) -> int:
        parts = (self.weights, self.means[0], self.covariances[0])
        return hash((self.means.shape, *((part + 0.0).tobytes() for part in parts)))  # -0.0 equals 0.0

    def __reduce__(self) -> tuple[type[GaussianMixture], algebra.Arrays]:
        return GaussianMixture, self._arrays  # copies and pickles are checked and read-only too

    @property
    def dim(self) -> int:
        """The number of dimensions d."""
        return int(self.means.shape[1])

    @property
    def covariance_type(self) -> CovarianceType:
        """The type of covariances: ``full``, ``diag`` or ``spherical``."""
        return kinds.covariance_type(self.covariances)

    @cached_property
    def cholesky(self) -> Float[np.ndarray, "components ..."]:
        """The covariances' lower Cholesky factors or, of diag and spherical ones, standard deviations."""
        factors = kinds.factors(self.covariances)
        factors.setflags(write=False)
        return factors

    def convert(self, covariance_type: CovarianceType) -> GaussianMixture:
        """Return the mixture with another type of covariances.

        From spherical over diag to full this is exact. The other way it is a projection: ``diag`` keeps the variances,
        ``spherical`` their mean over the dimensions.

        Examples
        --------
        >>> unit = GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, 3.0]])
        >>> unit.convert("full").covariances.tolist(), unit.convert("spherical").covariances.tolist()
        ([[[1.0, 0.0], [0.0, 3.0]]], [2.0])
        """
        check("covariance_type", covariance_type, CovarianceType)
        if covariance_type == self.covariance_type:
            return self
        covariances = kinds.converted(self.covariances, self.dim, covariance_type)
        return GaussianMixture(self.weights, self.means, covariances)

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

    def sample(
        self,
        size: int,
        seed: int | np.random.Generator = 0,
        *,
        random_state: int | np.random.Generator | np.random.RandomState | None = None,
    ) -> Float[np.ndarray, "size dim"]:
        """Draw independent points, shape (size, d); the same seed gives the same points, a generator the next ones.

        ``random_state`` is another name for the seed, as in scikit-learn.
        """
        check("size", size, Natural)
        draw = drawing(seed, random_state, "mixture sample")
        chosen = draw.choice(len(self), size=size, p=self.weights / self.weights.sum())
        points: np.ndarray = draw.standard_normal((size, self.dim))
        factors = self.cholesky[chosen]
        if factors.ndim == 3:
            points = np.matmul(factors, points[..., None])[..., 0]
        else:
            points *= factors.reshape(size, -1)
        points += self.means[chosen]
        return points

    def mean(self) -> Float[np.ndarray, " dim"]:
        """Return the mean of the whole mixture, shape (d,)."""
        mean: np.ndarray = self.weights @ self.means
        return mean

    def covariance(self) -> Float[np.ndarray, "dim dim"]:
        """Return the covariance of the whole mixture, within plus between components, shape (d, d)."""
        offset = self.means - self.mean()
        within = np.tensordot(self.weights, self.covariances, axes=1)
        if within.ndim < 2:
            within = within * np.eye(self.dim)
        within += (self.weights[:, None] * offset).T @ offset
        covariance: np.ndarray = within
        return covariance

    def variances(self) -> Float[np.ndarray, " dim"]:
        """Return the variances of the whole mixture, shape (d,): the diagonal of its covariance."""
        within = np.tensordot(self.weights, self.covariances, axes=1)
        squares = self.means - self.mean()
        squares *= squares
        variances: np.ndarray = (np.diagonal(within) if within.ndim == 2 else within) + self.weights @ squares
        return variances

    def subset(self, chosen: Sequence[int] | np.ndarray) -> GaussianMixture:
        """Keep the chosen components, and scale their weights to sum one."""
        return GaussianMixture(self.weights[chosen], self.means[chosen], self.covariances[chosen], normalize=True)

    def marginal(self, dims: Sequence[int]) -> GaussianMixture:
        """Keep the given dimensions, in the given order, and integrate out the others."""
        kept = dimensions(dims, self.dim)
        places = {"full": (slice(None), kept[:, None], kept), "diag": (slice(None), kept), "spherical": ()}
        covariances = self.covariances[places[self.covariance_type]]
        return GaussianMixture(self.weights, self.means[:, kept], covariances)

    def condition(self, dims: Sequence[int], values: Float[np.ndarray, " given"]) -> GaussianMixture:
        """Condition on known values, shape (len(dims),), of some dimensions.

        The result has the other dimensions, at least one, in their original order.

        Examples
        --------
        >>> joint = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> joint.condition([0], [2.0]).means.tolist()
        [[1.0]]
        """
        known = dimensions(dims, self.dim)
        given = as_floats("values", values, (None,))
        if given.shape != known.shape or known.size == self.dim:
            raise InputError(
                f"{given.size} values for {known.size} of {self.dim} dimensions",
                "one value each, and at least one dimension left",
            )
        arrays = algebra.conditioned(self.weights, self.means, self.covariances, known, given)
        return GaussianMixture(*arrays, normalize=True)

    def affine(
        self,
        matrix: Float[np.ndarray, "new dim"] | Float[np.ndarray, " dim"] | float,
        offset: Float[np.ndarray, " new"] | float = 0.0,
    ) -> GaussianMixture:
        """Return the distribution of ``matrix @ x + offset``.

        The matrix, shape (new, d), has full row rank, and the result has full covariances. Instead of a diagonal matrix
        scales may be given: (d,), which spherical covariances turn to diag, or one number, which keeps the type. The
        offset has shape (new,) or is one number.
        """
        a = as_floats("matrix", matrix)
        if a.ndim < 2 and a.shape in ((), (self.dim,)):
            squares = np.outer(a, a) if a.ndim and self.covariance_type == "full" else a**2
            same = a.ndim == 0 or self.covariance_type != "spherical"
            covariances = self.covariances if same else self.covariances[:, None]
            return GaussianMixture(self.weights, self.means * a + offset, covariances * squares)
        a = as_floats("matrix", a, (None, self.dim))
        factors = self.cholesky
        spread = a @ factors if factors.ndim == 3 else a * factors.reshape(len(self), 1, -1)
        return GaussianMixture(self.weights, self.means @ a.T + offset, spread @ np.swapaxes(spread, 1, 2))

    def product(self, other: GaussianMixture) -> GaussianMixture:
        """Multiply two densities and normalise: one component per pair, as in belief propagation.

        Examples
        --------
        >>> unit = GaussianMixture([1.0], [[1.0]], [[[1.0]]])
        >>> unit.product(unit).covariances.tolist()
        [[[0.5]]]
        """
        arrays = algebra.multiplied(self._arrays, kinds.matching(self, other)._arrays)
        return GaussianMixture(*arrays, normalize=True)

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
        """Convert scikit-learn's fitted ``GaussianMixture`` or ``BayesianGaussianMixture``; only ``tied`` becomes full.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture as Fitted
        >>> points = np.random.default_rng(0).normal(size=(100, 2))
        >>> GaussianMixture.from_sklearn(Fitted(3, random_state=0).fit(points)).means.shape
        (3, 2)
        """
        return cls(*conversions.from_sklearn(model), normalize=True)

    def to_sklearn(self) -> Any:
        """Return a fitted ``sklearn.mixture.GaussianMixture`` of the same covariance type.

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
        The first gives full covariances, the others diag.

        Examples
        --------
        >>> import torch; import torch.distributions as D
        >>> weights, parts = D.Categorical(torch.ones(2)), D.Normal(torch.tensor([0.0, 1.0]), torch.ones(2))
        >>> GaussianMixture.from_torch(D.MixtureSameFamily(weights, parts)).means.tolist()
        [[0.0], [1.0]]
        """
        return cls(*conversions.from_torch(distribution), normalize=True)

    def to_torch(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> MixtureSameFamily:
        """Return a ``torch.distributions.MixtureSameFamily``.

        Its components are ``MultivariateNormal`` or, for diag and spherical covariances, ``Independent(Normal, 1)``.
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
        *,
        covariance_type: CovarianceType = "full",
    ) -> GaussianMixture:
        """Estimate a density with one Gaussian at each sample, as ``scipy.stats.gaussian_kde`` does.

        Parameters
        ----------
        samples
            Shape (n, d), or (n,) in one dimension. Unless the bandwidth is an array, they must span all d dimensions.
        bandwidth
            ``scott`` or ``silverman``, the rules for the factor that scales the samples' covariance; that factor
            itself; or the kernel's covariance, shape (d, d) or, for ``diag``, its variances (d,).
        weights
            Of any positive sum, shape (n,); equal by default.
        covariance_type
            Of the kernel: ``diag`` takes the samples' variances instead of their covariance, ``spherical`` their mean.

        Examples
        --------
        >>> GaussianMixture.from_kde([[0.0], [1.0], [2.0]], bandwidth=0.5).covariances[0].round(6).tolist()
        [[0.25]]
        """
        check("covariance_type", covariance_type, CovarianceType)
        return cls(*conversions.from_kde(samples, bandwidth, weights, covariance_type), normalize=True)

    @property
    def _arrays(self) -> algebra.Arrays:
        return self.weights, self.means, self.covariances
