"""The inner loops, compiled and vectorised, against plain formulas written with scipy."""

from __future__ import annotations

import math
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from gmr_metric.density.gaussian import log_gaussian, log_gaussian_from_factors, log_packed, lower
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops import choice, compiled, numba_kernels, vectorised
from gmr_metric.loops.choice import implementation
from gmr_metric.loops.columns import columns, whitened, whitening
from gmr_metric.reduction.merging import merge
from gmr_metric.reduction.tables import SHORT, seconds_against_original, williams
from hypothesis import given, settings, strategies as st
from scipy.stats import multivariate_normal

both = pytest.mark.parametrize("kernels", [compiled, vectorised], ids=["compiled", "vectorised"])
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


@pytest.mark.parametrize("d", [1, 2, 5, 12, 13, 17])
def test_the_gaussian_density_is_scipys_in_every_layout(make, d: int) -> None:
    mixture = make(9, 4, d)
    offsets = np.random.default_rng(d).normal(size=(4, d))
    expected = [
        multivariate_normal.logpdf(e, np.zeros(d), p) for e, p in zip(offsets, mixture.covariances, strict=True)
    ]
    rows, places = lower(d)
    packed = mixture.covariances[:, rows, places].T
    for found in (
        log_gaussian(offsets, mixture.covariances),
        log_gaussian_from_factors(offsets, mixture.cholesky),
        log_packed(offsets.T, packed),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-11)


@both
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_inner_products_are_the_double_sum(make, kernels: ModuleType, n: int, d: int) -> None:
    f, g = make(1, n, d), make(2, 3, d)
    for same, other in ((False, g), (True, f)):
        first, second = (columns(m).bounded(log_weights=True) for m in (f, other))
        found = kernels.log_inner(first, second, same)
        if n <= 9:
            expected = sum(
                w * kernel(f, i, other, j) * f.weights[i] for j, w in enumerate(other.weights) for i in range(n)
            )
            assert found == pytest.approx(math.log(expected), rel=1e-12, abs=1e-12)
        assert found == pytest.approx(vectorised.log_inner(first, second, same), rel=1e-12, abs=1e-12)


@both
def test_terms_far_below_the_largest_may_be_missed_and_no_others(make, kernels: ModuleType) -> None:
    f = make(3, 50, 2)
    far = f.affine(np.eye(2), np.array([1e4, 0.0]))
    first, second = (columns(m).bounded(log_weights=True) for m in (f, far))
    expected = vectorised.log_inner(first, second, False)
    assert expected < -1e6
    assert kernels.log_inner(first, second, False) == pytest.approx(expected, rel=1e-13)


@both
def test_overlaps_with_merged_pairs_are_those_of_the_merged_components(make, kernels: ModuleType) -> None:
    f, g = make(4, 140, 3), make(5, 6, 3)
    a, b = columns(f), columns(g)
    i, j = np.array([1]), np.arange(2, 6)
    row = kernels.overlaps(vectorised.merged_pairs(i, j, b), a, 0.3)
    for k in range(2, 6):
        assert row[k - 2] == pytest.approx(math.exp(-0.3) * overlap(f, merge(g, 1, k), 1), rel=1e-12)


@both
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize(("n", "m", "d"), [(3, 300, 2), (300, 3, 2), (40, 50, 1), (7, 5, 14)])
def test_overlaps_are_the_sums_for_every_type(make, kernels: ModuleType, kind: str, n: int, m: int, d: int) -> None:
    f, g = make(4, n, d).convert(kind), make(5, m, d).convert(kind)
    found = kernels.overlaps(columns(g), columns(f), 0.3)
    full = f.convert("full"), g.convert("full")
    for k in range(0, m, max(1, m // 4)):
        assert found[k] == pytest.approx(math.exp(-0.3) * overlap(*full, k), rel=1e-12)


@pytest.mark.parametrize("pivot", [1e-70, 1e70])
def test_log_determinants_of_extreme_pivots_neither_overflow_nor_underflow(pivot: float) -> None:
    """Four such pivots stay within the range of floats, five do not: the product is reduced to a logarithm in time."""
    d = 9
    rows, places = lower(d)
    packed = np.where(rows == places, pivot, 0.0)[:, None] * np.ones(numba_kernels.BLOCK)
    logs = np.empty(numba_kernels.BLOCK)
    numba_kernels.factor(packed, logs, 3)
    np.testing.assert_allclose(logs[:3], d * math.log(pivot), rtol=1e-14)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e4, 690))
def test_the_compiled_exponential_is_right_to_two_units_in_the_last_place(x: float) -> None:
    values = np.full(numba_kernels.BLOCK, x)
    numba_kernels.exponentiate(values, np.empty(numba_kernels.BLOCK), 5)
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


def test_numba_is_kept_out_where_asked_and_for_short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert implementation(1.1) is compiled and implementation(0.9) is vectorised
    monkeypatch.setenv("GMR_METRIC_NUMBA", "0")
    assert implementation(10_000) is vectorised
    monkeypatch.delenv("GMR_METRIC_NUMBA")
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert implementation(10_000) is vectorised


def test_the_estimate_grows_with_the_work_and_the_reference_follows_it(make) -> None:
    estimates = [seconds_against_original(columns(make(0, n, d))) for n, d in ((60, 2), (60, 6), (120, 6), (120, 20))]
    assert estimates == sorted(estimates) and estimates[2] == pytest.approx(8 * estimates[1])
    assert estimates[0] < SHORT < estimates[-1]
    mixture = make(0, 120, 20)
    assert williams(mixture, 119).history == williams(mixture, 119, reference="current").history


def test_a_short_job_loads_neither_numba_nor_torch() -> None:
    """The command runs in its own process, since this one has loaded both."""
    words = """
import sys, numpy as np, gmr_metric
draw = np.random.default_rng(0)
mixture = gmr_metric.GaussianMixture(np.full(60, 1 / 60), draw.normal(size=(60, 2)), np.tile(np.eye(2), (60, 1, 1)))
for method in ("runnalls", "williams", "oggmr"):
    gmr_metric.reduce(mixture, 10, method)
print(sorted({"numba", "llvmlite", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
