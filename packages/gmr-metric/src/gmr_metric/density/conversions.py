"""Conversions from and to scikit-learn, torch.distributions and samples, on a mixture's arrays.

:class:`~gmr_metric.GaussianMixture` offers them as its ``from_...`` and ``to_...`` methods.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common.errors import InputError, require

from gmr_metric.checks import as_floats, symmetric
from gmr_metric.density.algebra import Arrays, log_of
from gmr_metric.density.kinds import CovarianceType, covariance_type

if TYPE_CHECKING:
    import torch
    from torch.distributions import MixtureSameFamily

_FLAT = 1e-7  # the least extent, in standard deviations: below it a covariance is singular up to rounding


def from_sklearn(model: Any) -> Arrays:
    """Return the arrays of a fitted scikit-learn mixture."""
    mixture_module = require("sklearn.mixture", package="gmr-metric", extra="sklearn")
    if not isinstance(model, mixture_module.GaussianMixture | mixture_module.BayesianGaussianMixture):
        raise InputError(f"a {type(model).__name__}", "a GaussianMixture or BayesianGaussianMixture of scikit-learn")
    if not hasattr(model, "means_"):
        raise InputError(f"this {type(model).__name__} is not fitted", "a fitted model")
    covariances = np.asarray(model.covariances_, dtype=np.float64)
    if model.covariance_type == "tied":
        covariances = np.tile(covariances, (len(model.means_), 1, 1))
    if covariances.ndim == 3:  # fits in float32 are symmetric to 1e-7 only
        covariances = (covariances + np.swapaxes(covariances, 1, 2)) / 2
    return model.weights_, model.means_, covariances


def to_sklearn(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray) -> Any:
    """Return a fitted scikit-learn mixture; factors are the covariances' Cholesky factors or standard deviations."""
    mixture_module = require("sklearn.mixture", package="gmr-metric", extra="sklearn")
    model = mixture_module.GaussianMixture(len(weights), covariance_type=covariance_type(covariances))
    model.weights_ = weights / weights.sum()  # scikit-learn's sampler refuses a sum above 1 + 1e-12
    model.means_, model.covariances_ = means.copy(), covariances.copy()
    inverse = np.linalg.inv(factors) if factors.ndim == 3 else 1 / factors
    model.precisions_cholesky_ = np.swapaxes(inverse, 1, 2) if factors.ndim == 3 else inverse
    model.precisions_ = np.matmul(np.swapaxes(inverse, 1, 2), inverse) if factors.ndim == 3 else inverse**2
    model.converged_, model.n_iter_, model.n_features_in_ = True, 0, means.shape[1]
    return model


def from_torch(distribution: MixtureSameFamily) -> Arrays:
    """Return the arrays of a torch mixture, in float64."""
    d = require("torch.distributions", package="gmr-metric", extra="torch")
    expected = "a MixtureSameFamily of MultivariateNormal, Independent(Normal, 1) or Normal"
    if not isinstance(distribution, d.MixtureSameFamily):
        raise InputError(f"a {type(distribution).__name__}", expected)
    if tuple(distribution.batch_shape):
        raise InputError(f"a batch of {tuple(distribution.batch_shape)} mixtures", "one mixture")
    parts = distribution.component_distribution
    if isinstance(parts, d.MultivariateNormal):
        means, factors = _floats(parts.loc), _floats(parts.scale_tril)
        covariances = np.matmul(factors, np.swapaxes(factors, 1, 2))  # symmetric in float64, whatever the tensors' type
    else:
        independent = isinstance(parts, d.Independent) and parts.reinterpreted_batch_ndims == 1
        normal = parts.base_dist if independent else parts
        if not isinstance(normal, d.Normal):
            raise InputError(f"components are {type(normal).__name__}", expected)
        means, deviations = (_floats(t).reshape(len(t), -1) for t in (normal.loc, normal.scale))
        covariances = deviations**2
    return _floats(distribution.mixture_distribution.probs), means, covariances


