"""Stone Soup: a mixture reducer for its point-process trackers, with this package's reduction methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from sextet_common.errors import InputError
from stonesoup.base import Property
from stonesoup.mixturereducer import MixtureReducer
from stonesoup.types.array import CovarianceMatrix, StateVector
from stonesoup.types.state import (
    TaggedWeightedGaussianState,
    WeightedGaussianState,
)

from gmr_metric.reduction.merging import merge_groups
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import available_methods, reduce


class GaussianMixtureReducer(MixtureReducer):  # type: ignore[misc]  # Stone Soup has no types
    """Stand where Stone Soup's reducer of the same name stands, and keep the expected number of targets.

    Components below a weight are dropped, those close to a heavier one are merged with it, and where more are left
    than wanted, a reduction method merges them; Stone Soup's own reducer drops the lightest of these. The sum of the
    weights, which in a PHD filter is the expected number of targets, stays: the dropped weights go to the others in
    proportion to theirs, and a merged weight may be above one. A merged component takes the tag and the timestamp
    of its heaviest part, as in Stone Soup's own; where several components of one tag are left, the heaviest keeps
    it and the others get new ones. The components given are not changed.

    Parameters
    ----------
    max_number_components
        How many are left at most.
    method
        How they are merged where too many are left: one of :func:`gmr_metric.reduction.api.available_methods`.
    options
        The method's own options.
    prune_threshold
        Components of lower weight are dropped. Where all are, none is left.
    merge_threshold
        Squared Mahalanobis distance, by the lighter one's covariance, below which a component joins a heavier one
        (B.-N. Vo and W.-K. Ma 2006, table II): one target's estimates become one, so that their weight says that
        there is one. None for no such merges.

    Raises
    ------
    InputError
        Where a number is out of its range, or the method is unknown.

    Examples
    --------
    >>> from stonesoup.types.state import TaggedWeightedGaussianState as State
    >>> states = [State([[x]], [[1.0]], weight=w, tag=tag) for x, w, tag in ((0, 0.9, "a"), (1, 0.3, "b"), (9, 1, "c"))]
    >>> for state in GaussianMixtureReducer(max_number_components=2).reduce(states):
    ...     print(state.tag, round(state.weight, 2), state.mean.ravel().round(2))
    a 1.2 [0.25]
    c 1.0 [9.]
    """

    max_number_components: int = Property(default=100, doc="How many components are left at most")
    method: str = Property(default="runnalls", doc="The reduction method where too many are left")
    options: Mapping[str, Any] | None = Property(default=None, doc="The method's own options")
    prune_threshold: float = Property(default=1e-9, doc="Components of lower weight are dropped")
    merge_threshold: float | None = Property(
        default=16, doc="Squared Mahalanobis distance below which a component joins a heavier one"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.max_number_components < 1:
            raise InputError(f"max_number_components is {self.max_number_components}", "a whole number >= 1")
        if self.method not in available_methods():
            raise InputError(f"method {self.method!r} is unknown", ", ".join(available_methods()))

    def reduce(self, components_list: Sequence[WeightedGaussianState]) -> list[WeightedGaussianState]:
        """Reduce the components of a mixture or a PHD.

        Parameters
        ----------
        components_list
            Weighted Gaussian states, tagged or not, of any total weight.

        Returns
        -------
        list
            States of the same total weight, the heaviest first.

        Raises
        ------
        InputError
            Where a weight is negative, a covariance is not symmetric and positive definite, or a number is not finite.
        """
        weights = np.array([float(state.weight) for state in components_list])
        if not (weights >= 0).all():
            raise InputError(f"a weight is {weights[~(weights >= 0)][0]}", "weights >= 0")
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
            found = reduce(reduced, self.max_number_components, self.method, **(self.options or {}))
            reduced, assignment = found.mixture, found.assignment[assignment]

        total, tags = weights.sum(), set()
        result = []
        for group in np.argsort(-reduced.weights, kind="stable"):
            members = np.flatnonzero(assignment == group)
            heaviest = states[members[mixture.weights[members].argmax()]]
            kind, tag = WeightedGaussianState, {}
            if isinstance(heaviest, TaggedWeightedGaussianState):
                # A tag that a heavier group holds already is taken: for None, Stone Soup makes a new one.
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
    """Group each component with the heaviest one left that is nearer than the gate by its own covariance."""
    whitening = np.linalg.inv(mixture.cholesky)
    groups = np.full(len(mixture), -1)
    for heaviest in np.argsort(-mixture.weights, kind="stable"):
        if groups[heaviest] < 0:
            white = np.matmul(whitening, (mixture.means - mixture.means[heaviest])[..., None])[..., 0]
            joins = (groups < 0) & ((white**2).sum(axis=1) < gate)
            joins[heaviest] = True
            groups[joins] = groups.max() + 1
    return groups
