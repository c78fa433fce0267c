from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances import costs
from gmr_metric.reduction import barycentres
from gmr_metric.reduction.barycentres import Gaussian, barycentre
from gmr_metric.reduction.merging import merge_groups
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.stats import ortho_group
from sextet_common.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # POT tries every array library there is, and some warn
    import ot

KINDS = ("kl", "w2", "cs")


def squared_wasserstein(p: np.ndarray, q: np.ndarray, e: np.ndarray) -> float:
    root = np.real(sqrtm(p))
    return float(e @ e + np.trace(p + q - 2 * np.real(sqrtm(root @ q @ root))))


def cauchy_schwarz(p: np.ndarray, q: np.ndarray, e: np.ndarray) -> float:
    s = p + q
    log_p, log_q, log_s = (np.linalg.slogdet(matrix)[1] for matrix in (p, q, s / 2))
    return float(0.5 * (log_s + e @ np.linalg.solve(s, e)) - 0.25 * (log_p + log_q))


def average(cost: Callable[..., float], f: GaussianMixture, g: Gaussian) -> float:
    parts = zip(f.weights, f.means, f.covariances, strict=True)
    return sum(w * cost(p, g.covariance, m - g.mean) for w, m, p in parts)


def assert_same(one: Gaussian, two: Gaussian, rtol: float) -> None:
    scale = np.abs(two.covariance).max()
    np.testing.assert_allclose(one.covariance, two.covariance, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(one.mean, two.mean, rtol=rtol, atol=rtol * math.sqrt(scale))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_kl_barycentre_is_the_moment_preserving_merge(make, d: int) -> None:
    f = make(1, 5, d)
    merged = merge_groups(f, np.zeros(5, dtype=int))
    assert_same(barycentre(f), Gaussian(merged.means[0], merged.covariances[0]), 1e-12)


def test_on_the_line_the_w2_barycentre_averages_standard_deviations(make) -> None:
    f = make(2, 6, 1)
    found = barycentre(f, "w2")
    assert found.mean[0] == pytest.approx(f.mean()[0], rel=1e-13)
    assert found.covariance[0, 0] == pytest.approx((f.weights @ np.sqrt(f.covariances[:, 0, 0])) ** 2, rel=1e-13)


@pytest.mark.parametrize("smallest", [0.1, 1e-6, 1e-12])
def test_the_w2_barycentre_of_commuting_covariances_averages_their_roots(smallest: float) -> None:
    draw = np.random.default_rng(0)
    axes = np.column_stack([draw.random((5, 2)) + 0.5, smallest * (draw.random((5, 2)) + 0.5)])
    turn = ortho_group.rvs(4, random_state=1)
    f = GaussianMixture(np.full(5, 0.2), np.zeros((5, 4)), (turn * axes[:, None]) @ turn.T)
    found = np.linalg.eigvalsh(barycentre(f, "w2").covariance)
    expected = np.sort(np.sqrt(axes).mean(axis=0) ** 2)
    # What the covariances themselves round off is 1e-16 of their largest entry.
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("n", "d"), [(2, 2), (7, 3), (20, 5)])
def test_the_w2_barycentre_solves_its_equation_and_is_that_of_pot(make, n: int, d: int) -> None:
    f = make(n, n, d)
    found = barycentre(f, "w2")
    root = np.real(sqrtm(found.covariance))
    mapped = [np.real(sqrtm(root @ p @ root)) for p in f.covariances]
    np.testing.assert_allclose(np.tensordot(f.weights, mapped, axes=1), found.covariance, rtol=1e-9, atol=1e-9)
    mean, covariance = ot.gaussian.bures_wasserstein_barycenter(
        f.means, f.covariances, weights=f.weights, num_iter=2000, eps=1e-12
    )
    assert_same(found, Gaussian(mean, covariance), 1e-6)  # POT takes roots of matrix products


