from __future__ import annotations

import math
from itertools import permutations

import mpmath
import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances import differences, inner
from gmr_metric.distances.inner import inner_product, log_inner_product, log_inner_product_gradients, log_kernels, norm
from gmr_metric.distances.metrics import (
    AccuracyWarning,
    available_metrics,
    distance,
    kl_divergence,
    pairwise_distances,
    similarity,
)
from gmr_metric.loops import compiled, vectorised
from gmr_metric.loops.columns import Bounded
from gmr_metric.reduction.api import reduce
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad
from scipy.linalg import sqrtm
from sextet_common.errors import InputError

SEEDS = st.integers(0, 2**32)


def normal(mean: float, variance: float = 1.0) -> GaussianMixture:
    return GaussianMixture([1.0], [[mean]], [[[variance]]])


def moment_gaussian(f: GaussianMixture) -> GaussianMixture:
    return GaussianMixture([1.0], f.mean()[None], f.covariance()[None])


# The ten-component example of the reduction literature and a two-dimensional one; values computed independently.
M10 = GaussianMixture(
    [0.03, 0.18, 0.12, 0.19, 0.02, 0.16, 0.06, 0.10, 0.08, 0.06],
    np.array([1.45, 2.20, 0.67, 0.48, 1.49, 0.91, 1.01, 1.42, 2.77, 0.89])[:, None],
    np.array([0.0487, 0.0305, 0.1171, 0.0174, 0.0295, 0.0102, 0.0323, 0.0380, 0.0115, 0.0679])[:, None, None],
)
TRIPLE = GaussianMixture(
    [0.25, 0.5, 0.25],
    [[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]],
    [[[4 / 9, 14 / 45], [14 / 45, 4 / 9]], [[4 / 9, 0], [0, 4 / 9]], [[2 / 9, -1 / 9], [-1 / 9, 3 / 9]]],
)


def test_the_classic_ten_component_mixture_has_its_reference_values() -> None:
    single = moment_gaussian(M10)
    assert norm(M10) ** 2 == pytest.approx(0.4852794018032294, rel=1e-13)
    assert M10.mean()[0] == pytest.approx(1.2641, rel=1e-12)
    assert M10.covariance()[0, 0] == pytest.approx(0.57233519, rel=1e-12)
    expected = {"ise": 0.138669076974510, "nise": 0.161588828550850, "angle": 0.562927490171092}
    for metric, value in {**expected, "cauchy-schwarz": 0.167594801388796}.items():
        assert distance(M10, single, metric) == pytest.approx(value, rel=1e-12)
    assert similarity(M10, single) == pytest.approx(0.845696440291419, rel=1e-12)
    kept = [1, 2, 3, 5, 7, 8]
    pruned = GaussianMixture(M10.weights[kept], M10.means[kept], M10.covariances[kept], normalize=True)
    assert distance(M10, pruned, "ise") == pytest.approx(0.0140524986275121, rel=1e-12)
    assert distance(M10, pruned) == pytest.approx(0.170033957049388, rel=1e-12)


def test_the_two_dimensional_triple_has_its_reference_values() -> None:
    assert norm(TRIPLE) ** 2 == pytest.approx(0.101405226021579, rel=1e-12)
    rest = GaussianMixture(TRIPLE.weights[1:], TRIPLE.means[1:], TRIPLE.covariances[1:], normalize=True)
    for other, ise, angle in (
        (rest, 0.0233147751622391, 0.403250870595173),
        (moment_gaussian(TRIPLE), 0.0128807768656071, 0.364327369270157),
    ):
        assert distance(TRIPLE, other, "ise") == pytest.approx(ise, rel=1e-12)
        assert distance(TRIPLE, other) == pytest.approx(angle, rel=1e-12)


def test_gaussians_have_their_closed_forms() -> None:
    for delta in (0.01, 1.0, 5.0, 40.0):
        f, g = normal(0), normal(delta)
        assert similarity(f, g) == pytest.approx(math.exp(-(delta**2) / 4), rel=1e-12)
        assert distance(f, g, "cauchy-schwarz") == pytest.approx(delta**2 / 4, rel=1e-12)
        assert distance(f, g, "ise") == pytest.approx(-math.expm1(-(delta**2) / 4) / math.sqrt(math.pi), rel=1e-12)
    assert similarity(normal(0), normal(0, 4)) == pytest.approx(math.sqrt(0.8), rel=1e-14)
    assert distance(normal(0), normal(3, 4), "mw2") == pytest.approx(math.sqrt(10), rel=1e-9)


