"""Mixtures from and to scikit-learn, torch.distributions and samples.

:class:`~gmr_metric.GaussianMixture` has these as its ``from_...`` and ``to_...`` methods.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common.errors import InputError, require

from gmr_metric.checks import as_floats
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    import torch
    from torch.distributions import MixtureSameFamily

_FLAT = 1e-7  # the least extent, in standard deviations: below it a covariance is singular but for rounding


def from_sklearn(model: Any) -> GaussianMixture:
    """Take over a fitted scikit-learn mixture: see :meth:`GaussianMixture.from_sklearn`."""
    mixture_module = require("sklearn.mixture", package="gmr-metric", extra="sklearn")
    if not isinstance(model, mixture_module.GaussianMixture | mixture_module.BayesianGaussianMixture):
        raise InputError(f"a {type(model).__name__}", "a GaussianMixture or BayesianGaussianMixture of scikit-learn")
    if not hasattr(model, "means_"):
        raise InputError(f"this {type(model).__name__} is not fitted", "a fitted one")
    n, d = model.means_.shape
    kind, given = model.covariance_type, np.asarray(model.covariances_, dtype=np.float64)
    if kind == "full":
        covariances = given
    elif kind == "tied":
        covariances = np.tile(given, (n, 1, 1))
    elif kind == "diag":
        covariances = given[:, :, None] * np.eye(d)
    else:
        covariances = given[:, None, None] * np.eye(d)
    covariances = (covariances + np.swapaxes(covariances, 1, 2)) / 2  # fitted to float32, they are symmetric to 1e-7
    return GaussianMixture(model.weights_, model.means_, covariances, normalize=True)


def to_sklearn(mixture: GaussianMixture) -> Any:
    """Make a fitted scikit-learn mixture: see :meth:`GaussianMixture.to_sklearn`."""
    mixture_module = require("sklearn.mixture", package="gmr-metric", extra="sklearn")
    model = mixture_module.GaussianMixture(len(mixture), covariance_type="full")
    model.weights_ = mixture.weights / mixture.weights.sum()  # its sampler takes no sum above 1 + 1e-12
    model.means_, model.covariances_ = mixture.means.copy(), mixture.covariances.copy()
    inverse = np.linalg.inv(mixture.cholesky)
    model.precisions_cholesky_ = np.swapaxes(inverse, 1, 2)
    model.precisions_ = np.matmul(np.swapaxes(inverse, 1, 2), inverse)
    model.converged_, model.n_iter_, model.n_features_in_ = True, 0, mixture.dim
    return model


def from_torch(distribution: MixtureSameFamily) -> GaussianMixture:
    """Take over a torch mixture: see :meth:`GaussianMixture.from_torch`."""
    d = require("torch.distributions", package="gmr-metric", extra="torch")
    expected = "a MixtureSameFamily of MultivariateNormal, Independent(Normal, 1) or Normal"
    if not isinstance(distribution, d.MixtureSameFamily):
        raise InputError(f"a {type(distribution).__name__}", expected)
    if tuple(distribution.batch_shape):
        raise InputError(f"a batch of {tuple(distribution.batch_shape)} mixtures", "one mixture")
    parts = distribution.component_distribution
    if isinstance(parts, d.MultivariateNormal):
        means, root = _floats(parts.loc), _floats(parts.scale_tril)
        covariances = np.matmul(root, np.swapaxes(root, 1, 2))  # in float64: symmetric, whatever the tensors' type
    else:
        independent = isinstance(parts, d.Independent) and parts.reinterpreted_batch_ndims == 1
        normal = parts.base_dist if independent else parts
        if not isinstance(normal, d.Normal):
            raise InputError(f"components are {type(normal).__name__}", expected)
        means, deviations = (_floats(t).reshape(len(t), -1) for t in (normal.loc, normal.scale))
        covariances = deviations[:, :, None] ** 2 * np.eye(means.shape[1])
    # A softmax in float32 sums to one within 1e-7 only.
    return GaussianMixture(_floats(distribution.mixture_distribution.probs), means, covariances, normalize=True)


def to_torch(
    mixture: GaussianMixture, dtype: torch.dtype | None, device: torch.device | str | None
) -> MixtureSameFamily:
    """Make a torch mixture: see :meth:`GaussianMixture.to_torch`."""
    torch = require("torch", package="gmr-metric", extra="torch")
    d = require("torch.distributions", package="gmr-metric", extra="torch")

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array, dtype=dtype or torch.float64, device=device)

    with np.errstate(divide="ignore"):
        logits = np.log(mixture.weights)  # of `probs`, torch clips the small ones
    components = d.MultivariateNormal(tensor(mixture.means), scale_tril=tensor(mixture.cholesky))
    made: MixtureSameFamily = d.MixtureSameFamily(d.Categorical(logits=tensor(logits)), components)
    return made


def from_kde(samples: Any, bandwidth: Any, weights: Any) -> GaussianMixture:
    """Put a Gaussian at each sample: see :meth:`GaussianMixture.from_kde`."""
    points = as_floats("samples", samples, 2)
    n, d = points.shape
    shares = as_floats("weights", np.ones(n) if weights is None else weights, 1)
    if not points.size or len(shares) != n:
        raise InputError(f"samples have shape {points.shape}, weights {shares.shape}", "(n, d) and (n,)")
    if shares.min() < 0 or not shares.any():
        raise InputError(f"weights lie between {shares.min():g} and {shares.max():g}", "weights >= 0, not all 0")
    shares = shares / shares.sum()
    if isinstance(bandwidth, str | Real):
        factor = _factor(bandwidth, 1 / float((shares**2).sum()), d)
        kernel = factor**2 * _sample_covariance(points, shares)
    else:
        try:
            given = as_floats("its entries", bandwidth, 2)
            kernel = GaussianMixture(np.ones(1), np.zeros((1, d)), given[None]).covariances[0]
        except InputError as error:
            raise InputError(
                f"bandwidth is no covariance in {d} dimensions: {error.given}", "a matrix (d, d), a number or a rule"
            ) from error
    return GaussianMixture(shares, points, np.tile(kernel, (n, 1, 1)), normalize=True)


def _factor(bandwidth: str | Real, effective: float, d: int) -> float:
    """Return what the samples' standard deviations are multiplied by, for an effective number of samples."""
    if bandwidth == "scott":
        return float(effective ** (-1 / (d + 4)))
    if bandwidth == "silverman":
        return float((effective * (d + 2) / 4) ** (-1 / (d + 4)))
    if isinstance(bandwidth, str) or not 0 < float(bandwidth) < np.inf:
        raise InputError(f"bandwidth is {bandwidth!r}", "scott, silverman, a number > 0 or a matrix (d, d)")
    return float(bandwidth)


def _sample_covariance(points: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the unbiased covariance of weighted samples, once they span every dimension."""
    offsets = points - points[0]  # exactly 0 in a dimension where all are equal
    offsets = np.sqrt(shares)[:, None] * (offsets - shares @ offsets)
    deviations = np.linalg.norm(offsets, axis=0)
    rank = int(np.linalg.matrix_rank(offsets / np.where(deviations > 0, deviations, 1), tol=_FLAT))
    d = points.shape[1]
    if rank < d:
        raise InputError(
            f"the {np.count_nonzero(shares)} samples of positive weight span {rank} of {d} dimensions",
            "samples that span all, or a bandwidth matrix",
        )
    return np.asarray(offsets.T @ offsets / (1 - float((shares**2).sum())))


def _floats(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().double().numpy())
