"""Rounds of merges between neighbours: what they keep, and how near they come to the search of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction import pair_costs
from gmr_metric.reduction.greedy import merge_greedily
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.rounds import _disjoint, _Edges, merge_neighbours

COSTS = [pair_costs.Salmond, pair_costs.Runnalls, pair_costs.SquaredChange]


def sheet(seed: int, n: int) -> GaussianMixture:
    """Flat components of many sizes on a curved sheet in three dimensions, as in a scene of splats."""
    draw = np.random.default_rng(seed)
    x, y = draw.uniform(-1, 1, (2, n))
    scales = np.exp(draw.normal(0, 0.5, size=(n, 3))) * np.array([1.0, 1.0, 0.1]) / np.sqrt(n)
    turn = np.linalg.qr(draw.normal(size=(n, 3, 3)))[0] * scales[:, None]
    means = np.stack([x, y, np.sin(2 * x) * y], axis=1)
    return GaussianMixture(draw.beta(1, 1.5, n) + 1e-3, means, turn @ turn.swapaxes(1, 2), normalize=True)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize("cost", COSTS)
def test_rounds_keep_weight_mean_and_covariance_and_groups_are_a_partition(cost: type, kind: str) -> None:
    mixture = sheet(0, 2000).convert(kind)
    groups = Groups(2000)
    names = merge_neighbours(cost(mixture), 300, 16, groups)
    outcome = groups.outcome()
    assert len(names) == 300 and len(groups.history) == 1700
    np.testing.assert_array_equal(names, np.unique(outcome.assignment, return_index=True)[1])  # the lowest of each
    assert sorted(set(outcome.assignment.tolist())) == list(range(300))
    assert all(step.components[0] < step.components[1] for step in outcome.history)
    merged = merge_groups(mixture, outcome.assignment)
    np.testing.assert_allclose(merged.weights.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(merged.mean(), mixture.mean(), atol=1e-12)
    found, expected = merged.covariance(), mixture.covariance()
    if kind == "diag":
        found, expected = np.diagonal(found), np.diagonal(expected)
    elif kind == "spherical":
        found, expected = np.trace(found), np.trace(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cost", COSTS)
def test_the_components_after_the_rounds_are_the_merges_of_their_groups(cost: type) -> None:
    mixture = sheet(1, 1000)
    groups, held = Groups(1000), cost(mixture)
    merge_neighbours(held, 200, 16, groups)
    assignment = groups.outcome().assignment
    expected = cost(merge_groups(mixture, assignment)).components
    np.testing.assert_allclose(held.components.weights, expected.weights, rtol=1e-10)
    np.testing.assert_allclose(held.components.means, expected.means, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(held.components.packed, expected.packed, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("cost", "n"), [(pair_costs.Runnalls, 3000), (pair_costs.Salmond, 3000), (pair_costs.SquaredChange, 900)]
)
def test_the_error_is_near_that_of_the_search_of_all_pairs(cost: type, n: int) -> None:
    """Within 10 % in ISE, which the rounds may also beat: a greedy search is no optimum."""
    mixture = sheet(2, n)
    exhaustive, rounds = (merge_greedily(cost(mixture), n // 10, neighbours) for neighbours in (0, 16))
    errors = [distance(mixture, merge_groups(mixture, outcome.assignment), "ise") for outcome in (exhaustive, rounds)]
    assert errors[1] < 1.1 * errors[0]


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, found, usual = sheet(3, 3000), [], scipy.spatial.cKDTree
    for threads in (1, 2, 5):

        class Tree(usual):  # type: ignore[misc, valid-type]
            def query(self, points: np.ndarray, *, k: int, workers: int, threads: int = threads) -> object:
                assert workers == -1
                return super().query(points, k=k, workers=threads)

        monkeypatch.setattr(scipy.spatial, "cKDTree", Tree)
        found.append(Groups(3000))
        merge_neighbours(pair_costs.Runnalls(mixture), 400, 16, found[-1])
    for other in found[1:]:
        assert other.history == found[0].history


@pytest.mark.parametrize("ties", [False, True])
def test_disjoint_edges_are_those_taken_one_by_one(ties: bool) -> None:
    draw = np.random.default_rng(4)
    for n, most in ((5, 2), (40, 5), (60, 30), (200, 24)):
        i, j = np.triu_indices(n, 1)
        chosen = draw.random(len(i)) < 8 / n
        i, j = i[chosen], j[chosen]
        costs = draw.integers(0, 4, len(i)).astype(float) if ties else draw.random(len(i))
        free, expected = set(range(n)), []
        for at in np.argsort(costs, kind="stable").tolist():
            if {i[at], j[at]} <= free and len(expected) < most:
                free -= {i[at], j[at]}
                expected.append(at)
        found = _disjoint(_Edges(i, j, costs), n, most).tolist()
        assert found == expected[: len(found)] and 2 * len(found) >= len(expected)


def test_components_of_almost_no_weight_do_not_stall_the_rounds() -> None:
    """Their merges cost nothing, so the cheapest edges meet in few components."""
    mixture = sheet(5, 2000)
    weights = np.where(np.arange(2000) % 100 == 0, 1e-12, mixture.weights)
    light = GaussianMixture(weights, mixture.means, mixture.covariances, normalize=True)
    groups = Groups(2000)
    assert len(merge_neighbours(pair_costs.Runnalls(light), 200, 16, groups)) == 200
    assert len(set(groups.outcome().assignment[np.arange(0, 2000, 100)].tolist())) <= 20


def test_equal_components_on_a_grid_reduce() -> None:
    at = np.stack(np.meshgrid(*[np.arange(12.0)] * 3), axis=-1).reshape(-1, 3)
    grid = GaussianMixture(np.full(1728, 1 / 1728), at, np.tile(0.1 * np.eye(3), (1728, 1, 1)), normalize=True)
    twice = GaussianMixture(*(np.concatenate([a, a]) for a in (grid.weights, grid.means, grid.covariances)), True)
    groups = Groups(len(twice))
    merge_neighbours(pair_costs.Runnalls(twice), 1728, 16, groups)
    np.testing.assert_array_equal(groups.outcome().assignment, np.tile(np.arange(1728), 2))  # duplicates come first
