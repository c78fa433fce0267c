from __future__ import annotations

import numpy as np
import pytest
from gmr_metric.metrics import distance, kl_divergence
from gmr_metric.mixture import GaussianMixture
from gmr_metric.outcome import nearest_kept
from gmr_metric.reduction import reduce
from sextet_common.errors import InputError


def component(mixture: GaussianMixture, i: int) -> GaussianMixture:
    return GaussianMixture([1.0], mixture.means[[i]], mixture.covariances[[i]])


def test_pruning_keeps_the_heaviest_as_they_are_and_scales_their_weights(classic) -> None:
    found = reduce(classic, 6, "prune")
    kept = [1, 2, 3, 5, 7, 8]
    np.testing.assert_array_equal(found.mixture.means, classic.means[kept])
    np.testing.assert_allclose(found.mixture.weights, classic.weights[kept] / classic.weights[kept].sum(), rtol=1e-15)
    # computed independently
    assert distance(classic, found.mixture, "ise") == pytest.approx(0.0140524986275121, rel=1e-10)
    assert found.distance == pytest.approx(0.170033957049388, rel=1e-10)
    assert [s.components[0] for s in found.history] == [4, 0, 9, 6]  # the lightest first, of equals the last
    assert [s.cost for s in found.history] == [0.02, 0.03, 0.06, 0.06]


def test_pruning_drops_what_is_too_light_but_never_all(classic) -> None:
    assert len(reduce(classic, 10, "prune", threshold=0.1).mixture) == 5
    assert reduce(classic, 10, "prune", threshold=0.9).mixture.means.tolist() == [[0.48]]


def test_dropped_components_go_to_the_nearest_by_divergence(make) -> None:
    mixture = make(1, 12, 2)
    kept = np.array([1, 4, 9])
    found = nearest_kept(mixture, kept)
    np.testing.assert_array_equal(found[kept], [0, 1, 2])
    for i in range(12):
        estimates = [kl_divergence(component(mixture, i), component(mixture, int(k)), samples=4000) for k in kept]
        chosen = estimates[found[i]]
        assert all(chosen.value <= e.value + 4 * (chosen.standard_error + e.standard_error) for e in estimates)


def test_the_gate_gathers_around_the_heaviest_one() -> None:
    """By hand: around 0 (weight 0.4) come 1.9 and -1.9, since 1.9^2 < 4; 2.1 stays, and takes 3.5 of what is left."""
    mixture = GaussianMixture([0.1, 0.4, 0.1, 0.25, 0.15], [[1.9], [0.0], [-1.9], [2.1], [3.5]], np.ones((5, 1, 1)))
    found = reduce(mixture, 5, "threshold")
    assert found.assignment.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(found.mixture.means[:, 0], [0.0, (0.25 * 2.1 + 0.15 * 3.5) / 0.4], atol=1e-15)
    assert [s.components for s in found.history] == [(0, 1), (1, 2), (3, 4)]
    np.testing.assert_allclose([s.cost for s in found.history], [1.9**2, 1.9**2, 1.4**2])


def test_the_gate_measures_by_the_merged_components_covariance() -> None:
    mixture = GaussianMixture([0.6, 0.4], [[0.0], [3.0]], [[[0.1]], [[9.0]]])
    assert len(reduce(mixture, 2, "threshold", gate=1.01).mixture) == 1
    assert len(reduce(mixture, 2, "threshold", gate=0.99).mixture) == 2


def test_beyond_the_cap_the_lightest_groups_are_dropped(make) -> None:
    mixture = make(2, 30, 2)
    free, capped = reduce(mixture, 30, "threshold", gate=0.5), reduce(mixture, 4, "threshold", gate=0.5)
    assert len(free.mixture) > 4 and len(capped.mixture) == 4
    heaviest = np.sort(np.argsort(-free.mixture.weights, kind="stable")[:4])
    np.testing.assert_array_equal(capped.mixture.means, free.mixture.means[heaviest])
    for group, new in zip(heaviest, range(4), strict=True):
        assert (capped.assignment[free.assignment == group] == new).all()
    assert [s.action for s in capped.history].count("drop") == len(free.mixture) - 4
    np.testing.assert_allclose(free.mixture.mean(), mixture.mean(), rtol=1e-12)


def test_bad_thresholds_are_refused(classic) -> None:
    with pytest.raises(InputError, match="threshold is 2"):
        reduce(classic, 3, "prune", threshold=2)
    with pytest.raises(InputError, match="gate is 0"):
        reduce(classic, 3, "threshold", gate=0)
