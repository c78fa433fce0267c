"""Reductions by weight and by a gate, as trackers run them at every step."""

from __future__ import annotations

import math

import numpy as np
from sextet_common.checks import Positive, Share, check

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.outcome import Outcome, Step, nearest_kept


def prune(mixture: GaussianMixture, n_components: int, *, threshold: float = 0.0) -> Outcome:
    """Keep at most n_components, the heaviest, and scale their weights to one.

    Components of a weight below the threshold, in [0, 1], are dropped too, except for the heaviest.

    Examples
    --------
    >>> three = GaussianMixture([0.2, 0.6, 0.2], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> prune(three, 2).mixture.weights.round(6).tolist()
    [0.25, 0.75]
    """
    check("threshold", threshold, Share)
    order = np.argsort(-mixture.weights, kind="stable")
    kept = order[:n_components]
    kept = np.sort(kept[(mixture.weights[kept] >= threshold) | (kept == order[0])])
    return Outcome(nearest_kept(mixture, kept), mixture.subset(kept), _drops(mixture, order, len(kept)))


def threshold(mixture: GaussianMixture, n_components: int, *, gate: float = 4.0) -> Outcome:
    """Merge the components within a gate of the heaviest, then repeat with the rest (Vo and Ma 2006, table II).

    ``gate`` is the largest squared Mahalanobis distance from a component to the heaviest one, by the component's own
    covariance. The heaviest ``n_components`` groups are kept, with weights scaled to one; fewer if the gate merges
    more.

    Examples
    --------
    >>> three = GaussianMixture([0.2, 0.6, 0.2], [[0.0], [1.0], [9.0]], np.ones((3, 1, 1)))
    >>> threshold(three, 3).assignment.tolist()
    [0, 0, 1]
    """
    if gate != math.inf:
        check("gate", gate, Positive)
    is_full = mixture.covariances.ndim == 3
    inverse = np.linalg.inv(mixture.covariances) if is_full else 1 / mixture.covariances.reshape(len(mixture), -1)
    leader_of = np.full(len(mixture), -1)
    history: list[Step] = []
    left = len(mixture)
    for heaviest in np.argsort(-mixture.weights, kind="stable").tolist():
        if leader_of[heaviest] >= 0:
            continue
        free = np.flatnonzero(leader_of < 0)
        offset = mixture.means[free] - mixture.means[heaviest]
        if is_full:
            squared = np.einsum("ni,nij,nj->n", offset, inverse[free], offset)
        else:
            squared = (offset**2 * inverse[free]).sum(axis=1)
        near = squared <= gate
        leader_of[free[near]] = heaviest
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
    return Outcome(nearest_kept(merged, kept)[groups], merged.subset(kept), (*history, *drops))


def _drops(mixture: GaussianMixture, order: np.ndarray, n_kept: int) -> list[Step]:
    """Return the steps that drop the lightest, each at the cost of its weight."""
    lightest = order[::-1][: len(order) - n_kept].tolist()
    return [Step("drop", (i,), len(order) - 1 - k, float(mixture.weights[i])) for k, i in enumerate(lightest)]