def to_torch(
    weights: np.ndarray,
    means: np.ndarray,
    factors: np.ndarray,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> MixtureSameFamily:
    """Return a torch mixture; factors are the covariances' Cholesky factors or standard deviations."""
    torch = require("torch", package="gmr-metric", extra="torch")
    d = require("torch.distributions", package="gmr-metric", extra="torch")

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array, dtype=dtype or torch.float64, device=device)

    if factors.ndim == 3:
        components = d.MultivariateNormal(tensor(means), scale_tril=tensor(factors))
    else:
        deviations = np.broadcast_to(factors.reshape(len(means), -1), means.shape).copy()
        components = d.Independent(d.Normal(tensor(means), tensor(deviations)), 1)
    # Logits, because torch clips small probabilities.
    mixture: MixtureSameFamily = d.MixtureSameFamily(d.Categorical(logits=tensor(log_of(weights))), components)
    return mixture


def from_kde(samples: Any, bandwidth: Any, weights: Any, kind: CovarianceType) -> Arrays:
    """Return the arrays of a kernel density estimate."""
    points = as_floats("samples", samples)
    points = as_floats("samples", points[:, None] if points.ndim == 1 else points, (None, None))
    n, d = points.shape
    shares = as_floats("weights", np.ones(n) if weights is None else weights, (None,))
    if not points.size or len(shares) != n:
        raise InputError(f"samples have shape {points.shape}, weights {shares.shape}", "(n, d) and (n,)")
    if shares.min() < 0 or not shares.any():
        raise InputError(f"weights lie between {shares.min():g} and {shares.max():g}", "weights >= 0, not all 0")
    shares = shares / shares.sum()
    if isinstance(bandwidth, str | Real):
        factor = _factor(bandwidth, 1 / float((shares**2).sum()), d)
        kernel = factor**2 * (_sample_covariance if kind == "full" else _sample_variances)(points, shares)
    else:
        kernel = _kernel(bandwidth, d, kind)
    if kind == "spherical":
        return shares, points, np.full(n, kernel.mean())
    return shares, points, np.tile(kernel, (n, *kernel.ndim * (1,)))


def _kernel(bandwidth: Any, d: int, kind: CovarianceType) -> np.ndarray:
    if kind != "full":
        variances = as_floats("bandwidth", bandwidth, (d if kind == "diag" else 1,))
        if not variances.min() > 0:
            raise InputError(f"the least variance of the bandwidth is {variances.min():g}", "variances > 0")
        return variances
    try:
        covariance: np.ndarray = symmetric("bandwidth", as_floats("bandwidth", bandwidth, (d, d))[None])[0]
        np.linalg.cholesky(covariance)
    except (InputError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"bandwidth is not a covariance in {d} dimensions: {error}",
            "a positive definite matrix (d, d), a number or a rule",
        ) from error
    return covariance


def _factor(bandwidth: str | Real, effective: float, d: int) -> float:
    """Return the factor of the samples' standard deviations, for an effective number of samples."""
    if bandwidth == "scott":
        return float(effective ** (-1 / (d + 4)))
    if bandwidth == "silverman":
        return float((effective * (d + 2) / 4) ** (-1 / (d + 4)))
    if isinstance(bandwidth, str) or not 0 < float(bandwidth) < np.inf:
        raise InputError(f"bandwidth is {bandwidth!r}", "scott, silverman, a number > 0 or a matrix (d, d)")
    return float(bandwidth)


def _sample_covariance(points: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the unbiased covariance of weighted samples that span every dimension."""
    offsets = points - points[0]  # exactly 0 in a dimension where all are equal
    offsets = np.sqrt(shares)[:, None] * (offsets - shares @ offsets)
    deviations = np.linalg.norm(offsets, axis=0)
    rank = int(np.linalg.matrix_rank(offsets / np.where(deviations > 0, deviations, 1), tol=_FLAT))
    d = points.shape[1]
    if rank < d:
        raise InputError(
            f"the {np.count_nonzero(shares)} samples of positive weight span {rank} of {d} dimensions",
            "samples that span all dimensions, or a bandwidth matrix",
        )
    covariance: np.ndarray = offsets.T @ offsets / (1 - float((shares**2).sum()))
    return covariance


def _sample_variances(points: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the unbiased variances of weighted samples that differ in every dimension."""
    offsets = points - points[0]
    variances: np.ndarray = shares @ (offsets - shares @ offsets) ** 2
    flat = np.flatnonzero(variances == 0)
    if flat.size:
        raise InputError(f"the samples are all equal in dimension {flat[0]}", "samples that differ, or variances")
    return variances / (1 - float((shares**2).sum()))


def _floats(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().double().numpy()
    return array
