from __future__ import annotations

import gmr_metric.reduction.west
import numpy as np
import pytest
from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_kernels
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction.api import reduce
from gmr_metric.reduction.cowa import cowa, least_squares_on_simplex
from gmr_metric.reduction.merging import merge, merge_groups
from gmr_metric.reduction.west import west
from hypothesis import given, settings, strategies as st
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


def divergence(p: GaussianMixture, q: GaussianMixture) -> float:
    """KL of two single Gaussians, as textbooks give it."""
    inverse, offset = np.linalg.inv(q.covariances[0]), q.means[0] - p.means[0]
    logs = np.linalg.slogdet(q.covariances[0])[1] - np.linalg.slogdet(p.covariances[0])[1]
    return float(np.trace(inverse @ p.covariances[0]) + offset @ inverse @ offset - p.dim + logs) / 2


def by_the_book(mixture: GaussianMixture, n_components: int, dissimilarity: str, weighting: str) -> list:
    """West's merges, everything computed anew at each: the names of the two groups, and what parts them."""
    names, steps = list(range(len(mixture))), []
    while len(names) > n_components:
        parts = [GaussianMixture(np.ones(1), mixture.means[[i]], mixture.covariances[[i]]) for i in range(len(names))]
        size = {"plain": lambda c: 1.0, "trace": np.trace, "determinant": np.linalg.det}[weighting]
        light = int(np.argmin([w / size(c) for w, c in zip(mixture.weights, mixture.covariances, strict=True)]))
        apart = [
            divergence(parts[light], p) if dissimilarity == "kl" else distance(parts[light], p, "ise") for p in parts
        ]
        apart[light] = np.inf
        near = int(np.argmin(apart))
        i, j = sorted((light, near))
        steps.append(((names[i], names.pop(j)), apart[near]))
        mixture = merge(mixture, i, j)
    return steps


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(2, 12),
    st.integers(1, 4),
    st.sampled_from(["kl", "ise"]),
    st.sampled_from(["plain", "trace", "determinant"]),
)
def test_every_step_takes_the_lightest_to_its_nearest(
    make, seed: int, n: int, d: int, dissimilarity: str, weighting: str
) -> None:
    mixture = make(seed, n, d)
    before = mixture.weights.copy(), mixture.means.copy(), mixture.covariances.copy()
    found = reduce(mixture, 1 + n // 3, "west", dissimilarity=dissimilarity, weighting=weighting)
    expected = by_the_book(mixture, 1 + n // 3, dissimilarity, weighting)
    assert [s.components for s in found.history] == [components for components, _ in expected]
    np.testing.assert_allclose([s.cost for s in found.history], [cost for _, cost in expected], rtol=1e-9)
    assert sorted(set(found.assignment.tolist())) == list(range(1 + n // 3))
    scale = np.abs(mixture.covariance()).max()
    np.testing.assert_allclose(found.mixture.mean(), mixture.mean(), atol=1e-10 * np.sqrt(scale))
    np.testing.assert_allclose(found.mixture.covariance(), mixture.covariance(), atol=1e-10 * scale)
    for array, copy in zip((mixture.weights, mixture.means, mixture.covariances), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_nearest_of_many_is_found_without_computing_every_error(make, monkeypatch) -> None:
    """Far groups are left out by a bound; the merges are those of the search of all."""
    draw = np.random.default_rng(8)
    base = make(8, 150, 2)
    spread = GaussianMixture(base.weights, base.means + 40 * draw.normal(size=(150, 2)), base.covariances)
    computed = []

    def counted(offsets: np.ndarray, covariances: np.ndarray) -> np.ndarray:
        computed.append(len(offsets))
        return log_gaussian(offsets, covariances)

    monkeypatch.setattr(gmr_metric.reduction.west, "log_gaussian", counted)
    found = west(spread, 140, dissimilarity="ise")
    assert [s.components for s in found.history] == [c for c, _ in by_the_book(spread, 140, "ise", "plain")]
    assert sum(computed) < 10 * 150 / 2


@pytest.mark.parametrize("dissimilarity", ["kl", "ise"])
def test_duplicates_find_each_other_and_ties_go_to_the_lowest(dissimilarity: str) -> None:
    """Each of four places holds three equal components; far from the origin, where errors are below rounding."""
    means = 1e6 + 100.0 * np.tile(np.arange(4), 3)[:, None] * np.ones(2)
    mixture = GaussianMixture(np.full(12, 1 / 12), means, np.tile(0.5 * np.eye(2), (12, 1, 1)))
    found = reduce(mixture, 4, "west", dissimilarity=dissimilarity)
    assert found.assignment.tolist() == [0, 1, 2, 3] * 3
    assert found.history[0].components == (0, 4)  # of the equally light the first, of its equals the first
    assert max(s.cost for s in found.history) <= 1e-12
    assert found.distance < 1e-7


@pytest.mark.parametrize("method", ["west", "cowa"])
def test_tiny_weights_and_narrow_components_in_many_dimensions_do_no_harm(method: str) -> None:
    """Squared norms of 1e+390 beside 1e-110, and a weight of 1e-300."""
    d = 200
    means = np.outer([0.0, 1e-3, 50.0, 50.1], np.eye(d)[0])
    covariances = np.array([1e-5, 1e-5, 1.0, 1.0])[:, None, None] * np.eye(d)
    mixture = GaussianMixture([1e-300, 0.5, 0.25, 0.25], means, covariances)
    found = reduce(mixture, 2, method, dissimilarity="ise", weighting="plain")
    assert found.assignment.tolist() == [0, 0, 1, 1]
    assert np.isfinite(found.mixture.weights).all() and found.mixture.weights.sum() == pytest.approx(1)


def test_cowa_reduces_the_classic_mixture_as_computed_independently(classic) -> None:
    expected = {6: (0.00064845, 0.03625498), 5: (0.01973425, 0.20238049), 4: (0.02579264, 0.23195621)}
    for n, (ise, angle) in expected.items():
        found = reduce(classic, n, "cowa")
        assert distance(classic, found.mixture, "ise") == pytest.approx(ise, abs=5e-9)
        assert found.distance == pytest.approx(angle, abs=5e-9)


def programme(f: GaussianMixture, g: GaussianMixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the weights of g are fitted by: its components' inner products over their norms, and 1 / norms."""
    norms = np.exp(0.5 * np.diagonal(log_kernels(g, g)))
    table = np.exp(log_kernels(g, g)) / np.outer(norms, norms)
    return table, np.exp(log_kernels(g, f)) @ f.weights / norms, 1 / norms


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25), st.integers(1, 3))
def test_the_fitted_weights_satisfy_the_conditions_of_an_optimum(make, seed: int, n: int, d: int) -> None:
    f, g = make(seed, 8, d), make(seed + 1, n, d)
    table, target, masses = programme(f, g)
    x = least_squares_on_simplex(table, target, masses, g.weights / masses)
    assert x.min() >= 0 and masses @ x == pytest.approx(1, abs=1e-9)
    slope = (table @ x - target) / masses
    level, scale = float(slope[x > 0].mean()), float(np.abs((table @ x + target) / masses).max())
    np.testing.assert_allclose(slope[x > 0], level, atol=1e-9 * scale)  # what carries weight is level
    assert (slope >= level - 1e-9 * scale).all()  # and nothing else is below
    from_a_corner = np.eye(n)[0] / masses[0]
    again = least_squares_on_simplex(table, target, masses, from_a_corner)
    error, other = (y @ table @ y - 2 * target @ y for y in (x, again))
    assert error == pytest.approx(other, abs=1e-10 * abs(error))  # wherever the search starts


def test_the_fitted_weights_are_a_generic_solvers(make) -> None:
    f, g = make(5, 8, 2), make(6, 5, 2)
    table, target, masses = programme(f, g)
    solved = minimize(
        lambda a: 1e3 * (a / masses @ table @ (a / masses) - 2 * target @ (a / masses)),
        np.full(5, 0.2),
        method="SLSQP",
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    found = masses * least_squares_on_simplex(table, target, masses, g.weights / masses)
    np.testing.assert_allclose(found, solved.x, atol=1e-5)  # the generic solver's own precision
    assert (found == 0).any()  # the bounds matter here


def test_duplicates_do_not_break_the_fit_of_the_weights() -> None:
    f = GaussianMixture([0.3, 0.7], [[0.0], [4.0]], np.ones((2, 1, 1)))
    g = GaussianMixture([0.2, 0.2, 0.6], [[0.0], [0.0], [4.0]], np.ones((3, 1, 1)))
    table, target, masses = programme(f, g)
    weights = masses * least_squares_on_simplex(table, target, masses, g.weights / masses)
    assert distance(f, GaussianMixture(weights, g.means, g.covariances, normalize=True)) < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 15), st.integers(1, 3))
def test_each_fit_reports_its_error_and_beats_the_merged_weights(make, seed: int, n: int, d: int) -> None:
    """A first merge is West's by the same words, so the fit can only come nearer; the last fit is as good as anew."""
    mixture = make(seed, n, d)
    found = cowa(mixture, n - 1)
    merged = merge_groups(mixture, west(mixture, n - 1, dissimilarity="ise", weighting="trace").assignment)
    np.testing.assert_allclose(found.mixture.means, merged.means, atol=1e-12)
    np.testing.assert_allclose(found.mixture.covariances, merged.covariances, atol=1e-12)
    rounding = 1e-13 * np.exp(log_kernels(mixture, mixture).max())
    assert found.history[-1].cost <= distance(mixture, merged, "ise") + rounding
    last = cowa(mixture, n - n // 2)  # what is kept between the steps was changed n // 2 times
    assert last.mixture is not None
    assert last.history[-1].cost == pytest.approx(distance(mixture, last.mixture, "ise"), rel=1e-6, abs=rounding)
    table, target, masses = programme(mixture, last.mixture)
    x = last.mixture.weights / masses
    best = least_squares_on_simplex(table, target, masses, x)
    error, least = (y @ table @ y - 2 * target @ y for y in (x, best))
    assert error == pytest.approx(least, rel=1e-10)


def test_components_that_lost_all_weight_are_merged_first(make) -> None:
    """Many kernels over one another: the fit puts most weights to 0, and pairs of such are merged too."""
    samples = np.random.default_rng(9).normal(size=(60, 1))
    mixture = GaussianMixture.from_kde(samples)
    found = reduce(mixture, 5, "cowa")
    assert sorted(set(found.assignment.tolist())) == [0, 1, 2, 3, 4]
    assert np.isfinite(found.mixture.covariances).all() and found.distance < 0.1


def test_unknown_words_are_refused(classic) -> None:
    with pytest.raises(InputError, match="dissimilarity must be kl or ise, got 'w2'"):
        reduce(classic, 3, "west", dissimilarity="w2")
    with pytest.raises(InputError, match="weighting must be plain, trace or determinant, got 'mass'"):
        reduce(classic, 3, "cowa", weighting="mass")
