from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance, kl_divergence
from gmr_metric.reduction.api import reduce
from gmr_metric.reduction.outcome import nearest_kept
from gmr_metric.reduction.pruning import prune
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError


def component(mixture: GaussianMixture, i: int) -> GaussianMixture:
    return GaussianMixture([1.0], mixture.means[[i]], mixture.covariances[[i]])


def test_pruning_keeps_the_heaviest_as_they_are_and_scales_their_weights(classic) -> None:
    found = reduce(classic, 6, "prune")
    kept = [1, 2, 3, 5, 7, 8]
    np.testing.assert_array_equal(found.mixture.means, classic.means[kept])
    np.testing.assert_array_equal(found.mixture.covariances, classic.covariances[kept])
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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 4), st.floats(0, 0.2))
def test_whatever_is_pruned_the_rest_is_bitwise_as_it_was(make, seed: int, n: int, d: int, least: float) -> None:
    mixture = make(seed, n, d)
    before = mixture.weights.copy(), mixture.means.copy(), mixture.covariances.copy()
    found = prune(mixture, 1 + n // 2, threshold=least)
    assert found.mixture is not None
    # one after the other: the heaviest left, the first of equals, as long as it is not too light
    left, kept = list(range(n)), []
    while len(kept) < 1 + n // 2:
        heaviest = max(left, key=lambda i: (mixture.weights[i], -i))
        if kept and mixture.weights[heaviest] < least:
            break
        kept.append(heaviest)
        left.remove(heaviest)
        if not left:
            break
    kept.sort()
    np.testing.assert_array_equal(found.mixture.means, mixture.means[kept])
    np.testing.assert_array_equal(found.mixture.covariances, mixture.covariances[kept])
    np.testing.assert_allclose(found.mixture.weights * mixture.weights[kept].sum(), mixture.weights[kept], rtol=1e-14)
    np.testing.assert_array_equal(found.assignment[kept], np.arange(len(kept)))
    for array, copy in zip((mixture.weights, mixture.means, mixture.covariances), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_of_equal_weights_the_first_are_kept() -> None:
    mixture = GaussianMixture(np.full(5, 0.2), np.arange(5.0)[:, None], np.ones((5, 1, 1)))
    found = reduce(mixture, 2, "prune")
    assert found.mixture.means.tolist() == [[0.0], [1.0]]
    assert found.assignment.tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("d", [1, 2, 5])
def test_dropped_components_go_to_the_nearest_in_many_blocks_as_one_by_one(make, monkeypatch, d: int) -> None:
    mixture = make(11, 60, d)
    kept = np.arange(3, 60, 7)
    expected = np.empty(60, dtype=int)
    for i in range(60):
        divergences = []
        for k in kept:
            inverse, offset = np.linalg.inv(mixture.covariances[k]), mixture.means[i] - mixture.means[k]
            quadratic = np.trace(inverse @ mixture.covariances[i]) + offset @ inverse @ offset
            divergences.append(quadratic + np.linalg.slogdet(mixture.covariances[k])[1])
        expected[i] = int(np.argmin(divergences))
    np.testing.assert_array_equal(nearest_kept(mixture, kept), expected)
    monkeypatch.setattr("gmr_metric.reduction.outcome._BLOCK", 20)
    np.testing.assert_array_equal(nearest_kept(mixture, kept), expected)


def test_a_tie_between_kept_components_goes_to_the_first(make) -> None:
    """Equal candidates come out bitwise equal wherever they stand, so that the first is taken."""
    one = make(12, 40, 3)
    twice = np.repeat(np.arange(20), 2)
    doubled = np.concatenate([twice, np.arange(20, 40)])
    mixture = GaussianMixture(one.weights[doubled], one.means[doubled], one.covariances[doubled], normalize=True)
    found = nearest_kept(mixture, np.arange(40))
    assert (found[40:] % 2 == 0).all()


def test_a_hundred_thousand_components_find_the_nearest_kept_in_bounded_memory(make) -> None:
    """A point cloud's level of detail, at a fifth of the kept; a table of all divergences would take 160 MB."""
    mixture = make(13, 100_000, 3)
    kept = np.sort(np.argsort(-mixture.weights, kind="stable")[:200])
    tracemalloc.start()
    found = nearest_kept(mixture, kept)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # the Cholesky factors of all (7 MB), the blocks, the answer
    few = np.concatenate([kept[:50], np.setdiff1d(np.arange(500), kept)])
    for i in few:
        part = mixture.covariances[i] + np.einsum("li,lj->lij", *[mixture.means[kept] - mixture.means[i]] * 2)
        quadratic = np.trace(np.linalg.solve(mixture.covariances[kept], part), axis1=1, axis2=2)
        assert found[i] == np.argmin(quadratic + np.linalg.slogdet(mixture.covariances[kept])[1])


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25), st.integers(1, 4), st.floats(0.05, 20))
def test_the_groups_are_those_of_the_table_and_keep_mean_and_covariance(
    make, seed: int, n: int, d: int, gate: float
) -> None:
    """Vo and Ma's table II in plain words, as long as nothing is dropped."""
    mixture = make(seed, n, d)
    left, groups = set(range(n)), []
    while left:
        j = max(left, key=lambda i: (mixture.weights[i], -i))
        near = set()
        for i in left:
            offset = mixture.means[i] - mixture.means[j]
            if offset @ np.linalg.solve(mixture.covariances[i], offset) <= gate:
                near.add(i)
        groups.append(near)
        left -= near
    found = reduce(mixture, n, "threshold", gate=gate)
    assert {frozenset(np.flatnonzero(found.assignment == k).tolist()) for k in range(len(found.mixture))} == {
        frozenset(group) for group in groups
    }
    scale = np.abs(mixture.covariance()).max()
    np.testing.assert_allclose(found.mixture.mean(), mixture.mean(), atol=1e-10 * np.sqrt(scale))
    np.testing.assert_allclose(found.mixture.covariance(), mixture.covariance(), atol=1e-10 * scale)


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
    with pytest.raises(InputError, match=r"threshold must be a number in \[0, 1\], got 2"):
        reduce(classic, 3, "prune", threshold=2)
    with pytest.raises(InputError, match="gate must be a number > 0, got 0"):
        reduce(classic, 3, "threshold", gate=0)
