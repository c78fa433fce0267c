"""Levels of one reduction, and the history in arrays."""

from __future__ import annotations

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import reduce
from gmr_metric.reduction.groups import Groups, History
from gmr_metric.reduction.outcome import Outcome, Step
from sextet_common.errors import InputError

OPTIONS: dict[str, dict[str, str]] = {"runnalls": {}, "salmond": {}, "west": {}, "williams": {}}
OPTIONS["oggmr"] = {"refine": "none"}


def with_zeros(mixture: GaussianMixture) -> GaussianMixture:
    weights = mixture.weights.copy()
    weights[[0, 5, 6]] = 0
    return GaussianMixture(weights, mixture.means, mixture.covariances, normalize=True)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_level_is_the_result_of_the_method_itself(make, method: str) -> None:
    for mixture in (make(1, 25, 2), with_zeros(make(2, 20, 1))):
        one = reduce(mixture, 1, method, **OPTIONS[method])
        for n in (1, 2, 7, 18, len(mixture)):
            level, expected = one.cut(n), reduce(mixture, n, method, **OPTIONS[method])
            np.testing.assert_array_equal(level.assignment, expected.assignment)
            np.testing.assert_array_equal(level.mixture.covariances, expected.mixture.covariances)
            assert level.history == expected.history
            assert level.distance == expected.distance


def test_the_groups_of_all_levels_are_nested_and_levels_can_be_cut_again(make) -> None:
    mixture = make(3, 40, 3)
    one = reduce(mixture, 2, "runnalls")
    finer = np.arange(40)
    for n in range(40, 1, -1):
        groups = one.cut(n).assignment
        for label in range(finer.max() + 1):
            assert len(set(groups[finer == label].tolist())) == 1
        finer = groups
    np.testing.assert_array_equal(one.cut(9).cut(20).assignment, one.cut(20).assignment)


@pytest.mark.parametrize("method", ["oggmr", "cowa", "gmrc", "prune", "threshold", "brute-force"])
def test_a_reduction_that_is_more_than_merges_is_refused(make, method: str) -> None:
    reduction = reduce(make(4, 8, 2), 3, method)
    with pytest.raises(InputError, match=r"more than merges has no other levels.*runnalls, salmond, west, williams"):
        reduction.cut(5)


def test_a_level_outside_the_range_is_refused(make) -> None:
    reduction = reduce(make(4, 8, 2), 3, "runnalls")
    for n in (2, 9, 0, 3.5):
        with pytest.raises(InputError, match="n_components"):
            reduction.cut(n)  # type: ignore[arg-type]


def test_the_history_in_arrays_is_that_of_steps() -> None:
    groups, steps = Groups(6), []
    for left, (i, j, cost) in zip((5, 4, 3), [(1, 2, 0.5), (0, 4, -1e-18), (0, 1, 2.0)], strict=True):
        groups.merge(i, j, cost)
        steps.append(Step("merge", (i, j), left, max(0.0, cost)))
    at_once = Groups(6)
    at_once.merge(np.array([1, 0, 0]), np.array([2, 4, 1]), np.array([0.5, -1e-18, 2.0]))
    last = Step("refine", (), 3, 0.1)
    for history in (groups.history, at_once.history):
        assert history == steps and steps == history and history == tuple(steps) and history != steps[:2]
        assert history[-1] == steps[-1] and history[:2] == steps[:2] and history[1:] == tuple(steps[1:])
        assert (history.then(last)) == [*steps, last] and list(history.then(last)[2:]) == [steps[2], last]
        assert all(type(value) is int for value in (*history[0].components, history[0].n_components))
        with pytest.raises(IndexError):
            history[3]
    assert isinstance(groups.history[:2], History)
    np.testing.assert_array_equal(groups.outcome().assignment, [0, 0, 0, 1, 0, 2])


def test_merges_of_a_method_with_steps_of_its_own_can_be_cut(make, monkeypatch: pytest.MonkeyPatch) -> None:
    from gmr_metric.reduction import api

    def first_two(mixture: GaussianMixture, n_components: int) -> Outcome:
        n = len(mixture)
        assignment = np.maximum(np.arange(n) - (n - n_components), 0)
        steps = [Step("merge", (0, j), n - j, 0.0) for j in range(1, n - n_components + 1)]
        return Outcome(assignment, history=steps)

    monkeypatch.setitem(api._METHODS, "first-two", first_two)
    reduction = reduce(make(5, 7, 1), 2, "first-two")
    assert reduction.cut(4).assignment.tolist() == [0, 0, 0, 0, 1, 2, 3]