@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 1), (3, 2), (6, 3)])
def test_the_cs_barycentre_is_the_best_that_a_general_minimiser_finds(make, n: int, d: int) -> None:
    f = make(10 * n + d, n, d)
    found = barycentre(f, "cs")
    rows = np.tril_indices(d)

    def gaussian(t: np.ndarray) -> Gaussian:
        root = np.zeros((d, d))
        root[rows] = t[d:]
        return Gaussian(t[:d], root @ root.T)

    value = average(cauchy_schwarz, f, found)
    trials = []
    for i in range(3):
        start = np.concatenate([f.means[i % n], np.linalg.cholesky(f.covariances[i % n])[rows]])
        solved = minimize(lambda t: average(cauchy_schwarz, f, gaussian(t)), start, method="BFGS", tol=1e-9)
        trials.append((solved.fun, gaussian(solved.x)))
    best, other = min(trials, key=lambda trial: trial[0])
    assert value <= best + 1e-12
    assert_same(found, other, 1e-4)  # a minimum's place is known to the root of its value's digits


@pytest.mark.parametrize("ratio", [2.0, 1e4, 1e8])
def test_the_cs_barycentre_of_two_concentric_gaussians_is_their_geometric_mean(ratio: float) -> None:
    """On the line c / (s + c) + c / (t + c) = 1, so that c^2 = s t; two covariances have common axes in some basis."""
    basis = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, -0.4], [0.2, 0.0, 1.0]])
    axes = np.array([[1.0, 1.0, 5.0], [ratio, 3.0, 0.5]])
    covariances, expected = (basis * axes[:, None]) @ basis.T, (basis * np.sqrt(axes.prod(axis=0))) @ basis.T
    f = GaussianMixture([0.5, 0.5], np.zeros((2, 3)), (covariances + covariances.swapaxes(1, 2)) / 2)
    found = barycentre(f, "cs")
    inverse = np.linalg.inv(np.linalg.cholesky(expected))
    # The covariances round off 1e-16 of the ratio. The cost is flat: plain steps would need thousands.
    np.testing.assert_allclose(inverse @ found.covariance @ inverse.T, np.eye(3), atol=1e-10 + 1e-14 * ratio)


def test_the_cs_barycentre_moves_with_affine_maps(make) -> None:
    f, matrix = make(3, 5, 3), np.array([[1e3, 0, 0], [2.0, 1e-3, 0], [0.5, 1.0, 1.0]])
    found, image = barycentre(f, "cs"), barycentre(f.affine(matrix, 7.0), "cs")
    expected = Gaussian(matrix @ found.mean + 7, matrix @ found.covariance @ matrix.T)
    assert_same(image, expected, 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["w2", "cs"]), st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4))
def test_a_step_never_raises_the_cost_and_stays_positive_definite(make, kind: str, seed: int, n: int, d: int) -> None:
    f, cost = make(seed, n, d), {"w2": squared_wasserstein, "cs": cauchy_schwarz}[kind]
    root = np.random.default_rng(seed).normal(size=(d, d))
    current = Gaussian(f.mean(), 10.0 ** (seed % 5 - 2) * (root @ root.T + 0.01 * np.eye(d)))
    value = average(cost, f, current)
    for _ in range(5):
        current = barycentre(f, kind, start=current.covariance, tolerance=np.inf)
        np.linalg.cholesky(current.covariance)
        new = average(cost, f, current)
        assert new <= value + 1e-8 * (1 + abs(value))  # the oracle's matrix roots lose half the digits
        value = new


