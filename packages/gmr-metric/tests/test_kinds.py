"""Diagonal and spherical covariances: the same mixture with full covariances gives the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gmr_metric import (
    distance,
    inner_product,
    log_inner_product,
    log_inner_product_gradients,
    merge_groups,
    norm,
    pairwise_distances,
    reduce,
    refine,
)
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances import costs, screening
from gmr_metric.distances.inner import log_kernels
from gmr_metric.interop.hub import export_hub
from gmr_metric.loops.columns import columns, whitened, whitening
from gmr_metric.plotting import ellipses
from gmr_metric.reduction.barycentres import barycentre
from gmr_metric.reduction.outcome import nearest_centres
from sextet_common.errors import InputError

TYPES = ("diag", "spherical")
SHAPES = [(3, 1), (4, 2), (5, 3), (4, 14)]


def mixture(seed: int, kind: str, n: int = 4, d: int = 3) -> GaussianMixture:
    draw = np.random.default_rng(seed)
    covariances = draw.uniform(0.3, 2.0, size=(n, d) if kind == "diag" else n)
    return GaussianMixture(draw.random(n) + 0.1, draw.normal(size=(n, d)), covariances, normalize=True)


def same(ours: GaussianMixture, full: GaussianMixture, rtol: float = 1e-12) -> None:
    """Compare with a full mixture."""
    assert full.covariance_type == "full"
    np.testing.assert_allclose(ours.weights, full.weights, rtol=rtol)
    np.testing.assert_allclose(ours.means, full.means, rtol=rtol, atol=1e-14)
    np.testing.assert_allclose(ours.convert("full").covariances, full.covariances, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_every_operation_on_a_mixture_agrees_with_full_covariances(kind: str, n: int, d: int) -> None:
    ours = mixture(1, kind, n, d)
    full = ours.convert("full")
    draw = np.random.default_rng(2)
    points = draw.normal(size=(9, d))
    assert (ours.covariance_type, full.covariance_type) == (kind, "full")
    np.testing.assert_allclose(ours.logpdf(points), full.logpdf(points), rtol=1e-12)
    np.testing.assert_allclose(ours.sample(5, seed=1), full.sample(5, seed=1), rtol=1e-12)
    np.testing.assert_allclose(ours.covariance(), full.covariance(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(ours.variances(), np.diag(full.covariance()), rtol=1e-12)
    np.testing.assert_allclose(full.variances(), np.diag(full.covariance()), rtol=1e-12)
    factors = full.cholesky[:, range(d), range(d)]
    np.testing.assert_allclose(ours.cholesky if kind == "diag" else ours.cholesky[:, None] + 0 * factors, factors)
    other = mixture(3, kind, 2, d)
    product = ours.product(other)
    assert product.covariance_type == kind
    same(product, full.product(other.convert("full")))
    same(ours.subset([1, 0]), full.subset([1, 0]))
    if d > 1:
        for found, expected in (
            (ours.condition([d - 1], [0.3]), full.condition([d - 1], [0.3])),
            (ours.marginal([1, 0]), full.marginal([1, 0])),
        ):
            assert found.covariance_type == kind
            same(found, expected)


@pytest.mark.parametrize("kind", TYPES)
def test_an_affine_map_states_its_type_by_the_shape_of_the_matrix(kind: str) -> None:
    ours, matrix = mixture(1, kind), np.random.default_rng(0).normal(size=(2, 3))
    assert ours.affine(matrix, 1.0).covariance_type == "full"
    same(ours.affine(matrix, 1.0), ours.convert("full").affine(matrix, 1.0))
    scales = np.array([2.0, 0.5, -1.0])
    for given in (scales, 3.0):
        for start in (ours, ours.convert("full")):
            same(start.affine(given, scales).convert("full"), ours.convert("full").affine(given * np.eye(3), scales))
    assert ours.affine(scales).covariance_type == "diag"
    assert ours.affine(3.0).covariance_type == kind


@pytest.mark.parametrize("kind", TYPES)
def test_a_conversion_downwards_projects_to_the_variances_and_their_mean(make, kind: str) -> None:
    full = make(1)
    variances = np.diagonal(full.covariances, axis1=1, axis2=2)
    expected = variances if kind == "diag" else variances.mean(axis=1)
    np.testing.assert_array_equal(full.convert(kind).covariances, expected)
    assert full.convert("full") is full
    with pytest.raises(InputError, match="covariance_type"):
        full.convert("tied")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("ending", ["json", "npz", "safetensors"])
def test_files_and_hub_folders_keep_the_type(kind: str, ending: str, tmp_path: Path) -> None:
    ours = mixture(1, kind)
    ours.save(tmp_path / f"m.{ending}")
    loaded = GaussianMixture.load(tmp_path / f"m.{ending}")
    assert loaded == ours
    assert loaded.covariance_type == kind
    export_hub(ours, tmp_path / "folder")
    assert GaussianMixture.from_pretrained(tmp_path / "folder") == ours
    text = (tmp_path / "folder" / "README.md").read_text()
    assert f"of type {kind} ({' x '.join(map(str, ours.covariances.shape))})" in text


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_inner_products_distances_and_gradients_agree_with_full_covariances(kind: str, n: int, d: int) -> None:
    f, g = mixture(1, kind, n, d), mixture(2, kind, n + 1, d)
    both = f.convert("full"), g.convert("full")
    assert log_inner_product(f, g) == pytest.approx(log_inner_product(*both), rel=1e-12)
    assert norm(f) == pytest.approx(norm(both[0]), rel=1e-12)
    np.testing.assert_allclose(log_kernels(f, g), log_kernels(*both), rtol=1e-12)
    for metric in ("angle", "chord", "sine", "l2", "ise", "nise", "cauchy-schwarz", "mw2", "kl"):
        assert distance(f, g, metric, samples=50) == pytest.approx(distance(*both, metric, samples=50), rel=1e-11)
    for table in (costs.kullback_leibler, costs.squared_wasserstein, costs.cauchy_schwarz):
        np.testing.assert_allclose(table(f, g), table(*both), rtol=1e-11, atol=1e-13)
    value, ours = log_inner_product_gradients(f, g)
    expected, full = log_inner_product_gradients(*both)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(ours.weights, full.weights, rtol=1e-11)
    np.testing.assert_allclose(ours.means, full.means, rtol=1e-11, atol=1e-14)
    by_variance = np.diagonal(full.covariances, axis1=1, axis2=2)
    projected = by_variance if kind == "diag" else by_variance.sum(axis=1)
    np.testing.assert_allclose(ours.covariances, projected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("zero_weights", [False, True])
@pytest.mark.parametrize("spread", [0.3, 30.0, 1e12])
def test_screened_inner_products_are_those_of_all_pairs(
    kind: str, zero_weights: bool, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "_ROWS", 256)
    draw = np.random.default_rng(5)
    n, d = 600, 40  # three blocks
    variances = np.exp(draw.normal(size=(n, d) if kind == "diag" else n, scale=3 if spread == 30 else 0.3))
    means = draw.normal(size=(n, d)) * spread
    means[n // 2 :] = means[: n - n // 2] + 0.1 * draw.normal(size=(n - n // 2, d))  # some pairs are near
    weights = draw.random(n) * (draw.random(n) > 0.5 * zero_weights)
    f = GaussianMixture(weights, means, variances, normalize=True)
    g = f.subset(np.flatnonzero(f.weights)[:300])
    for a, b in ((f, g), (g, f), (f, f)):
        with np.errstate(divide="ignore"):
            terms = log_kernels(a, b) + np.log(a.weights)[:, None] + np.log(b.weights)
        expected = terms.max() + math.log(np.exp(terms - terms.max()).sum())
        assert screening.screened_log_inner(a, b) == pytest.approx(expected, rel=1e-13)


def test_disjoint_mixtures_have_a_finite_log_inner_product() -> None:
    near, far = mixture(1, "diag", 50, 60), mixture(2, "diag", 60, 60).affine(1.0, 1e4)
    expected = log_inner_product(near.convert("full"), far.convert("full"))
    assert screening.screened_log_inner(near, far) == pytest.approx(expected, rel=1e-12)
    assert inner_product(near, far) == 0


@pytest.mark.parametrize(("first", "second", "remedy"), [("full", "diag", "full"), ("spherical", "diag", "diag")])
def test_mixtures_of_different_types_are_refused_with_the_remedy(make, first: str, second: str, remedy: str) -> None:
    f, g = make(1).convert(first), make(2).convert(second)
    match = rf"of type {first} and {second}; expected: one type: convert one with \.convert\('{remedy}'\)"
    for function in (distance, log_inner_product, log_inner_product_gradients, costs.kullback_leibler, refine):
        with pytest.raises(InputError, match=match):
            function(f, g)
    with pytest.raises(InputError, match=match):
        f.product(g)
    with pytest.raises(InputError, match=match):
        pairwise_distances([f, g])


def test_in_one_dimension_types_mix_freely() -> None:
    f = mixture(1, "spherical", 4, 1)
    others = [mixture(2, "spherical", 3, 1).convert(kind) for kind in ("full", "diag", "spherical")]
    for metric in ("angle", "mw2", "l2", "kl"):
        values = [distance(f, g, metric, samples=20) for g in others]
        values += [distance(g, f, metric, samples=20) for g in others] if metric != "kl" else []
        np.testing.assert_allclose(values, values[0], rtol=1e-12)
    assert f == f.convert("full") == f.convert("diag")
    assert len({f, f.convert("full"), f.convert("diag")}) == 1
    assert nearest_centres(f, others[0]).tolist() == nearest_centres(f, others[2]).tolist()
    assert f.product(others[0]).covariance_type == "spherical"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_columns_and_whitening_keep_the_type_and_the_angle(kind: str, n: int, d: int) -> None:
    f, g = mixture(1, kind, n, d), mixture(2, kind, n, d)
    full = f.convert("full")
    by, other = whitening(f), whitened(g, f)
    assert by.factor.shape == {"diag": (d,), "spherical": ()}[kind] if d > 1 else (1, 1)
    assert by.log_volume == pytest.approx(np.linalg.slogdet(by.factor * np.eye(d))[1])
    same(whitened(f).mixture(by), full)
    assert distance(whitened(f).mixture(), other.mixture()) == pytest.approx(distance(f, g), rel=1e-12)
    ours, theirs = columns(f), columns(full)
    np.testing.assert_allclose(ours.log_self(), theirs.log_self(), rtol=1e-12)
    np.testing.assert_allclose(ours.bounded().radii, theirs.bounded().radii, rtol=1e-12)
    i, j = np.array([0]), np.array([2])
    ours.merge(i, j)
    theirs.merge(i, j)
    projected = theirs.mixture().convert(kind).covariances.ravel()
    np.testing.assert_allclose(ours.mixture().convert(kind).covariances.ravel(), projected, rtol=1e-12)


@pytest.mark.parametrize("kind", TYPES)
def test_merges_are_those_of_full_covariances_projected(kind: str) -> None:
    f = mixture(1, kind, 5, 3)
    groups = np.array([0, 1, 0, 1, 1])
    merged, full = merge_groups(f, groups), merge_groups(f.convert("full"), groups)
    assert merged.covariance_type == kind
    np.testing.assert_allclose(merged.covariances, full.convert(kind).covariances, rtol=1e-12)
    np.testing.assert_allclose(merged.mean(), f.mean(), rtol=1e-12, atol=1e-14)
    expected = f.variances() if kind == "diag" else f.variances().sum()
    np.testing.assert_allclose(merged.variances() if kind == "diag" else merged.variances().sum(), expected)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("cost", ["kl", "w2", "cs"])
def test_a_barycentre_is_the_minimum_within_its_type(kind: str, cost: str) -> None:
    f = mixture(1, kind, 4, 2)
    table = {"kl": costs.kullback_leibler, "w2": costs.squared_wasserstein, "cs": costs.cauchy_schwarz}[cost]

    def average(mean: np.ndarray, covariance: np.ndarray) -> float:
        centre = GaussianMixture([1.0], mean[None], np.asarray(covariance)[None])
        return float(f.weights @ table(f, centre)[:, 0])

    found = barycentre(f, cost)
    assert np.shape(found.covariance) == f.covariances.shape[1:]
    best = average(*found)
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-1):
        for _ in range(20):
            mean = found.mean + size * draw.normal(size=2)
            covariance = found.covariance * np.exp(size * draw.normal(size=f.covariances.shape[1:]))
            assert average(mean, covariance) > best
    start = 3 * found.covariance
    np.testing.assert_allclose(barycentre(f, cost, start=start).covariance, found.covariance, rtol=1e-9)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prune", {}),
        ("threshold", {"gate": 3.0}),
        ("west", {}),
        ("west", {"weighting": "determinant"}),
        ("west", {"dissimilarity": "ise", "weighting": "trace"}),
    ],
)
def test_a_reduction_to_one_step_chooses_the_groups_of_full_covariances(kind: str, method: str, options: dict) -> None:
    f = mixture(4, kind, 8, 3)
    ours, full = (reduce(m, 7, method, **options) for m in (f, f.convert("full")))
    assert ours.mixture.covariance_type == kind
    np.testing.assert_array_equal(ours.assignment, full.assignment)
    np.testing.assert_allclose(ours.mixture.covariances, full.mixture.convert(kind).covariances, rtol=1e-10)
    assert [s.cost for s in ours.history] == pytest.approx([s.cost for s in full.history], rel=1e-9)


@pytest.mark.parametrize("kind", TYPES)
def test_brute_force_is_no_worse_than_every_partition(kind: str) -> None:
    f = mixture(4, kind, 6, 2)
    best = reduce(f, 2, "brute-force")
    angles = []
    for number in range(1, 2**5):
        groups = np.array([0, *((number >> k) & 1 for k in range(5))])
        angles.append(distance(f, merge_groups(f, groups)))
    assert best.distance == pytest.approx(min(angles), rel=1e-9)
    assert best.mixture.covariance_type == kind


@pytest.mark.parametrize("kind", TYPES)
def test_cowas_weights_are_the_best_for_its_components(kind: str) -> None:
    f = mixture(4, kind, 12, 3)
    reduced = reduce(f, 4, "cowa").mixture
    assert reduced.covariance_type == kind
    best = distance(f, reduced, "ise")
    draw = np.random.default_rng(0)
    for _ in range(30):
        weights = reduced.weights * np.exp(0.01 * draw.normal(size=len(reduced)))
        other = GaussianMixture(weights, reduced.means, reduced.covariances, normalize=True)
        assert distance(f, other, "ise") >= best * (1 - 1e-9)


def test_ellipses_of_diagonal_components_lie_on_the_axes() -> None:
    [wide, tall] = ellipses(GaussianMixture([0.5, 0.5], np.zeros((2, 2)), [[9.0, 4.0], [1.0, 4.0]]))
    assert (wide.axes, wide.angle % 180) == ((3.0, 2.0), 0.0)
    assert (tall.axes, abs(tall.angle)) == ((2.0, 1.0), 90.0)
