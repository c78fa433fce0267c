from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from esac.results.statistics import (
    band,
    interval,
    iqm,
    on_grid,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from scipy import stats
from sextet_common.errors import InputError


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (10,), (5, 3), (7, 11), (1, 6)])
def test_the_interquartile_mean_is_scipys_trimmed_mean(shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(0).standard_cauchy(shape)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), rel=1e-12)


def test_the_interquartile_mean_does_not_see_how_far_out_an_outlier_is() -> None:
    scores = np.arange(8.0)
    moved = scores.copy()
    moved[[0, 7]] = -1e12, 1e12
    assert iqm(moved) == iqm(scores) == 3.5


def test_the_optimality_gap_is_the_mean_shortfall() -> None:
    scores = np.random.default_rng(1).normal(size=(6, 4))
    expected = sum(max(0.3 - score, 0) for score in scores.ravel()) / 24
    assert optimality_gap(scores, 0.3) == pytest.approx(expected, rel=1e-12)
    assert optimality_gap(scores, scores.min()) == 0


def test_the_probability_of_improvement_is_a_count_of_pairs() -> None:
    random = np.random.default_rng(2)
    x, y = random.integers(5, size=(6, 3)), random.integers(5, size=(4, 3))  # few values, so that there are ties
    tasks = []
    for task in range(3):
        pairs = list(itertools.product(x[:, task], y[:, task]))
        tasks.append(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs))
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(tasks), rel=1e-12)
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1, rel=1e-12)


def test_the_probability_of_improvement_is_scipys_mann_whitney_statistic() -> None:
    random = np.random.default_rng(3)
    x, y = random.integers(9, size=12), random.integers(9, size=7)
    expected = stats.mannwhitneyu(x, y).statistic / (12 * 7)
    assert probability_of_improvement(x, y) == pytest.approx(expected, rel=1e-12)


def test_a_performance_profile_counts_scores_strictly_above() -> None:
    scores = np.random.default_rng(4).integers(6, size=(5, 4)).astype(float)
    thresholds = np.array([-np.inf, -1.0, 0.0, 2.0, 2.5, 5.0, np.inf])
    expected = [np.mean([score > t for score in scores.ravel()]) for t in thresholds]
    np.testing.assert_allclose(performance_profile(scores, thresholds), expected, rtol=1e-12)
    # the same function is one minus scipy's empirical distribution
    np.testing.assert_allclose(
        performance_profile(scores, thresholds[1:-1]),
        1 - stats.ecdf(scores.ravel()).cdf.evaluate(thresholds[1:-1]),
        atol=1e-12,
    )


def test_an_interval_is_that_of_all_possible_resamples() -> None:
    scores = np.array([1.0, 2.0, 4.0, 8.0])
    every = [np.mean(chosen) for chosen in itertools.product(scores, repeat=4)]
    expected = np.quantile(every, [0.05, 0.95])
    found = interval(np.mean, scores, resamples=20_000, level=0.9)
    assert found.value == 3.75
    # 20 000 resamples put the level's ends within 0.5 % of their place, less than one of the 4^4 means' steps
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.25)


def test_an_interval_of_the_mean_covers_as_scipys_bootstrap_does() -> None:
    scores = np.random.default_rng(5).normal(size=40)
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    ours = interval(np.mean, scores, resamples=20_000)
    # an end's own spread over seeds, at 20 000 resamples, is about 0.003
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=0.02)


def test_resamples_stay_within_their_task() -> None:
    scores = np.array([[0.0, 100.0], [1.0, 101.0], [2.0, 102.0]])

    def check(drawn: np.ndarray) -> float:
        assert set(drawn[:, 0]) <= {0.0, 1.0, 2.0} and set(drawn[:, 1]) <= {100.0, 101.0, 102.0}
        return float(np.corrcoef(drawn.T)[0, 1]) if np.ptp(drawn, axis=0).all() else 0.0

    # tasks are drawn apart: within whole runs their correlation would be 1 in every resample
    assert interval(check, scores, resamples=200).low < 0


def test_an_interval_is_a_function_of_its_seed() -> None:
    scores = np.random.default_rng(6).normal(size=(5, 3))
    assert interval(iqm, scores, seed=1) == interval(iqm, scores, seed=1)
    assert interval(iqm, scores, seed=1) != interval(iqm, scores, seed=2)