@pytest.mark.parametrize("kind", ["w2", "cs"])
def test_guesses_that_fail_are_taken_back(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wild starts, for needles of all lengths: stopped anywhere, it is below the start's own step."""
    table = {"w2": costs.squared_wasserstein, "cs": costs.cauchy_schwarz}[kind]

    def cost(f: GaussianMixture, g: Gaussian) -> float:
        return float(f.weights @ table(f, GaussianMixture([1.0], g.mean[None], g.covariance[None]))[:, 0])

    for seed in range(40):
        draw = np.random.default_rng(seed)
        n, d = draw.integers(2, 6), draw.integers(1, 5)
        turns = np.linalg.qr(draw.normal(size=(n + 1, d, d)))[0]
        scales = np.concatenate([10 ** draw.uniform(-6, 0, (n, d)), 10 ** draw.uniform(-4, 4, (1, d))])
        covariances = (turns * scales[:, None]) @ turns.swapaxes(1, 2)
        covariances = (covariances + covariances.swapaxes(1, 2)) / 2
        means = 10 ** draw.uniform(-3, 2) * draw.normal(size=(n, d))
        f = GaussianMixture(draw.random(n) + 0.01, means, covariances[:n], normalize=True)
        plain = barycentre(f, kind, start=covariances[n], tolerance=np.inf)
        first = cost(f, plain)
        for iterations in (2, 3, 5, 8, 12):
            monkeypatch.setattr(barycentres, "_ITERATIONS", iterations)
            assert cost(f, barycentre(f, kind, start=covariances[n])) <= first * (1 + 1e-9)
        monkeypatch.undo()
        for _ in range(20):
            plain = barycentre(f, kind, start=plain.covariance, tolerance=np.inf)
        assert cost(f, barycentre(f, kind, start=covariances[n])) <= cost(f, plain) * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_barycentre_does_not_depend_on_the_start(make, kind: str) -> None:
    f = make(5, 6, 3)
    found = barycentre(f, kind)
    for scale in (1e-2, 1e3):
        assert_same(barycentre(f, kind, start=scale * np.diag([1.0, 2.0, 3.0])), found, 1e-9)
    assert_same(barycentre(f, kind, start=found.covariance, tolerance=np.inf), found, 1e-9)


def test_a_start_that_rounding_made_singular_is_no_harm_to_the_cs_barycentre(make) -> None:
    f = make(5, 6, 3)
    assert_same(barycentre(f, "cs", start=np.ones((3, 3))), barycentre(f, "cs"), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_is_its_own_barycentre_to_the_last_digit(make, kind: str) -> None:
    f = make(6, 3)
    found = barycentre(f, kind, weights=[0.0, 1e-300, 0.0])
    assert (found.mean == f.means[1]).all() and (found.covariance == f.covariances[1]).all()
    twice = GaussianMixture([0.3, 0.7], f.means[[1, 1]], f.covariances[[1, 1]])
    assert_same(barycentre(twice, kind), found, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_count_in_proportion_and_those_of_zero_not_at_all(make, kind: str) -> None:
    f = make(7, 4)
    part = GaussianMixture([0.25, 0.75], f.means[[0, 2]], f.covariances[[0, 2]])
    assert_same(barycentre(f, kind, weights=np.array([1.0, 0.0, 3.0, 0.0])), barycentre(part, kind), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_needles_far_from_the_origin_have_a_positive_definite_barycentre(kind: str) -> None:
    turns = ortho_group.rvs(3, size=4, random_state=2)
    needles = (turns * np.array([1.0, 1e-10, 1e-10])) @ turns.swapaxes(1, 2)
    covariances = (needles + needles.swapaxes(1, 2)) / 2
    means = np.random.default_rng(0).normal(size=(4, 3))
    near, far = (barycentre(GaussianMixture(np.full(4, 0.25), means + x, covariances), kind) for x in (0.0, 1e6))
    assert np.linalg.eigvalsh(near.covariance)[0] > 1e-12
    # A mean of 1e6 has an absolute rounding of 1e-10.
    np.testing.assert_allclose(far.covariance, near.covariance, atol=1e-7)
    np.testing.assert_allclose(far.mean - 1e6, near.mean, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_aligned_needles_stay_needles(kind: str) -> None:
    turn = ortho_group.rvs(3, random_state=3)
    axes = np.array([[1.0, 2e-10, 1e-10], [2.0, 1e-10, 3e-10]])
    covariances = (turn * axes[:, None]) @ turn.T
    f = GaussianMixture([0.5, 0.5], np.zeros((2, 3)), (covariances + covariances.swapaxes(1, 2)) / 2)
    found = np.sort(np.linalg.eigvalsh(barycentre(f, kind).covariance))
    by_axis = [barycentre(GaussianMixture([0.5, 0.5], np.zeros((2, 1)), a[:, None, None]), kind) for a in axes.T]
    expected = np.sort([float(g.covariance[0, 0]) for g in by_axis])
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # 1e-16 of a condition of 1e10, some times over


def test_what_does_not_fit_is_refused(make) -> None:
    f = make(8)
    with pytest.raises(InputError, match="kind must be kl, w2 or cs, got 'ise'"):
        barycentre(f, "ise")
    for weights in ([1.0, 1.0], [1.0, -1.0, 2.0], [0.0, 0.0, 0.0], [1.0, np.nan, 1.0]):
        with pytest.raises(InputError, match="weights of shape"):
            barycentre(f, weights=weights)