def from_integrals(fg: float, ff: float, gg: float, ise: float) -> dict[str, float]:
    """Every closed-form distance by its definition, from the integrals of fg, f^2, g^2 and (f - g)^2."""
    cosine = fg / math.sqrt(ff * gg)
    return {
        "angle": math.acos(cosine),
        "chord": math.sqrt(2 - 2 * cosine),
        "sine": math.sqrt(1 - cosine**2),
        "l2": math.sqrt(ise),
        "ise": ise,
        "nise": ise / (ff + gg),
        "cauchy-schwarz": -math.log(cosine),
    }


@pytest.mark.parametrize("seed", range(4))
def test_every_distance_on_the_line_is_that_of_numerical_integration(make, seed: int) -> None:
    f, g = make(seed, 4, 1), make(seed + 100, 2, 1)
    options = {"epsabs": 1e-13, "epsrel": 1e-12, "limit": 400}
    both = (lambda p, q: p * q, lambda p, q: p**2, lambda p, q: q**2, lambda p, q: (p - q) ** 2)
    integrals = [quad(lambda x, k=k: k(f.pdf([[x]])[0], g.pdf([[x]])[0]), -40, 40, **options)[0] for k in both]
    assert inner_product(f, g) == pytest.approx(integrals[0], rel=1e-8)
    for metric, expected in from_integrals(*integrals).items():
        assert distance(f, g, metric) == pytest.approx(expected, rel=1e-8)

    def divergence(x: float) -> float:
        log_f, log_g = f.logpdf([[x]])[0], g.logpdf([[x]])[0]
        return math.exp(log_f) * (log_f - log_g)

    found = kl_divergence(f, g, samples=20_000)
    assert abs(found.value - quad(divergence, -40, 40, **options)[0]) < 4 * found.standard_error


@pytest.mark.parametrize("seed", range(2))
def test_every_distance_in_the_plane_is_that_of_a_grid(make, seed: int) -> None:
    f, g = make(seed), make(seed + 50)
    axis = np.linspace(-25, 25, 801)  # the trapezoid rule of a smooth, decaying function converges exponentially
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    p, q, cell = f.pdf(grid), g.pdf(grid), (axis[1] - axis[0]) ** 2
    integrals = [float(values.sum()) * cell for values in (p * q, p**2, q**2, (p - q) ** 2)]
    assert inner_product(f, g) == pytest.approx(integrals[0], rel=1e-8)
    for metric, expected in from_integrals(*integrals).items():
        assert distance(f, g, metric) == pytest.approx(expected, rel=1e-8)


@settings(max_examples=600, deadline=None)
@given(
    SEEDS,
    st.integers(1, 6),
    st.sampled_from([1.0, 0.1, 0.001]),
    st.sampled_from(["angle", "chord", "sine", "l2", "mw2"]),
)
def test_the_metrics_keep_the_axioms_on_thousands_of_mixtures(
    make, seed: int, d: int, spread: float, metric: str
) -> None:
    """Four at a time, far apart or alike, and all triangles among them."""
    made = [make(seed + k, 1 + (seed + k) % 4, d) for k in range(4)]
    mixtures = [GaussianMixture(m.weights, spread * m.means, m.covariances) for m in made]
    table = pairwise_distances(mixtures, metric)
    assert (table + np.eye(4) > 0).all()  # all are different
    assert distance(mixtures[1], mixtures[0], metric) == pytest.approx(table[0, 1], rel=1e-9, abs=1e-9)
    # Costs of transport are differences, of which this is the root.
    assert distance(mixtures[0], mixtures[0], metric) <= (1e-6 if metric == "mw2" else 0)
    around = (table[:, :, None] + table).min(axis=1)
    assert (table <= around + 1e-7).all()  # a triangle may be degenerate
    assert metric != "angle" or table.max() <= math.pi / 2


