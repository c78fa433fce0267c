"""Greedy merging: the same pairs as a search that computes everything anew, with a table of costs or without."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance, kl_divergence
from gmr_metric.reduction import greedy, pair_costs, search
from gmr_metric.reduction.api import reduce
from gmr_metric.reduction.greedy import merge_greedily
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.merging import merge, merge_groups
from gmr_metric.reduction.oggmr import oggmr
from gmr_metric.reduction.outcome import Outcome
from gmr_metric.reduction.tables import williams
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError

Cost = Callable[[GaussianMixture, GaussianMixture, int, int], float]


def salmond_cost(_: GaussianMixture, g: GaussianMixture, i: int, j: int) -> float:
    """tr(P^-1 dW), with dW the growth of the covariance within components."""
    merged = merge(g, i, j)
    within = np.tensordot(merged.weights, merged.covariances, 1) - np.tensordot(g.weights, g.covariances, 1)
    return float(np.trace(np.linalg.solve(g.covariance(), within)))


def runnalls_cost(_: GaussianMixture, g: GaussianMixture, i: int, j: int) -> float:
    merged, (wi, wj) = merge(g, i, j), g.weights[[i, j]]
    logs = [np.linalg.slogdet(c)[1] for c in (merged.covariances[min(i, j)], g.covariances[i], g.covariances[j])]
    return float(0.5 * ((wi + wj) * logs[0] - wi * logs[1] - wj * logs[2]))


def local_ise_cost(_: GaussianMixture, g: GaussianMixture, i: int, j: int) -> float:
    return distance(g, merge(g, i, j), "ise")


def ise_cost(f: GaussianMixture, g: GaussianMixture, i: int, j: int) -> float:
    return distance(f, merge(g, i, j), "ise")


def angle_cost(f: GaussianMixture, g: GaussianMixture, i: int, j: int) -> float:
    return distance(f, merge(g, i, j))


def all_anew(mixture: GaussianMixture, cost: Cost) -> list[tuple[int, int]]:
    """Merge greedily down to one component with every cost computed anew in every round."""
    current, names, merges = mixture, list(range(len(mixture))), []
    while len(names) > 1:
        i, j = min(itertools.combinations(range(len(names)), 2), key=lambda p: cost(mixture, current, *p))
        merges.append((names[i], names[j]))
        current = merge(current, i, j)
        del names[j]
    return merges


def current_oggmr(mixture: GaussianMixture, n: int) -> Outcome:
    return oggmr(mixture, n, reference="current", refine="none")


METHODS: dict[str, tuple[Callable[..., Outcome], Cost]] = {
    "salmond": (greedy.salmond, salmond_cost),
    "runnalls": (greedy.runnalls, runnalls_cost),
    "williams": (williams, ise_cost),
    "current": (current_oggmr, local_ise_cost),
    "oggmr": (lambda mixture, n: oggmr(mixture, n, refine="none"), angle_cost),
}


@pytest.mark.parametrize("size", [0, 128], ids=["rows", "table"])
@pytest.mark.parametrize("name", METHODS)
def test_the_same_pairs_as_computing_everything_anew(
    make, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_TABLE", size)
    method, cost = METHODS[name]
    for seed, (n, d) in enumerate([(2, 1), (5, 1), (8, 2), (12, 1), (12, 3), (12, 2)]):
        mixture = make(seed, n, d)
        found = [step.components for step in method(mixture, 1).history]
        assert found == all_anew(mixture, cost)


COSTS = [pair_costs.Salmond, pair_costs.Runnalls, pair_costs.SquaredChange]


def of_type(make, kind: str, seed: int, n: int, d: int, *, ties: bool = False) -> GaussianMixture:
    """Make a mixture of a covariance type; one with ties has equal components at the points of a grid."""
    mixture = make(seed, n, d).convert(kind)
    if not ties:
        return mixture
    covariances = np.broadcast_to(mixture.covariances[0], mixture.covariances.shape)
    return GaussianMixture(np.full(n, 1 / n), np.round(mixture.means), covariances, normalize=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(2, 90),
    st.integers(1, 6),
    st.sampled_from(COSTS),
    st.sampled_from(["full", "diag", "spherical"]),
    st.booleans(),
)
def test_the_search_with_a_table_of_all_costs_is_the_one_without(
    make, seed: int, n: int, d: int, cost: type, kind: str, ties: bool
) -> None:
    """The same pairs and the same costs to the last bit, ties included."""
    mixture = of_type(make, kind, seed, n, d, ties=ties)
    with_table, without = Groups(n), Groups(n)
    for groups, size in ((with_table, n), (without, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "_TABLE", size)
            search.Search(cost(mixture), np.arange(n), groups).merge_until(1 + seed % n)
    np.testing.assert_array_equal(with_table.history.pairs, without.history.pairs)
    np.testing.assert_array_equal(with_table.history.costs, without.history.costs)


def test_the_classic_mixture_reduces_as_in_the_literature(classic) -> None:
    """ISE and angle, computed independently (1-D quadrature confirmed them)."""
    expected = {
        ("runnalls", 6): (0.00122118160882, 0.0501608418),
        ("runnalls", 5): (0.0266345317744, 0.2357814591),
        ("runnalls", 4): (0.0332198128756, 0.2638847668),
        ("salmond", 6): (0.00611790854824, 0.1120540081),
        ("salmond", 5): (0.018313537415, 0.1954902003),
        ("salmond", 4): (0.0328652078208, 0.2630164118),
        ("williams", 6): (0.00107893770991, 0.0471521470),
        ("williams", 5): (0.0029520974105, 0.0759120169),
        ("williams", 4): (0.0166124288171, 0.1843600975),
    }
    for (method, n), (ise, angle) in expected.items():
        options = {"oggmr": {"refine": "none"}} if method == "williams" else {}
        for name in (method, *options):
            found = reduce(classic, n, name, **options.get(name, {}))
            assert distance(classic, found.mixture, "ise") == pytest.approx(ise, rel=1e-10)
            assert found.distance == pytest.approx(angle, abs=1e-10)
    local = {6: 0.00122118160882, 5: 0.0029520974105, 4: 0.0166124288171}
    for n, ise in local.items():
        found = reduce(classic, n, "williams", reference="current")
        assert distance(classic, found.mixture, "ise") == pytest.approx(ise, rel=1e-10)


def groups_of(assignment: np.ndarray) -> set[frozenset[int]]:
    labels = range(int(assignment.max()) + 1)
    return {frozenset(np.flatnonzero(assignment == k).tolist()) for k in labels if (assignment == k).sum() > 1}


def test_the_classic_mixtures_groups_are_those_of_the_literature(classic) -> None:
    def found(method: str, n: int, **options: str) -> set[frozenset[int]]:
        return groups_of(reduce(classic, n, method, **options).assignment)

    assert found("runnalls", 6) == {frozenset({0, 4, 7}), frozenset({2, 6, 9})}
    assert found("runnalls", 5) == {frozenset({0, 4, 7}), frozenset({2, 5, 6, 9})}
    assert found("oggmr", 6, refine="none") == {frozenset({0, 4, 6, 7}), frozenset({2, 9})}
    assert found("oggmr", 5, refine="none") == {frozenset({0, 2, 4, 6, 7, 9})}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 4), st.sampled_from(sorted(METHODS)))
def test_merges_partition_the_components_and_keep_mean_and_covariance(
    make, seed: int, n: int, d: int, name: str
) -> None:
    mixture = make(seed, n, d)
    left = 1 + seed % n
    outcome = METHODS[name][0](mixture, left)
    assert sorted(set(outcome.assignment.tolist())) == list(range(left))
    merged = merge_groups(mixture, outcome.assignment)
    np.testing.assert_allclose(merged.mean(), mixture.mean(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(merged.covariance(), mixture.covariance(), rtol=1e-10, atol=1e-10)
    assert [step.n_components for step in outcome.history] == list(range(n - 1, left - 1, -1))
    # The history alone tells the groups.
    leader = np.arange(n)
    for step in outcome.history:
        leader[leader == step.components[1]] = step.components[0]
    np.testing.assert_array_equal(np.unique(leader, return_inverse=True)[1], outcome.assignment)


def test_runnalls_cost_bounds_the_growth_of_the_divergence(make) -> None:
    mixture = make(3, 6, 2)
    for i, j in itertools.combinations(range(6), 2):
        grown = kl_divergence(mixture, merge(mixture, i, j), samples=4000)
        assert grown.value - 4 * grown.standard_error <= runnalls_cost(mixture, mixture, i, j)


@pytest.mark.parametrize("name", METHODS)
def test_duplicates_are_merged_first(make, name: str) -> None:
    base = make(5, 6, 2)
    twice = GaussianMixture(
        np.repeat(base.weights, 2) / 2, np.repeat(base.means, 2, axis=0), np.repeat(base.covariances, 2, axis=0)
    )
    outcome = METHODS[name][0](twice, 6)
    np.testing.assert_array_equal(outcome.assignment, np.repeat(np.arange(6), 2))
    assert distance(twice, merge_groups(twice, outcome.assignment)) < 1e-9


def test_an_affine_map_of_the_space_changes_no_merge(make) -> None:
    mixture = make(6, 15, 2)
    moved = mixture.affine(np.array([[30.0, 4.0], [0.1, 0.02]]), np.array([1e5, -7.0]))
    for method, _ in METHODS.values():
        np.testing.assert_array_equal(method(moved, 4).assignment, method(mixture, 4).assignment)


@pytest.mark.parametrize("cost", [pair_costs.Runnalls, pair_costs.SquaredChange, pair_costs.Salmond])
def test_rounds_between_neighbours_lose_little(make, cost: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "MANY", 100)
    mixture = make(7, 600, 2)
    exact, restricted = (merge_greedily(cost(mixture), 30, neighbours) for neighbours in (0, 12))
    angles = [distance(mixture, merge_groups(mixture, o.assignment)) for o in (exact, restricted)]
    assert restricted.assignment.max() == 29 and len(restricted.history) == 570
    assert angles[1] < 1.3 * angles[0] + 1e-3  # Runnalls' and Salmond's greedy are no optimum, so it may even gain
    assert merge_greedily(cost(mixture), 30).assignment.max() == 29  # beyond MANY they are the default


def test_rounds_go_on_across_gaps(make) -> None:
    """Neighbours of two groups far apart never meet, yet one component must be left."""
    near, far = make(8, 40, 2), make(9, 40, 2).affine(np.eye(2), 1e6)
    mixture = GaussianMixture(
        np.concatenate([near.weights, far.weights]),
        np.concatenate([near.means, far.means]),
        np.concatenate([near.covariances, far.covariances]),
        normalize=True,
    )
    outcome = merge_greedily(pair_costs.Runnalls(mixture), 1, neighbours=2)
    assert outcome.assignment.tolist() == [0] * 80


def test_a_bad_reference_is_refused(make) -> None:
    with pytest.raises(InputError, match="reference must be original or current, got 'first'"):
        reduce(make(1), 2, "williams", reference="first")
    with pytest.raises(InputError, match="neighbours is 5 with reference 'original'"):
        reduce(make(1), 2, "oggmr", reference="original", neighbours=5)


def test_many_dimensions_neither_overflow_nor_underflow(make) -> None:
    draw = np.random.default_rng(0)
    d = 200
    mixture = GaussianMixture(
        draw.random(6), 0.1 * draw.normal(size=(6, d)), np.tile(0.01 * np.eye(d), (6, 1, 1)), normalize=True
    )
    for name in ("runnalls", "salmond", "williams"):
        reduced = reduce(mixture, 3, name).mixture
        assert len(reduced) == 3 and math.isfinite(distance(mixture, reduced))
