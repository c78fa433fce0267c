"""What a reduction method gives back: which components went where, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gmr_metric.distances.costs import kullback_leibler
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Integer

_BLOCK = 2**16  # divergences to compute at a time, so that they stay in the cache


class Step(NamedTuple):
    """One step of a reduction.

    Attributes
    ----------
    action
        ``merge`` (two groups became one), ``drop`` (a group's weight went to the others), ``reassign`` (a sweep
        of a clustering moved components) or ``refine`` (all parameters were optimised).
    components
        The groups that took part, each called by its lowest component of the original mixture; none for a step
        that touches all.
    n_components
        How many components there are after the step.
    cost
        The method's own criterion at this step.
    """

    action: str
    components: tuple[int, ...]
    n_components: int
    cost: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a reduction method returns.

    Parameters
    ----------
    assignment
        The component of the reduced mixture that each original one went to: whole numbers from 0 to L - 1 that
        all occur, shape (N,). A dropped component is given to the kept one nearest to it; where a method refines, each
        component to the refined one nearest to it.
    mixture
        The reduced mixture, of L components in the order of the assignment's groups. Where it is None, the
        groups' moment-preserving merges are the components.
    history
        The steps, in their order.
    """

    assignment: Integer[np.ndarray, " components"]
    mixture: GaussianMixture | None = None
    history: Sequence[Step] = field(default=())


def nearest_kept(mixture: GaussianMixture, kept: Integer[np.ndarray, " kept"]) -> Integer[np.ndarray, " components"]:
    """Assign each component to the nearest of some kept ones, and every kept one to itself.

    Parameters
    ----------
    mixture
        A mixture of N components.
    kept
        The kept components, ascending, shape (L,).

    Returns
    -------
    numpy.ndarray
        Numbers from 0 to L - 1, shape (N,). Nearest is by the Kullback-Leibler divergence of the kept component
        from the other, ties to the first.

    Examples
    --------
    >>> three = GaussianMixture([0.5, 0.1, 0.4], [[0.0], [1.0], [5.0]], np.ones((3, 1, 1)))
    >>> nearest_kept(three, np.array([0, 2])).tolist()
    [0, 0, 1]
    """
    assignment = np.empty(len(mixture), dtype=np.intp)
    assignment[kept] = np.arange(len(kept))
    dropped = np.setdiff1d(np.arange(len(mixture)), kept)
    assignment[dropped] = _nearest(mixture, dropped, mixture.means[kept], mixture.cholesky[kept])
    return assignment


def nearest_centres(mixture: GaussianMixture, centres: GaussianMixture) -> Integer[np.ndarray, " components"]:
    """Assign each component to the nearest of some centres, of which none is left without one.

    Parameters
    ----------
    mixture
        A mixture of N components.
    centres
        L <= N others, such as those of a reduced mixture.

    Returns
    -------
    numpy.ndarray
        Numbers from 0 to L - 1 that all occur, shape (N,). Nearest is by the Kullback-Leibler divergence of the centre
        from the component; a centre that is nobody's nearest gets its own nearest of those that it can have.

    Examples
    --------
    >>> three = GaussianMixture([0.5, 0.1, 0.4], [[0.0], [1.0], [5.0]], np.ones((3, 1, 1)))
    >>> nearest_centres(three, GaussianMixture([0.5, 0.5], [[0.2], [4.0]], np.ones((2, 1, 1)))).tolist()
    [0, 0, 1]
    """
    labels = _nearest(mixture, np.arange(len(mixture)), centres.means, centres.cholesky)
    for empty in np.setdiff1d(np.arange(len(centres)), labels).tolist():
        centre = GaussianMixture(np.ones(1), centres.means[[empty]], centres.covariances[[empty]])
        apart = kullback_leibler(mixture, centre)[:, 0]
        labels[np.where(dispensable(labels, len(centres)), apart, np.inf).argmin()] = empty
    return labels


def dispensable(labels: np.ndarray, n_groups: int) -> np.ndarray:
    """Return which components have company in their group."""
    return np.asarray(np.bincount(labels, minlength=n_groups)[labels] > 1)


def _nearest(mixture: GaussianMixture, chosen: np.ndarray, means: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the nearest centre of each of some components; the centres by their means and Cholesky factors."""
    whitening = np.linalg.inv(factors)
    precision = np.matmul(np.swapaxes(whitening, 1, 2), whitening)
    log_determinant = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    result = np.empty(len(chosen), dtype=np.intp)
    step = max(1, _BLOCK // len(means))
    for start in range(0, len(chosen), step):
        block = chosen[start : start + step]
        # Sums entry by entry rather than matrix products: those round equal candidates differently, and break ties.
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