@pytest.mark.parametrize("metric", ["ise", "nise", "cauchy-schwarz", "kl"])
def test_what_the_docs_call_no_metric_breaks_the_triangle_inequality(metric: str) -> None:
    f, g, h = normal(0.0), normal(0.5), normal(1.0)
    assert distance(f, h, metric) > distance(f, g, metric) + distance(g, h, metric) + 1e-3


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 4))
def test_the_angle_is_invariant_under_affine_maps_order_and_splitting(make, seed: int, d: int) -> None:
    draw = np.random.default_rng(seed)
    f, g = make(seed, 3, d), make(seed + 1, 4, d)
    angle = distance(f, g)
    matrix, offset = draw.normal(size=(d, d)) + 4 * np.eye(d), 1e6 * draw.normal(size=d)
    assert distance(f.affine(matrix, offset), g.affine(matrix, offset)) == pytest.approx(angle, rel=1e-6, abs=1e-7)
    order = draw.permutation(3)
    shuffled = GaussianMixture(f.weights[order], f.means[order], f.covariances[order])
    split = [np.repeat(part, 2, axis=0) for part in (f.weights / 2, f.means, f.covariances)]
    halves = GaussianMixture(*split)
    weightless = GaussianMixture(
        *(
            np.concatenate(pair)
            for pair in zip(([0.0], g.means[:1], g.covariances[:1]), (f.weights, f.means, f.covariances), strict=True)
        )
    )
    for same in (shuffled, halves, weightless):
        assert distance(same, g) == pytest.approx(angle, rel=1e-9)
        assert distance(f, same) < 1e-9


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 4))
def test_the_identities_between_the_measures_hold(make, seed: int, d: int) -> None:
    f, g = make(seed, 3, d), make(seed + 1, 4, d)
    c, ise, angle = similarity(f, g), distance(f, g, "ise"), distance(f, g)
    ff, gg = norm(f) ** 2, norm(g) ** 2
    assert ise == pytest.approx(ff + gg - 2 * math.sqrt(ff * gg) * c, rel=1e-9)
    assert distance(f, g, "nise") == pytest.approx(ise / (ff + gg), rel=1e-9)
    assert distance(f, g, "cauchy-schwarz") == pytest.approx(-math.log(c), rel=1e-9)
    assert math.cos(angle) == pytest.approx(c, abs=1e-12)
    assert distance(f, g, "chord") == pytest.approx(2 * math.sin(angle / 2), rel=1e-10)
    assert distance(f, g, "sine") == pytest.approx(math.sin(angle), rel=1e-10)
    assert distance(f, g, "l2") == pytest.approx(math.sqrt(ise), rel=1e-12)


def exact_angle(f: GaussianMixture, g: GaussianMixture) -> float:
    """The angle with 60 decimal digits, from the definition."""

    def product(a: GaussianMixture, b: GaussianMixture) -> mpmath.mpf:
        total = mpmath.mpf(0)
        for i in range(len(a)):
            for j in range(len(b)):
                s = mpmath.matrix(a.covariances[i].tolist()) + mpmath.matrix(b.covariances[j].tolist())
                e = mpmath.matrix(a.means[i].tolist()) - mpmath.matrix(b.means[j].tolist())
                kernel = mpmath.exp(-(e.T * s**-1 * e)[0] / 2) / mpmath.sqrt(mpmath.det(2 * mpmath.pi * s))
                total += mpmath.mpf(a.weights[i]) * mpmath.mpf(b.weights[j]) * kernel
        return total

    with mpmath.workdps(60):
        return float(mpmath.acos(product(f, g) / mpmath.sqrt(product(f, f) * product(g, g))))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-9, 1e-12])
def test_nearly_equal_mixtures_keep_their_digits(make, d: int, size: float) -> None:
    draw, f = np.random.default_rng(d), make(d, 4, d)
    order, change = draw.permutation(4), draw.normal(size=(4, d, d))
    g = GaussianMixture(
        (f.weights * (1 + size * draw.normal(size=4)))[order],
        (f.means + size * draw.normal(size=(4, d)))[order],
        (f.covariances + size * (change + change.swapaxes(1, 2)))[order],
        normalize=True,
    )
    assert distance(f, g) == pytest.approx(exact_angle(f, g), rel=1e-11)


def test_the_distance_grows_with_the_perturbation_from_far_below_the_rounding_of_the_cosine(make) -> None:
    f, found = make(11, 5), []
    for size in 10.0 ** np.arange(-12, 1, 0.5):
        means = f.means.copy()
        means[2, 0] += size
        found.append(distance(f, GaussianMixture(f.weights, means, f.covariances)))
    assert np.isfinite(found).all() and (np.diff(found) > 0).all()


