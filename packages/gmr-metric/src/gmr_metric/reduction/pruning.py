"""Reductions by weight and by a gate: what trackers run at every step."""

from __future__ import annotations

import numpy as np

from gmr_metric.checks import number
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.outcome import Outcome, Step, nearest_kept


def prune(mixture: GaussianMixture, n_components: int, *, threshold: float = 0.0) -> Outcome:
    """Keep the heaviest components as they are, and scale their weights to one.

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        How many to keep at most.
    threshold
        Components of a lower weight go too; the heaviest always stays.

    Returns
    -------
    Outcome
        The kept components in their order.

    Raises
    ------
    InputError
        Where the threshold is not from 0 to 1.

    Examples
    --------
    >>> three = GaussianMixture([0.2, 0.6, 0.2], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> prune(three, 2).mixture.weights.round(6).tolist()
    [0.25, 0.75]
    """
    number("threshold", threshold, lambda weight: 0 <= weight <= 1, "a weight from 0 to 1")
    order = np.argsort(-mixture.weights, kind="stable")
    kept = order[:n_components]
    kept = np.sort(kept[(mixture.weights[kept] >= threshold) | (kept == order[0])])
    return Outcome(nearest_kept(mixture, kept), _kept(mixture, kept), _drops(mixture, order, len(kept)))


def threshold(mixture: GaussianMixture, n_components: int, *, gate: float = 4.0) -> Outcome:
    """Merge what lies within a gate of the heaviest component, and go on with the rest (Vo and Ma 2006, table II).

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        How many groups to keep at most: the heaviest, their weights scaled to one.
    gate
        The largest squared Mahalanobis distance from a component to the heaviest one, by the component's own
        covariance.

    Returns
    -------
    Outcome
        Fewer components than asked for where the gate merges more.

    Raises
    ------
    InputError
        Where the gate is not positive.

    Examples
    --------
    >>> three = GaussianMixture([0.2, 0.6, 0.2], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> threshold(three, 3).assignment.tolist()
    [0, 0, 1]
    """
    number("gate", gate, lambda squared: squared > 0, "a squared Mahalanobis distance > 0")
    inverse = np.linalg.inv(mixture.covariances)
    leaders, leader_of = [], np.full(len(mixture), -1)
    history: list[Step] = []
    left = len(mixture)
    for heaviest in np.argsort(-mixture.weights, kind="stable").tolist():
        if leader_of[heaviest] >= 0:
            continue
        free = np.flatnonzero(leader_of < 0)
        offset = mixture.means[free] - mixture.means[heaviest]
        squared = np.einsum("ni,nij,nj->n", offset, inverse[free], offset)
        near = squared <= gate
        leader_of[free[near]] = heaviest
        leaders.append(heaviest)
        for member, cost in zip(free[near].tolist(), squared[near].tolist(), strict=True):
            if member != heaviest:
                left -= 1
                history.append(Step("merge", (min(member, heaviest), max(member, heaviest)), left, cost))
    groups = np.unique(leader_of, return_inverse=True)[1]
    merged = merge_groups(mixture, groups)
    order = np.argsort(-merged.weights, kind="stable")
    kept = np.sort(order[:n_components])
    if len(kept) == len(merged):
        return Outcome(groups, merged, history)
    lowest = np.unique(groups, return_index=True)[1]
    drops = [Step("drop", (int(lowest[s.components[0]]),), *s[2:]) for s in _drops(merged, order, len(kept))]
    return Outcome(nearest_kept(merged, kept)[groups], _kept(merged, kept), (*history, *drops))


def _kept(mixture: GaussianMixture, kept: np.ndarray) -> GaussianMixture:
    return GaussianMixture(mixture.weights[kept], mixture.means[kept], mixture.covariances[kept], normalize=True)


def _drops(mixture: GaussianMixture, order: np.ndarray, n_kept: int) -> list[Step]:
    """Return the steps that drop the lightest, each at the cost of its weight."""
    lightest = order[::-1][: len(order) - n_kept].tolist()
    return [Step("drop", (i,), len(order) - 1 - k, float(mixture.weights[i])) for k, i in enumerate(lightest)]
