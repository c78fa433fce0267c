"""Moment-preserving merges: components replaced by the Gaussian with their common mean and covariance."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from sextet_common.errors import InputError

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
    d, n_groups = mixture.dim, int(groups.max()) + 1
    weights = np.bincount(groups, weights=mixture.weights, minlength=n_groups)
    sizes = np.bincount(groups, minlength=n_groups)
    # A group of total weight 0 has no moments of its own: its components count equally.
    empty = weights[groups] == 0
    share = np.where(empty, 1 / sizes[groups], mixture.weights / np.where(empty, 1.0, weights[groups]))
    means = np.zeros((n_groups, d))
    np.add.at(means, groups, share[:, None] * mixture.means)
    offsets = mixture.means - means[groups]
    # Each term is positive semi-definite; E[x x^T] - m m^T would cancel far from the origin.
    spread = mixture.covariances + offsets[:, :, None] * offsets[:, None, :]
    covariances = np.zeros((n_groups, d, d))
    np.add.at(covariances, groups, share[:, None, None] * spread)
    return GaussianMixture(weights, means, covariances, normalize=True)
