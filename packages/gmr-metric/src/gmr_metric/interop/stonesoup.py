"""Stone Soup: a mixture reducer for its point-process trackers, with this package's reduction methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from stonesoup.base import Property
from stonesoup.mixturereducer import MixtureReducer
from stonesoup.types.array import CovarianceMatrix, StateVector
from stonesoup.types.state import TaggedWeightedGaussianState, WeightedGaussianState

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import check_method, reduce
from gmr_metric.reduction.merging import merge_groups


class GaussianMixtureReducer(MixtureReducer):  # type: ignore[misc]  # Stone Soup has no types
    """Replacement for Stone Soup's reducer of the same name that keeps the expected number of targets.

    Components below a weight are dropped, those close to a heavier one are merged with it, and if too many are left,
    ``method``, one of :func:`gmr_metric.available_methods`, merges them with its own ``options``; Stone Soup's own
    reducer drops the lightest of these. The sum of the weights, which in a PHD filter is the expected number of
    targets, does not change: dropped weights go to the other components in proportion to theirs, and a merged weight
    may exceed one. A merged component takes the tag and the timestamp of its heaviest part, as in Stone Soup; if
    several components of one tag are left, the heaviest keeps it and the others get new ones. The input components are
    not changed.

    Parameters
    ----------
    prune_threshold
        Components of lower weight are dropped. If all are, the result is empty.
    merge_threshold
        Squared Mahalanobis distance, by the lighter one's covariance, below which a component joins a heavier one
        (B.-N. Vo and W.-K. Ma 2006, table II), so that one target is one component. None disables these merges.

    Examples
    --------
    >>> from stonesoup.types.state import TaggedWeightedGaussianState as State
    >>> states = [State([[x]], [[1.0]], weight=w, tag=tag) for x, w, tag in ((0, 0.9, "a"), (1, 0.3, "b"), (9, 1, "c"))]
    >>> for state in GaussianMixtureReducer(max_number_components=2).reduce(states):
    ...     print(state.tag, round(state.weight, 2), state.mean.ravel().round(2))
    a 1.2 [0.25]
    c 1.0 [9.]
    """

    max_number_components: int = Property(default=100, doc="The largest number of components left")
    method: str = Property(default="runnalls", doc="The reduction method if too many are left")
    options: Mapping[str, Any] | None = Property(default=None, doc="The method's own options")
    prune_threshold: float = Property(default=1e-9, doc="Components of lower weight are dropped")
    merge_threshold: float | None = Property(
        default=16, doc="Squared Mahalanobis distance below which a component joins a heavier one"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check("max_number_components", self.max_number_components, Count)
        check_method(self.method)

    def reduce(self, components_list: Sequence[WeightedGaussianState]) -> list[WeightedGaussianState]:
        """Reduce weighted Gaussian states, tagged or not, of any total weight; return the heaviest first."""
        weights = np.array([float(state.weight) for state in components_list])
        if not (weights >= 0).all():
            raise InputError(f"weights must be >= 0, got {weights[~(weights >= 0)][0]}")
        kept = (weights >= self.prune_threshold) & (weights > 0)
        if not kept.any():
            return []
        states = list(compress(components_list, kept))
        means = np.array([np.asarray(state.mean, dtype=float).ravel() for state in states])
        mixture = GaussianMixture(weights[kept], means, np.array([state.covar for state in states]), normalize=True)
        reduced, assignment = mixture, np.arange(len(mixture))
        if self.merge_threshold is not None:
            assignment = _close(mixture, self.merge_threshold)
            reduced = merge_groups(mixture, assignment)
        if len(reduced) > self.max_number_components:
            reduction = reduce(reduced, self.max_number_components, self.method, **(self.options or {}))
            reduced, assignment = reduction.mixture, reduction.assignment[assignment]
        return _states(states, mixture, reduced, assignment, float(weights.sum()))


def _states(
    parts: Sequence[WeightedGaussianState],
    mixture: GaussianMixture,
    reduced: GaussianMixture,
    assignment: np.ndarray,
    total: float,
) -> list[WeightedGaussianState]:
    """Return the reduced components as states, the heaviest first."""
    tags, result = set(), []
    for group in np.argsort(-reduced.weights, kind="stable"):
        members = np.flatnonzero(assignment == group)
        heaviest = parts[members[mixture.weights[members].argmax()]]
        kind, tag = WeightedGaussianState, {}
        if isinstance(heaviest, TaggedWeightedGaussianState):
            # The tag may belong to a heavier group already: for None, Stone Soup makes a new one.
            kind, tag = TaggedWeightedGaussianState, {"tag": None if heaviest.tag in tags else heaviest.tag}
            tags.add(heaviest.tag)
        result.append(
            kind(
                StateVector(reduced.means[group].copy()),
                CovarianceMatrix(reduced.covariances[group].copy()),
                timestamp=heaviest.timestamp,
                weight=float(total * reduced.weights[group]),
                **tag,
            )
        )
    return result


def _close(mixture: GaussianMixture, gate: float) -> np.ndarray:
    """Group each component with the heaviest ungrouped one within the gate, by the component's own covariance."""
    whitening = np.linalg.inv(mixture.cholesky)
    groups = np.full(len(mixture), -1)
    for heaviest in np.argsort(-mixture.weights, kind="stable"):
        if groups[heaviest] < 0:
            white = np.matmul(whitening, (mixture.means - mixture.means[heaviest])[..., None])[..., 0]
            joins = (groups < 0) & ((white**2).sum(axis=1) < gate)
            joins[heaviest] = True
            groups[joins] = groups.max() + 1
    return groups
