"""The uncertainty of an image's mixture: the variance between and within its components, and their distinctness."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.mixtures.parameters import MixtureParameters


class Uncertainty(NamedTuple):
    """The variance of every mixture in two parts, each averaged over the dimensions.

    ``between`` is the variance of the components' means under the weights: the components disagree about where the
    image lies, the epistemic part. ``within`` is the mean of the components' variances under the weights: how wide the
    components are, the aleatoric part. Both are in the square of the means' unit.
    """

    between: Float[Tensor, " batch"]
    within: Float[Tensor, " batch"]

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The variance of the mixture: the sum of both parts, by the law of total variance."""
        return self.between + self.within


def uncertainty(mixtures: MixtureParameters) -> Uncertainty:
    """Compute the variance between and within the components of every mixture.

    arXiv 2401.01448 ranks images by the variance between the components' means.

    Examples
    --------
    Two components at -1 and 1 with variance 4:

    >>> import torch
    >>> means = torch.tensor([[[-1.0], [1.0]]])
    >>> mixture = MixtureParameters(torch.tensor([[0.5, 0.5]]).log(), means, torch.full((1, 2), 2.0).log())
    >>> uncertainty(mixture)
    Uncertainty(between=tensor([1.]), within=tensor([4.]))
    """
    mixtures.check()
    weights = mixtures.log_weights.exp()[..., None]
    mean = (weights * mixtures.means).sum(dim=1, keepdim=True)
    between = (weights * (mixtures.means - mean).square()).sum(dim=1).mean(dim=-1)
    variances = mixtures.variances if mixtures.covariance == "diagonal" else mixtures.variances[..., None]
    return Uncertainty(between, (weights * variances).sum(dim=1).mean(dim=-1))


def mutual_information(mixtures: MixtureParameters) -> Float[Tensor, " batch"]:
    """Compute how much a point drawn from a mixture tells about its component, in nats.

    It is 0 where all components are equal and the entropy of the weights where they are apart. The mutual information
    of Gaussians has no closed form; this is its lower bound by Bhattacharyya distances.

    References
    ----------
    Kolchinsky and Tracey, 2017, Estimating mixture entropy with pairwise distances, arXiv 1706.02419.

    Examples
    --------
    Two equal components, and two that are far apart:

    >>> means = torch.tensor([[[0.0], [0.0]], [[-9.0], [9.0]]])
    >>> mutual_information(MixtureParameters(torch.full((2, 2), 0.5).log(), means, torch.zeros(2, 2)))
    tensor([0.0000, 0.6931])
    """
    mixtures.check()
    each = [_components_told_apart(mixtures.select(slice(row, row + 1))) for row in range(len(mixtures.means))]
    return torch.cat(each).clamp(min=0).abs()  # no -0


def _components_told_apart(mixture: MixtureParameters) -> Float[Tensor, " 1"]:
    means, variances, log_std = mixture.means, mixture.variances, mixture.log_std
    mean_variance = (variances[:, :, None] + variances[:, None]) / 2
    log_ratio = mean_variance.log() - log_std[:, :, None] - log_std[:, None]  # to the geometric mean
    if mixture.covariance == "isotropic":
        squares = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
        distances = squares / mean_variance / 8 + log_ratio * means.shape[2] / 2
    else:
        squares = (means[:, :, None] - means[:, None]).square()
        distances = (squares / mean_variance / 8 + log_ratio / 2).sum(dim=-1)
    overlap = torch.logsumexp(mixture.log_weights[:, None] - distances, dim=-1)
    return -(mixture.log_weights.exp() * overlap).sum(dim=-1)


def error_by_quantile(
    values: Shaped[np.ndarray, " rows"], errors: Shaped[np.ndarray, " rows"], quantiles: int = 5
) -> Float[np.ndarray, " quantiles"]:
    """Compute the mean error in equal parts of the rows, sorted from the lowest uncertainty to the highest.

    With an informative uncertainty (`values`) the errors rise. An error is, for instance, a share of wrong labels.

    Examples
    --------
    >>> error_by_quantile(np.array([0.1, 0.9, 0.5, 0.4]), np.array([0.0, 1.0, 1.0, 0.0]), quantiles=2)
    array([0., 1.])
    """
    values, errors = np.asarray(values), np.asarray(errors, dtype=np.float64)
    if values.ndim != 1 or values.shape != errors.shape:
        raise InputError(f"values and errors have shapes {values.shape} and {errors.shape}", "(rows,) both")
    if not 1 <= quantiles <= len(values):
        raise InputError(f"{quantiles} quantiles of {len(values)} rows", "at least a row in each")
    order = np.argsort(values, kind="stable")
    return np.array([errors[part].mean() for part in np.array_split(order, quantiles)])