def test_components_a_million_deviations_apart_do_not_underflow() -> None:
    f, g = normal(0), normal(1e6)
    assert log_inner_product(f, g) == pytest.approx(-0.25e12, rel=1e-9)
    assert distance(f, g) == pytest.approx(math.pi / 2)
    assert distance(f, g, "chord") == pytest.approx(math.sqrt(2))
    assert distance(f, g, "cauchy-schwarz") == pytest.approx(0.25e12, rel=1e-9)


def test_many_dimensions_and_tiny_weights_stay_finite() -> None:
    d = 256
    covariances = np.repeat(0.01 * np.eye(d)[None], 2, 0)
    f = GaussianMixture([1 - 1e-15, 1e-15], np.zeros((2, d)), covariances, normalize=True)
    g = GaussianMixture([1.0, 1e-300], np.full((2, d), 0.01), covariances)
    assert distance(f, g, "cauchy-schwarz") == pytest.approx(d * 1e-4 / 0.04, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:a covariance of condition")
def test_covariances_of_condition_1e10_are_right(seed: int) -> None:
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    covariances = np.stack([turn @ np.diag(scale) @ turn.T for scale in ([1e5, 1.0, 1e-5], [2e5, 3.0, 1e-5])])
    f = GaussianMixture([0.5, 0.5], 1e-3 * draw.normal(size=(2, 3)), covariances)
    g = moment_gaussian(f)
    with pytest.warns(AccuracyWarning, match=r"a covariance of condition \de\+.. makes the angle uncertain by up to"):
        measured = distance(f, g, return_error=True)
    assert measured.value == pytest.approx(exact_angle(f, g), rel=1e-4)
    assert abs(measured.value - exact_angle(f, g)) < measured.error
    for factor in (1 + 1e-3, 1 + 1e-6, 1 + 1e-9):  # nearly equal, where norms of such mixtures agree by rounding alone
        near = GaussianMixture(f.weights, f.means, f.covariances * np.array([1.0, factor])[:, None, None])
        assert distance(f, near) == pytest.approx(exact_angle(f, near), rel=1e-4)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_gradients_are_those_of_finite_differences(make, d: int) -> None:
    f, g = make(1, 3, d), make(2, 4, d)
    value, found = log_inner_product_gradients(f, g)
    assert value == log_inner_product(f, g)
    draw, step = np.random.default_rng(0), 1e-5
    change, shift = draw.normal(size=(3, d, d)), draw.normal(size=3)
    moves = {
        "weights": shift - shift.mean(),  # along the simplex, where mixtures are
        "means": draw.normal(size=(3, d)),
        "covariances": change + change.swapaxes(1, 2),
    }
    for name, move in moves.items():
        values = []
        for sign in (1, -1):
            moved = {n: getattr(f, n) + (sign * step * move if n == name else 0) for n in moves}
            values.append(log_inner_product(GaussianMixture(**moved), g))
        expected = (values[0] - values[1]) / (2 * step)
        assert float((getattr(found, name) * move).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_nothing_depends_on_the_block_size(make, monkeypatch: pytest.MonkeyPatch) -> None:
    f, g = make(1, 9), make(2, 7)
    near = GaussianMixture(f.weights, f.means + 1e-6, f.covariances)
    before = log_inner_product_gradients(f, g), log_kernels(f, g), distance(f, near), distance(f, near, "ise")
    monkeypatch.setattr(inner, "_BLOCK", 1)
    monkeypatch.setattr(differences, "_BLOCK", 1)
    assert log_inner_product(f, g) == pytest.approx(before[0][0], rel=1e-14)
    for one, other in zip(before[0][1], log_inner_product_gradients(f, g)[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(log_kernels(f, g), before[1], rtol=1e-14)
    assert distance(f, near) == pytest.approx(before[2], rel=1e-11)
    assert distance(f, near, "ise") == pytest.approx(before[3], rel=1e-11)


def test_kl_by_sampling_agrees_with_its_closed_form_within_its_standard_error() -> None:
    f, g = normal(0), normal(1.5, 4)
    found = kl_divergence(f, g, samples=40_000, seed=1)
    assert abs(found.value - (math.log(2) + (1 + 1.5**2) / 8 - 0.5)) < 4 * found.standard_error < 0.03
    assert kl_divergence(f, g, seed=1) == kl_divergence(f, g, seed=1) != kl_divergence(f, g, seed=2)
    assert distance(f, g, "kl", samples=500) == kl_divergence(f, g, samples=500).value


def test_mw2_is_the_transport_cost_of_an_exhaustive_search(make) -> None:
    f, g = (GaussianMixture(np.full(4, 0.25), make(s, 4).means, make(s, 4).covariances) for s in (1, 2))

    def squared(i: int, j: int) -> float:
        a, b = f.covariances[i], g.covariances[j]
        root = np.real(sqrtm(a))
        return float(((f.means[i] - g.means[j]) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(root @ b @ root))))

    # With equal weights an optimal plan is a permutation (Birkhoff).
    best = min(sum(squared(i, j) for i, j in enumerate(order)) for order in permutations(range(4))) / 4
    assert distance(f, g, "mw2") == pytest.approx(math.sqrt(best), rel=1e-8)


@pytest.mark.parametrize("scale", [1e-8, 1e-5, 1e-3, 1e3, 1e8])
def test_mw2_is_in_the_units_of_the_space_however_small(make, scale: float) -> None:
    """A solver's absolute tolerances would call any transport of so small a mixture the best."""
    f, g = make(5, 8), make(6, 7)
    small = [m.affine(scale * np.eye(2)) for m in (f, g)]
    assert distance(*small, "mw2") == pytest.approx(scale * distance(f, g, "mw2"), rel=1e-9)


@pytest.mark.parametrize("weight", [1e-3, 1e-8, 1e-13])
def test_mw2_to_one_gaussian_has_its_closed_form_for_the_lightest_component_too(weight: float) -> None:
    far = 10 / math.sqrt(weight)
    f = GaussianMixture([1 - weight, weight], [[0.0], [far]], np.ones((2, 1, 1)))
    assert distance(f, normal(0), "mw2") == pytest.approx(10, rel=1e-9)  # sqrt(weight) * far
    pair = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], np.ones((2, 1, 1)))
    # The light one goes to 1 and the other half a weight less: each by hand.
    squared = weight * (far - 1) ** 2 + 1 - weight
    assert distance(f, pair, "mw2") == pytest.approx(math.sqrt(squared), rel=1e-9)


def test_pairwise_distances_are_the_distances(make) -> None:
    mixtures = [make(seed) for seed in range(3)]
    for metric in ("angle", "kl"):
        table = pairwise_distances(mixtures, metric)
        expected = [
            [0 if i == j else distance(a, b, metric) for j, b in enumerate(mixtures)] for i, a in enumerate(mixtures)
        ]
        np.testing.assert_allclose(table, expected, rtol=1e-12)


def counted_inner_products(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Count the double sums; each entry says whether the two mixtures are the same."""
    calls: list[bool] = []
    for kernels in (compiled, vectorised):

        def log_inner(f: Bounded, g: Bounded, same: bool, original=kernels.log_inner) -> float:
            calls.append(same)
            return original(f, g, same)

        monkeypatch.setattr(kernels, "log_inner", log_inner)
    return calls


@pytest.mark.parametrize("metric", ["angle", "ise", "cauchy-schwarz"])
def test_pairwise_distances_compute_every_norm_once(make, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixtures = [make(seed) for seed in range(20)]
    calls = counted_inner_products(monkeypatch)
    pairwise_distances(mixtures, metric)
    assert len(calls) == 210 and sum(calls) == 20


@pytest.mark.parametrize("n", [20, 40])
def test_a_reduction_computes_the_norm_of_the_original_once(make, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = make(1, n)
    log_inner_product(mixture, mixture)
    calls = counted_inner_products(monkeypatch)
    same = GaussianMixture(mixture.weights, mixture.means, mixture.covariances)
    for reduced_mixture in (mixture, same):
        calls.clear()
        reduction = reduce(reduced_mixture, 4)
        assert reduction.distance > 0 and calls.count(False) > 0  # the race computes its own
        norms_of_reduced = calls.count(True)
        if reduced_mixture is mixture:
            known = norms_of_reduced
    assert norms_of_reduced == known + 1  # the same reduction with an unknown norm of the original costs one more


def test_bad_input_is_named(make) -> None:
    f, g = make(1, d=2), make(1, d=3)
    for metric in available_metrics():
        with pytest.raises(InputError, match="2 and 3 dimensions"):
            distance(f, g, metric)
    with pytest.raises(InputError, match="metric 'cosine' is unknown; expected: angle, chord"):
        distance(f, f, "cosine")
    with pytest.raises(InputError, match="samples must be a whole number >= 2, got 1"):
        kl_divergence(f, f, samples=1)
    with pytest.raises(InputError, match="2 and 3 dimensions"):
        log_kernels(f, g)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e7, 1e9])
@pytest.mark.parametrize("change", [None, 1e-1, 1e-6])
@pytest.mark.filterwarnings("ignore:a covariance of condition")
def test_the_error_of_an_angle_is_within_its_estimate(condition: float, change: float | None) -> None:
    draw = np.random.default_rng(1)
    turns = np.linalg.qr(draw.normal(size=(3, 3, 3)))[0]
    covariances = (turns * np.geomspace(1, 1 / condition, 3)) @ turns.swapaxes(1, 2)
    f = GaussianMixture([0.2, 0.3, 0.5], draw.normal(size=(3, 3)) * condition**-0.5, covariances)
    g = GaussianMixture(f.weights[::-1], f.means, f.covariances)
    if change is not None:
        means = f.means + change * draw.normal(size=(3, 3)) * condition**-0.5
        g = GaussianMixture(f.weights, means, f.covariances * (1 + change))
    value, error = distance(f, g, return_error=True)
    assert abs(value - exact_angle(f, g)) < error < 1e-4 * value


def test_only_a_condition_that_spoils_the_angle_causes_a_warning() -> None:
    scales = np.diag([1e9, 1.0])  # of variables in different units: no rounding error comes from it
    f = GaussianMixture([1.0], np.zeros((1, 2)), scales[None])
    g = GaussianMixture([1.0], np.ones((1, 2)), scales[None])
    assert distance(f, g, return_error=True).error < 1e-13
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    with pytest.warns(AccuracyWarning):
        distance(f.affine(turn), g.affine(turn))


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_nearly_equal_mixtures_of_unlike_counts_keep_their_digits(make, kind: str, size: float) -> None:
    f = make(3, 4, 2).convert(kind)
    split = np.array([0, 0, 1, 2, 3])
    weights, means = f.weights[split] * np.array([0.3, 0.7, 1, 1, 1]), f.means[split].copy()
    means[0] += size
    moved = GaussianMixture(weights, means, f.covariances[split])
    means[1] -= 3 / 7 * size  # the halves keep their common mean: the difference is of second order
    balanced = GaussianMixture(weights, means, f.covariances[split])
    extra = [np.concatenate([x, x[:1]]) for x in (f.weights, f.means, f.covariances)]
    extra[0][4], extra[1][4] = size, 5.0
    added = GaussianMixture(*extra, normalize=True)
    for g in (moved, balanced, added):
        exact = exact_angle(f.convert("full"), g.convert("full"))
        for pair in ((f, g), (g, f)):
            value, error = distance(*pair, return_error=True)
            assert abs(value - exact) < error < 1e-13 + 1e-12 * exact


def test_an_angle_without_a_difference_form_is_reported_with_its_error() -> None:
    # Each has a narrow component that is far from all of the other's, and of too little weight to count.
    f = GaussianMixture([1 - 1e-20, 1e-20], [0.0, 9.0], [1.0, 0.1])
    g = GaussianMixture([0.5, 0.5, 0.0], [0.0, 1e-9, 0.0], [1.0, 1.0, 1.0])
    value, error = distance(f, g, return_error=True)
    assert value <= error < 1e-7
    for metric in ("l2", "mw2"):
        with pytest.raises(InputError, match=f"return_error for {metric}; expected: angle, chord, sine, kl"):
            distance(f, g, metric, return_error=True)
    estimate = kl_divergence(f, g, samples=100)
    assert distance(f, g, "kl", samples=100, return_error=True) == tuple(estimate)


def test_kl_takes_generators_and_random_states(make) -> None:
    f, g = make(1), make(2)
    assert kl_divergence(f, g, samples=50, seed=3) == kl_divergence(f, g, samples=50, random_state=3)
    draw = np.random.default_rng(3)
    first, second = (kl_divergence(f, g, samples=50, seed=draw) for _ in range(2))
    assert first != second
    assert first == kl_divergence(f, g, samples=50, random_state=np.random.default_rng(3))
