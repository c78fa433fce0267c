from __future__ import annotations

import numpy as np
import pytest
from gmr_metric.inner import log_kernels
from gmr_metric.merging import merge_groups
from gmr_metric.metrics import distance, kl_divergence
from gmr_metric.mixture import GaussianMixture
from gmr_metric.reduction import reduce
from gmr_metric.west import _divergences, _errors, best_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sextet_common.errors import InputError


@pytest.mark.parametrize(
    ("dissimilarity", "weighting", "ise"),
    [
        ("kl", "plain", 0.01589951885),
        ("ise", "plain", 0.03812252417),
        ("kl", "trace", 0.02663453177),
        ("ise", "trace", 0.02663453177),
    ],
)
def test_west_reduces_the_classic_mixture_as_computed_independently(
    classic, dissimilarity: str, weighting: str, ise: float
) -> None:
    found = reduce(classic, 5, "west", dissimilarity=dissimilarity, weighting=weighting)
    assert distance(classic, found.mixture, "ise") == pytest.approx(ise, rel=1e-9)


def test_in_one_dimension_trace_and_determinant_are_one(classic, make) -> None:
    by = [reduce(classic, 4, "west", weighting=w).assignment for w in ("trace", "determinant")]
    np.testing.assert_array_equal(*by)
    plane = [reduce(make(3, 30, 3), 8, "west", weighting=w).assignment for w in ("plain", "trace", "determinant")]
    assert not all((a == plane[0]).all() for a in plane)


def test_every_step_takes_the_lightest_to_its_nearest(make) -> None:
    mixture = make(4, 10, 2)
    step = reduce(mixture, 9, "west").history[0]
    light = int(np.argmin(mixture.weights))
    parts = [GaussianMixture([1.0], mixture.means[[i]], mixture.covariances[[i]]) for i in range(10)]
    near = min((i for i in range(10) if i != light), key=lambda i: _divergences(mixture, light)[i])
    assert step.components == tuple(sorted((light, near)))
    for i, part in enumerate(parts):
        estimate = kl_divergence(parts[light], part, samples=20_000)
        assert abs(_divergences(mixture, light)[i] - estimate.value) <= 5 * estimate.standard_error + 1e-12
    errors = np.array([distance(parts[light], part, "ise") for part in parts])
    scaled = _errors(mixture, light)
    np.testing.assert_allclose(scaled / scaled.max(), errors / errors.max(), atol=1e-12)


def test_cowa_reduces_the_classic_mixture_as_computed_independently(classic) -> None:
    expected = {6: (0.00064845, 0.03625498), 5: (0.01973425, 0.20238049), 4: (0.02579264, 0.23195621)}
    for n, (ise, angle) in expected.items():
        found = reduce(classic, n, "cowa")
        assert distance(classic, found.mixture, "ise") == pytest.approx(ise, abs=5e-9)
        assert found.distance == pytest.approx(angle, abs=5e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 3))
def test_the_best_weights_satisfy_the_conditions_of_an_optimum(make, seed: int, n: int, d: int) -> None:
    f, g = make(seed, 8, d), make(seed + 1, n, d)
    weights = best_weights(f, g)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-12)
    slope = np.exp(log_kernels(g, g)) @ weights - np.exp(log_kernels(g, f)) @ f.weights
    level, scale = float(slope[weights > 0].mean()), float(np.exp(log_kernels(g, g)).max())
    np.testing.assert_allclose(slope[weights > 0], level, atol=1e-9 * scale)  # what carries weight is level
    assert (slope >= level - 1e-9 * scale).all()  # and nothing else is below


def test_the_best_weights_are_a_generic_solvers(make) -> None:
    f, g = make(5, 8, 2), make(6, 5, 2)
    table, target = np.exp(log_kernels(g, g)), np.exp(log_kernels(g, f)) @ f.weights
    solved = minimize(
        lambda a: 1e3 * (a @ table @ a - 2 * target @ a),
        np.full(5, 0.2),
        method="SLSQP",
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    np.testing.assert_allclose(best_weights(f, g), solved.x, atol=1e-5)


def test_duplicates_do_not_break_the_fit_of_the_weights() -> None:
    f = GaussianMixture([0.3, 0.7], [[0.0], [4.0]], np.ones((2, 1, 1)))
    g = GaussianMixture([0.2, 0.2, 0.6], [[0.0], [0.0], [4.0]], np.ones((3, 1, 1)))
    assert distance(f, GaussianMixture(best_weights(f, g), g.means, g.covariances, normalize=True)) < 1e-6


def test_fitted_weights_come_no_farther_than_the_merge_alone(make) -> None:
    mixture = make(7, 20, 2)
    found = reduce(mixture, 6, "cowa")
    assert distance(mixture, found.mixture, "ise") <= distance(mixture, merge_groups(mixture, found.assignment), "ise")


def test_unknown_words_are_refused(classic) -> None:
    with pytest.raises(InputError, match="dissimilarity is 'w2'"):
        reduce(classic, 3, "west", dissimilarity="w2")
    with pytest.raises(InputError, match="weighting is 'mass'"):
        reduce(classic, 3, "cowa", weighting="mass")
