"""Moment-preserving merges: components replaced by the Gaussian with their common mean and covariance."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.density.kinds import outer
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Integer


def merge(mixture: GaussianMixture, i: int, j: int) -> GaussianMixture:
    """Merge components i and j in the place of the lower; the mixture's mean and covariance do not change.

    Examples
    --------
    >>> pair = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> merge(pair, 0, 1).covariances.tolist()
    [[[2.0]]]
    """
    n = len(mixture)
    if not all(isinstance(k, Integral) and not isinstance(k, bool) and 0 <= k < n for k in (i, j)) or i == j:
        raise InputError(f"components {i} and {j}", f"two different ones from 0 to {n - 1}")
    first, second = sorted((i, j))
    assignment = np.arange(n) - (np.arange(n) > second)
    assignment[second] = first
    return merge_groups(mixture, assignment)


def merge_groups(mixture: GaussianMixture, assignment: Integer[np.ndarray, " components"]) -> GaussianMixture:
    """Merge each group of components into one; the mixture's mean and covariance do not change.

    Of ``diag`` covariances only the variances do not change, of ``spherical`` ones only their sum: the spread of the
    means within a group is projected to its diagonal, or to the mean of that.

    ``assignment``, shape (N,), is each component's group: whole numbers from 0 to L - 1, each at least once. The result
    has L components, in this order.

    Examples
    --------
    >>> three = GaussianMixture([0.25, 0.5, 0.25], [[0.0], [1.0], [4.0]], np.ones((3, 1, 1)))
    >>> merge_groups(three, np.array([0, 1, 0])).means.tolist()
    [[2.0], [1.0]]
    """
    groups = np.asarray(assignment)
    if groups.shape != (len(mixture),) or groups.dtype.kind not in "iu":
        raise InputError(
            f"assignment of {groups.dtype}, shape {groups.shape}", f"whole numbers, shape ({len(mixture)},)"
        )
    if set(groups.tolist()) != set(range(int(groups.max()) + 1)):
        raise InputError(f"groups are {sorted(set(groups.tolist()))}", "0 to L - 1, each at least once")
    n_groups = int(groups.max()) + 1
    weights = np.bincount(groups, weights=mixture.weights, minlength=n_groups)
    sizes = np.bincount(groups, minlength=n_groups)
    # A group of total weight 0 has no moments of its own: its components count equally.
    empty = weights[groups] == 0
    share = np.where(empty, 1 / sizes[groups], mixture.weights / np.where(empty, 1.0, weights[groups]))
    means = np.zeros((n_groups, mixture.dim))
    np.add.at(means, groups, share[:, None] * mixture.means)
    # Each term is positive semi-definite; E[x x^T] - m m^T would cancel far from the origin.
    axes = mixture.covariances.ndim
    spread = outer(mixture.means - means[groups], axes)
    spread += mixture.covariances
    spread *= share.reshape(-1, *(axes - 1) * (1,))
    covariances = np.zeros((n_groups, *spread.shape[1:]))
    np.add.at(covariances, groups, spread)
    return GaussianMixture(weights, means, covariances, normalize=True)
