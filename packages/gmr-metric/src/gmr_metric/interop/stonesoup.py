"""Stone Soup: a mixture reducer for its point-process trackers, with this package's reduction methods."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import KDTree
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from stonesoup.base import Property
from stonesoup.mixturereducer.gaussianmixture import GaussianMixtureReducer as StoneSoupReducer
from stonesoup.types.array import CovarianceMatrix, StateVector
from stonesoup.types.state import TaggedWeightedGaussianState, WeightedGaussianState

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import check_method, reduce
from gmr_metric.reduction.merging import merge_groups

States = Sequence[WeightedGaussianState]


class GaussianMixtureReducer(StoneSoupReducer):  # type: ignore[misc]  # Stone Soup has no types
    """Stone Soup's reducer of the same name, but the expected number of targets does not change.

    Stone Soup's properties keep their names, order and meaning; ``method`` and ``options`` follow them. The steps
    differ as follows:

    - Pruning distributes the dropped weight in proportion to the other weights, not in equal shares.
    - Merging joins to the heaviest component those closer than ``merge_threshold`` (B.-N. Vo and W.-K. Ma 2006, table
      II), while the centre of Stone Soup's own reducer moves with every merge. A merged weight may exceed one. None
      disables these merges.
    - Truncating reduces to ``max_number_components`` by ``method``, one of :func:`gmr_metric.available_methods`. By
      default it keeps the heaviest, as Stone Soup does, but distributes the dropped weight in proportion.

    So the sum of the weights, which in a PHD filter is the expected number of targets, does not change. A merged
    component is a copy of its heaviest part, with its tag, timestamp and other attributes; if several components of one
    tag are left, the heaviest keeps it and the others get new ones. After merging or truncating, the heaviest component
    is first. The input components are not changed.

    Examples
    --------
    >>> from stonesoup.types.state import TaggedWeightedGaussianState as State
    >>> given = ((0.0, 0.9, "a"), (1.0, 0.3, "b"), (9.0, 1.0, "c"))
    >>> states = [State([[x]], [[1.0]], weight=weight, tag=tag) for x, weight, tag in given]
    >>> for state in GaussianMixtureReducer(prune_threshold=1e-5, merge_threshold=4).reduce(states):
    ...     print(state.tag, round(state.weight, 2), state.mean.ravel().round(2))
    a 1.2 [0.25]
    c 1.0 [9.]
    """

    method: str = Property(default="prune", doc="The reduction method if too many components are left")
    options: Mapping[str, Any] | None = Property(default=None, doc="The method's own options")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check("max_number_components", self.max_number_components, Count)
        check_method(self.method)

    def prune(self, components_list: States) -> list[WeightedGaussianState]:
        """Drop components below ``prune_threshold``; the others share their weight in proportion to their own."""
        weights = _weights(components_list)
        return _kept(components_list, weights, np.flatnonzero(weights >= self.prune_threshold))

    def merge_components(self, *components: WeightedGaussianState) -> WeightedGaussianState:
        """Merge components into one of their total weight, which may exceed one."""
        return _joined(components, np.zeros(len(components), dtype=int))[0]

    def merge(self, components_list: States) -> list[WeightedGaussianState]:
        """Merge each component with the heaviest one within the thresholds of it."""
        if self.merge_threshold is None or not len(components_list):
            return list(components_list)
        mixture, _ = _mixture(components_list)
        return _joined(components_list, _close(mixture, self.merge_threshold, self.kdtree_max_distance))

    def truncate(self, components_list: States) -> list[WeightedGaussianState]:
        """Reduce to at most ``max_number_components`` by ``method``."""
        if len(components_list) <= self.max_number_components:
            return list(components_list)
        if self.method == "prune" and not self.options:
            weights = _weights(components_list)
            return _kept(components_list, weights, np.argsort(-weights, kind="stable")[: self.max_number_components])
        mixture, _ = _mixture(components_list)
        reduction = reduce(mixture, self.max_number_components, self.method, **(self.options or {}))
        return _joined(components_list, reduction.assignment, reduction.mixture)


def _weights(states: States) -> np.ndarray:
    weights = np.array([float(state.weight) for state in states])
    wrong = weights[~(weights >= 0)]
    if wrong.size:
        raise InputError(f"weights must be >= 0, got {wrong[0]}")
    return weights


def _mixture(states: States) -> tuple[GaussianMixture, float]:
    """Return the states as a mixture and their total weight; if that is zero, all weigh the same."""
    weights = _weights(states)
    total = float(weights.sum())
    means = np.array([np.asarray(state.mean, dtype=float).ravel() for state in states])
    covariances = np.array([np.asarray(state.covar, dtype=float) for state in states])
    return GaussianMixture(weights if total else np.ones(len(states)), means, covariances, normalize=True), total


def _kept(states: States, weights: np.ndarray, kept: np.ndarray) -> list[WeightedGaussianState]:
    """Return the kept states; if others have weight, copies that share it in proportion to their own."""
    total, left = weights.sum(), weights[kept].sum()
    if not left or total == left:
        return [states[i] for i in kept]
    return [_changed(states[i], weights[i] / left * total) for i in kept]


def _joined(states: States, groups: np.ndarray, reduced: GaussianMixture | None = None) -> list[WeightedGaussianState]:
    """Return the merged groups as states of unlike tags, the heaviest first; a state that joins no other stays."""
    mixture, total = _mixture(states)
    merged = merge_groups(mixture, groups) if reduced is None else reduced
    tags, result = set(), []
    for group in np.argsort(-merged.weights, kind="stable"):
        members = np.flatnonzero(groups == group)
        state = states[members[mixture.weights[members].argmax()]]
        if len(members) > 1 or reduced is not None:
            weight = total * float(merged.weights[group])
            state = _changed(state, weight, merged.means[group], merged.covariances[group])
        if isinstance(state, TaggedWeightedGaussianState):
            if state.tag in tags:
                state = copy.copy(state)
                state.tag = str(uuid.uuid4())
            tags.add(state.tag)
        result.append(state)
    return result


def _changed(
    state: WeightedGaussianState, weight: float, mean: np.ndarray | None = None, covariance: np.ndarray | None = None
) -> WeightedGaussianState:
    """Return a copy with another weight, and other moments if given."""
    if (
        mean is not None and "state_vector" not in type(state).properties
    ):  # of accumulated densities, as Stone Soup does
        tagged = isinstance(state, TaggedWeightedGaussianState)
        kind, tag = (TaggedWeightedGaussianState, {"tag": state.tag}) if tagged else (WeightedGaussianState, {})
        state = kind(state.mean, state.covar, timestamp=state.timestamp, **tag)
    changed = copy.copy(state)
    changed.weight = float(weight)
    if mean is not None and covariance is not None:
        changed.state_vector = StateVector(mean.copy())
        changed.covar = CovarianceMatrix(covariance.copy())
    return changed


def _close(mixture: GaussianMixture, gate: float, radius: float | None) -> np.ndarray:
    """Group each component with the heaviest ungrouped one within the gate, by the component's own covariance.

    With a radius, only components whose means are within that Euclidean distance are tried.
    """
    whitening = np.linalg.inv(mixture.cholesky)
    tree = None if radius is None else KDTree(mixture.means)
    everyone = np.arange(len(mixture))
    groups = np.full(len(mixture), -1)
    number = 0
    for heaviest in np.argsort(-mixture.weights, kind="stable"):
        if groups[heaviest] >= 0:
            continue
        near = everyone if tree is None else np.asarray(tree.query_ball_point(mixture.means[heaviest], radius))
        near = near[groups[near] < 0]
        white = np.matmul(whitening[near], (mixture.means[near] - mixture.means[heaviest])[..., None])[..., 0]
        groups[near[(white**2).sum(axis=1) < gate]] = number
        groups[heaviest] = number
        number += 1
    return groups
