"""Mixtures from and to scikit-learn, torch.distributions and samples.

:class:`~gmr_metric.GaussianMixture` has these as its ``from_...`` and ``to_...`` methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common.errors import InputError, require

from gmr_metric.mixture import GaussianMixture

if TYPE_CHECKING:
    from torch.distributions import MixtureSameFamily


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
    return GaussianMixture(model.weights_, model.means_, covariances, normalize=True)


def to_sklearn(mixture: GaussianMixture) -> Any:
    """Make a fitted scikit-learn mixture: see :meth:`GaussianMixture.to_sklearn`."""
    mixture_module = require("sklearn.mixture", package="gmr-metric", extra="sklearn")
    model = mixture_module.GaussianMixture(len(mixture), covariance_type="full")
    model.weights_, model.means_ = mixture.weights.copy(), mixture.means.copy()
    model.covariances_ = mixture.covariances.copy()
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
        means, covariances = _floats(parts.loc), _floats(parts.covariance_matrix)
    else:
        independent = isinstance(parts, d.Independent) and parts.reinterpreted_batch_ndims == 1
        normal = parts.base_dist if independent else parts
        if not isinstance(normal, d.Normal):
            raise InputError(f"components are {type(normal).__name__}", expected)
        means, deviations = (_floats(t).reshape(len(t), -1) for t in (normal.loc, normal.scale))
        covariances = deviations[:, :, None] ** 2 * np.eye(means.shape[1])
    # A softmax in float32 sums to one within 1e-7 only.
    return GaussianMixture(_floats(distribution.mixture_distribution.probs), means, covariances, normalize=True)


def to_torch(mixture: GaussianMixture, dtype: Any, device: Any) -> MixtureSameFamily:
    """Make a torch mixture: see :meth:`GaussianMixture.to_torch`."""
    torch = require("torch", package="gmr-metric", extra="torch")
    d = torch.distributions

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array, dtype=dtype or torch.float64, device=device)

    components = d.MultivariateNormal(tensor(mixture.means), scale_tril=tensor(mixture.cholesky))
    return d.MixtureSameFamily(d.Categorical(probs=tensor(mixture.weights)), components)


def from_kde(samples: Any, bandwidth: Any, weights: Any) -> GaussianMixture:
    """Put a Gaussian at each sample: see :meth:`GaussianMixture.from_kde`."""
    try:
        points = np.array(samples, dtype=np.float64)
        shares = np.full(len(points), 1.0) if weights is None else np.array(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"samples or weights are no numbers: {error}", "arrays (n, d) and (n,)") from error
    if points.ndim != 2 or not points.size or shares.shape != points.shape[:1]:
        raise InputError(f"samples have shape {points.shape}, weights {shares.shape}", "(n, d) and (n,)")
    if not np.isfinite(points).all() or not (np.isfinite(shares) & (shares >= 0)).all() or not shares.sum() > 0:
        raise InputError(
            "samples or weights are not finite, or weights negative or all 0", "finite numbers, weights >= 0"
        )
    n, d = points.shape
    shares = shares / shares.sum()
    if isinstance(bandwidth, str) or np.ndim(bandwidth) == 0:
        effective = 1 / float((shares**2).sum())
        offset = points - shares @ points
        spread = (shares[:, None] * offset).T @ offset
        if effective <= d or np.linalg.matrix_rank(offset, tol=1e-10 * np.abs(offset).max(initial=1e-300)) < d:
            raise InputError(f"{n} samples span fewer than {d} dimensions", "more samples, or a bandwidth matrix")
        kernel = spread / (1 - float((shares**2).sum())) * _factor(bandwidth, effective, d) ** 2
    else:
        kernel = np.asarray(bandwidth, dtype=np.float64)
        if kernel.shape != (d, d):
            raise InputError(
                f"bandwidth has shape {kernel.shape}", f"a matrix ({d}, {d}), a number, scott or silverman"
            )
    return GaussianMixture(shares, points, np.tile(kernel, (n, 1, 1)), normalize=True)


def _factor(bandwidth: Any, effective: float, d: int) -> float:
    """Return what the samples' standard deviations are multiplied by."""
    if bandwidth == "scott":
        return float(effective ** (-1 / (d + 4)))
    if bandwidth == "silverman":
        return float((effective * (d + 2) / 4) ** (-1 / (d + 4)))
    if isinstance(bandwidth, str) or not 0 < float(bandwidth) < np.inf:
        raise InputError(f"bandwidth is {bandwidth!r}", "scott, silverman, a number > 0 or a matrix (d, d)")
    return float(bandwidth)


def _floats(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().double().numpy())
