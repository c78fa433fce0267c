"""The result of a reduction method: the component that each original one went to, and the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gmr_metric.density.kinds import matching
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.costs import kullback_leibler

if TYPE_CHECKING:
    from jaxtyping import Integer

_BLOCK = 2**16  # divergences per step, so that they stay in the cache


class Step(NamedTuple):
    """One step of a reduction, with the number of components after it and the method's own criterion as its cost.

    The action is ``merge`` (two groups became one), ``drop`` (a group's weight went to the others), ``reassign`` (a
    sweep of a clustering moved components) or ``refine`` (all parameters were optimised). ``components`` are the groups
    involved, each identified by its lowest component of the original mixture; empty for a step that involves all.
    """

    action: str
    components: tuple[int, ...]
    n_components: int
    cost: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a reduction method returns.

    ``assignment``, shape (N,), is the component of the reduced mixture that each original one went to: whole numbers
    from 0 to L - 1, each at least once. A dropped component is assigned to the nearest kept one; after a refinement,
    each component to the nearest refined one. ``mixture`` has L components in the order of the groups; if None, they
    are the moment-preserving merges of the groups.
    """

    assignment: Integer[np.ndarray, " components"]
    mixture: GaussianMixture | None = None
    history: Sequence[Step] = field(default=())


def nearest_kept(mixture: GaussianMixture, kept: Integer[np.ndarray, " kept"]) -> Integer[np.ndarray, " components"]:
    """Assign each component to the nearest of some kept ones (indices, ascending), and every kept one to itself.

    Distances are Kullback-Leibler divergences of the kept component from the other; ties go to the first.
    """
    assignment = np.empty(len(mixture), dtype=np.intp)
    assignment[kept] = np.arange(len(kept))
    dropped = np.setdiff1d(np.arange(len(mixture)), kept)
    assignment[dropped] = _nearest(mixture, dropped, mixture.means[kept], mixture.cholesky[kept])
    return assignment


def nearest_centres(mixture: GaussianMixture, centres: GaussianMixture) -> Integer[np.ndarray, " components"]:
    """Assign each of N components to the nearest of L <= N centres, so that every centre has at least one.

    Distances are Kullback-Leibler divergences of the centre from the component. A centre that is nearest to none gets
    the component nearest to it among those that are not alone with theirs.
    """
    centres = matching(mixture, centres)
    labels = _nearest(mixture, np.arange(len(mixture)), centres.means, centres.cholesky)
    for empty in np.setdiff1d(np.arange(len(centres)), labels).tolist():
        centre = GaussianMixture(np.ones(1), centres.means[[empty]], centres.covariances[[empty]])
        divergences = kullback_leibler(mixture, centre)[:, 0]
        labels[np.where(dispensable(labels, len(centres)), divergences, np.inf).argmin()] = empty
    return labels


def dispensable(labels: np.ndarray, n_groups: int) -> np.ndarray:
    """Return which components are not alone in their group."""
    shared: np.ndarray = np.bincount(labels, minlength=n_groups)[labels] > 1
    return shared


def _nearest(mixture: GaussianMixture, chosen: np.ndarray, means: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the nearest centre of each chosen component; centres are given by means and Cholesky factors."""
    if factors.ndim < 3:
        return _nearest_by_variances(mixture, chosen, means, factors.reshape(len(means), -1) ** 2)
    whitening = np.linalg.inv(factors)
    precision = np.matmul(np.swapaxes(whitening, 1, 2), whitening)
    log_determinant = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    result = np.empty(len(chosen), dtype=np.intp)
    step = max(1, _BLOCK // len(means))
    for start in range(0, len(chosen), step):
        block = chosen[start : start + step]
        # Entry by entry: matrix products would round equal candidates differently, and break ties.
        twice = np.tile(log_determinant, (len(block), 1))
        offsets = [mixture.means[block, k, None] - means[:, k] for k in range(mixture.dim)]
        for row in range(mixture.dim):
            white = np.zeros_like(twice)
            for k in range(row + 1):
                white += whitening[:, row, k] * offsets[k]
                both = 1 if row == k else 2
                twice += (both * precision[:, row, k]) * mixture.covariances[block, row, k, None]
            twice += white**2
        result[start : start + step] = twice.argmin(axis=1)
    return result


def _nearest_by_variances(
    mixture: GaussianMixture, chosen: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Return the same for variances (L, d), or (L, 1) of spheres."""
    own = mixture.covariances.reshape(len(mixture), -1)
    log_determinant = np.log(variances).sum(axis=1) * (mixture.dim // own.shape[1])
    result = np.empty(len(chosen), dtype=np.intp)
    step = max(1, _BLOCK // len(means))
    for start in range(0, len(chosen), step):
        block = chosen[start : start + step]
        twice = np.tile(log_determinant, (len(block), 1))
        for k in range(mixture.dim):
            axis = k % own.shape[1]
            twice += ((mixture.means[block, k, None] - means[:, k]) ** 2 + own[block, axis, None]) / variances[:, axis]
        result[start : start + step] = twice.argmin(axis=1)
    return result
