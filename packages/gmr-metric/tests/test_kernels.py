"""The inner loops, compiled and vectorised, against plain formulas written with scipy."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from gmr_metric.loops import columns as kernels
from gmr_metric.loops import compiled, vectorised
from gmr_metric.loops.columns import columns, implementation, whitened, whitening
from gmr_metric.reduction.merging import merge
from gmr_metric.density.mixture import GaussianMixture
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

both = pytest.mark.parametrize("inner", [compiled, vectorised], ids=["compiled", "vectorised"])
SHAPES = [
    (2, 1),
    (5, 2),
    (130, 3),
    (300, 1),
    (9, 5),
    (4, 17),
]  # blocks not full, full and more than one; many dimensions


def kernel(f: GaussianMixture, i: int, g: GaussianMixture, j: int) -> float:
    return float(multivariate_normal.pdf(f.means[i], g.means[j], f.covariances[i] + g.covariances[j]))


def overlap(f: GaussianMixture, g: GaussianMixture, j: int) -> float:
    return sum(w * kernel(f, i, g, j) for i, w in enumerate(f.weights))


@both
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_inner_products_are_the_double_sum(make, inner: ModuleType, n: int, d: int) -> None:
    f, g = make(1, n, d), make(2, 3, d)
    for same, other in ((False, g), (True, f)):
        laid = [columns(m) for m in (f, other)]
        args = [(np.log(c.weights), c.means, c.packed, np.log(c.weights) + c.log_self() / 2, c.radii()) for c in laid]
        found = inner.log_inner(*args[0], *args[1], same)
        rows = range(len(f)) if n <= 9 else range(0, len(f), 29)
        if n <= 9:
            expected = sum(w * kernel(f, i, other, j) * f.weights[i] for j, w in enumerate(other.weights) for i in rows)
            assert found == pytest.approx(math.log(expected), rel=1e-12, abs=1e-12)
        assert found == pytest.approx(vectorised.log_inner(*args[0], *args[1], same), rel=1e-12, abs=1e-12)


@both
def test_terms_far_below_the_largest_may_be_missed_and_no_others(make, inner: ModuleType) -> None:
    f = make(3, 50, 2)
    far = f.affine(np.eye(2), np.array([1e4, 0.0]))
    laid = [columns(m) for m in (f, far)]
    args = [(np.log(c.weights), c.means, c.packed, np.log(c.weights) + c.log_self() / 2, c.radii()) for c in laid]
    expected = vectorised.log_inner(*args[0], *args[1], False)
    assert expected < -1e6
    assert inner.log_inner(*args[0], *args[1], False) == pytest.approx(expected, rel=1e-13)


@both
def test_overlaps_with_merged_pairs_are_those_of_the_merged_components(make, inner: ModuleType) -> None:
    f, g = make(4, 140, 3), make(5, 6, 3)
    a, b = columns(f), columns(g)
    row, table = np.empty(5), np.zeros((6, 6))
    inner.pair_overlaps(1, 1, 6, *b, *a, 0.3, row)
    inner.add_overlaps(*b, *a.take(np.array([0, 7])), 0.3, table)
    pair = GaussianMixture(f.weights[[0, 7]], f.means[[0, 7]], f.covariances[[0, 7]], normalize=True)
    scale = math.exp(-0.3)
    for j in range(2, 6):
        merged = merge(g, 1, j)
        assert row[j - 1] == pytest.approx(scale * overlap(f, merged, 1), rel=1e-12)
        both_weights = f.weights[[0, 7]].sum()
        assert table[1, j] == pytest.approx(scale * both_weights * overlap(pair, merged, 1), rel=1e-12)
    assert not np.tril(table).any()


@both
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_gradients_of_overlaps_are_the_finite_differences(make, inner: ModuleType, n: int, d: int) -> None:
    f, g = columns(make(6, n, d)), columns(make(7, 2, d))
    reach, radii, f_reach, f_radii = g.log_self() / 2, g.radii(), f.log_self() / 2, f.radii()

    def overlaps(means: np.ndarray, packed: np.ndarray) -> np.ndarray:
        return vectorised.overlaps(means, packed, *f, 0.1)

    values, by_mean, by_packed = np.empty(2), np.empty((d, 2)), np.empty((len(g.packed), 2))
    # what lies below exp(-200) is left out
    known = (0.1, -200.0)
    inner.overlap_gradients(*f, f_reach, f_radii, g.means, g.packed, reach, radii, *known, values, by_mean, by_packed)
    np.testing.assert_allclose(values, overlaps(g.means, g.packed), rtol=1e-12)
    rows, places = np.tril_indices(d)
    step, largest = 1e-5, np.abs(values).max()
    for at in range(0, d, max(1, d // 4)):
        change = np.zeros_like(g.means)
        change[at] = step
        slope = (overlaps(g.means + change, g.packed) - overlaps(g.means - change, g.packed)) / (2 * step)
        np.testing.assert_allclose(by_mean[at], slope, rtol=1e-6, atol=1e-7 * largest)
    for at in range(0, len(g.packed), max(1, len(g.packed) // 6)):
        change = np.zeros_like(g.packed)
        change[at] = step
        slope = (overlaps(g.means, g.packed + change) - overlaps(g.means, g.packed - change)) / (2 * step)
        both_entries = 1 if rows[at] == places[at] else 2
        np.testing.assert_allclose(both_entries * by_packed[at], slope, rtol=1e-6, atol=1e-7 * largest)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e4, 690))
def test_the_compiled_exponential_is_right_to_two_units_in_the_last_place(x: float) -> None:
    values = np.full(compiled.BLOCK, x)
    compiled._exponentiate(values, np.empty(compiled.BLOCK), 5)
    expected = math.exp(x) if x >= -700 else 0.0
    assert values[:5] == pytest.approx(expected, rel=4.5e-16)
    assert values[5] == x


def test_whitening_gives_the_unit_covariance_and_zero_mean(make) -> None:
    mixture = make(8, 6, 3).affine(np.diag([1e5, 1.0, 1e-4]), np.array([1e6, 0.0, -3.0]))
    laid = whitened(mixture)
    white = GaussianMixture(laid.weights, laid.means.T, laid.covariances())
    np.testing.assert_allclose(white.mean(), 0, atol=1e-9)
    np.testing.assert_allclose(white.covariance(), np.eye(3), atol=1e-9)
    mean, factor = whitening(mixture)
    np.testing.assert_allclose(white.affine(factor, mean).means, mixture.means, rtol=1e-12)


def test_numba_is_kept_out_where_asked_and_for_small_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert implementation(kernels.SMALL) is compiled and implementation(kernels.SMALL - 1) is vectorised
    monkeypatch.setenv("GMR_METRIC_NUMBA", "0")
    assert implementation(10_000) is vectorised
    monkeypatch.delenv("GMR_METRIC_NUMBA")
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert implementation(10_000) is vectorised