def test_two_algorithms_are_resampled_apart() -> None:
    scores = np.arange(6.0)
    found = interval(probability_of_improvement, scores, scores, resamples=500)
    assert found.value == 0.5
    assert found.low < 0.3 and found.high > 0.7  # resampled together it would be 0.5 always


def test_an_interval_of_one_run_has_no_width() -> None:
    assert interval(iqm, np.array([3.0])) == (3.0, 3.0, 3.0)


def test_a_band_is_the_bootstrap_interval_at_each_point() -> None:
    curves = np.random.default_rng(7).normal(size=(3, 4))
    found = band(curves, resamples=20_000)
    np.testing.assert_allclose(found.mean, curves.mean(axis=0), rtol=1e-12)
    for point in range(4):
        every = [np.mean(chosen) for chosen in itertools.product(curves[:, point], repeat=3)]
        # the lowest and the highest of the 27 resamples have probability 1/27 each, more than 2.5 %: they are the ends
        np.testing.assert_allclose([found.low[point], found.high[point]], [min(every), max(every)], rtol=1e-12)


def test_a_band_averages_the_curves_that_have_a_value() -> None:
    curves = np.array([[np.nan, 1.0, np.nan], [np.nan, 3.0, 5.0]])
    found = band(curves)
    np.testing.assert_array_equal(found.mean, [np.nan, 2.0, 5.0])
    np.testing.assert_array_equal(found.low, [np.nan, 1.0, 5.0])
    np.testing.assert_array_equal(found.high, [np.nan, 3.0, 5.0])
    assert np.isnan(band(np.full((2, 3), np.nan)).low).all()


def test_a_grid_takes_the_last_value_that_was_known() -> None:
    random = np.random.default_rng(8)
    steps = np.sort(random.integers(20, size=15)).astype(float)
    values, grid = random.normal(size=15), np.arange(-2.0, 23.0)
    expected = [next((v for s, v in zip(steps[::-1], values[::-1], strict=True) if s <= g), np.nan) for g in grid]
    np.testing.assert_array_equal(on_grid(steps, values, grid), expected)
    np.testing.assert_array_equal(on_grid(np.zeros(0), np.zeros(0), np.ones(2)), [np.nan, np.nan])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: iqm(np.zeros((2, 0))), r"scores of shape \(2, 0\)"),
        (lambda: iqm(np.zeros((2, 2, 2))), r"scores of shape \(2, 2, 2\)"),
        (lambda: iqm(np.array([1.0, np.nan])), "1 not finite"),
        (lambda: iqm(np.array(["a"])), "not an array of numbers"),
        (lambda: iqm([[1.0], [1.0, 2.0]]), "not an array of numbers"),  # type: ignore[arg-type] # what is wrong here
        (lambda: optimality_gap(np.ones(2), np.inf), "gamma is inf"),
        (lambda: probability_of_improvement(np.ones((2, 2)), np.ones((2, 3))), "on 2 and on 3 tasks"),
        (lambda: performance_profile(np.ones(2), np.array([np.nan])), "1 of them NaN"),
        (lambda: interval(iqm), "no scores"),
        (lambda: interval(iqm, np.ones(2), resamples=0), "resamples must be a whole number >= 1, got 0"),
        (lambda: interval(iqm, np.ones(2), level=1.0), r"level must be a number in \(0, 1\), got 1.0"),
        (lambda: interval(iqm, np.ones(2), seed=-1), "seed must be a whole number >= 0, got -1"),
        (lambda: band(np.ones(3)), r"curves of shape \(3,\)"),
        (lambda: band(np.array([[np.inf]])), "1 values infinite"),
        (lambda: on_grid(np.array([1.0, 3.0, 2.0]), np.ones(3), np.ones(1)), "decrease at index 2"),
        (lambda: on_grid(np.ones(2), np.ones(3), np.ones(1)), r"values of shape \(3,\)"),
    ],
)
def test_bad_input_is_named(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_the_module_needs_no_torch() -> None:
    code = "import sys, esac.statistics, esac.summaries; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
