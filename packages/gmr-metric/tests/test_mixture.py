from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.density import algebra
from gmr_metric.density.mixture import GaussianMixture
from hypothesis import given, settings, strategies as st
from scipy.stats import multivariate_normal
from sextet_common.errors import InputError

EYE = np.eye(2)[None]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 4))
def test_the_density_is_scipys_weighted_sum(make, seed: int, n: int, d: int) -> None:
    mixture = make(seed, n, d)
    points = 3 * np.random.default_rng(seed).normal(size=(7, d))
    expected = sum(
        w * multivariate_normal(m, p).pdf(points).reshape(7)
        for w, m, p in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    )
    np.testing.assert_allclose(mixture.pdf(points), expected, rtol=1e-9)


def test_the_log_density_survives_where_the_density_underflows() -> None:
    unit = GaussianMixture([1.0, 0.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]])
    assert unit.pdf(np.array([[1000.0]]))[0] == 0
    assert unit.logpdf(np.array([[1000.0]]))[0] == pytest.approx(-500000 - 0.5 * np.log(2 * np.pi), rel=1e-12)


def test_the_density_is_the_same_in_blocks(make, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, points = make(4), np.random.default_rng(4).normal(size=(7, 2))
    whole = mixture.logpdf(points)
    monkeypatch.setattr(algebra, "_BLOCK", 2 * 3 * 2)  # two points of three components in two dimensions
    np.testing.assert_array_equal(mixture.logpdf(points), whole)


@pytest.mark.parametrize("d", [1, 3])
def test_samples_have_the_mixtures_moments_and_repeat(make, d: int) -> None:
    mixture, size = make(5, 4, d), 100_000
    points = mixture.sample(size, seed=3)
    error = np.sqrt(np.diag(mixture.covariance()) / size)
    assert (np.abs(points.mean(axis=0) - mixture.mean()) < 5 * error).all()
    spread = np.sqrt(np.outer(np.diag(mixture.covariance()), np.diag(mixture.covariance())) / size)
    assert (np.abs(np.cov(points.T).reshape(d, d) - mixture.covariance()) < 10 * spread).all()
    np.testing.assert_array_equal(points, mixture.sample(size, seed=3))
    assert not np.array_equal(points, mixture.sample(size, seed=4))


def test_marginal_times_conditional_is_the_joint_density(make) -> None:
    joint = make(7, 4, 3)
    for point in np.random.default_rng(0).normal(size=(5, 3)):
        known = joint.marginal([2, 0]).pdf(point[[2, 0]][None])
        rest = joint.condition([2, 0], point[[2, 0]]).pdf(point[[1]][None])
        np.testing.assert_allclose(known * rest, joint.pdf(point[None]), rtol=1e-10)


def test_an_affine_image_has_the_density_of_a_change_of_variables(make) -> None:
    mixture = make(8)
    matrix, offset = np.array([[2.0, 1.0], [0.5, -1.0]]), np.array([3.0, -2.0])
    points = np.random.default_rng(1).normal(size=(6, 2))
    image = mixture.affine(matrix, offset).pdf(points @ matrix.T + offset)
    np.testing.assert_allclose(image * abs(np.linalg.det(matrix)), mixture.pdf(points), rtol=1e-10)
    flat = mixture.affine(np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(flat.pdf(points[:, :1]), mixture.marginal([0]).pdf(points[:, :1]), rtol=1e-12)


def test_a_product_is_proportional_to_the_product_of_densities(make) -> None:
    f, g = make(1), make(2, 4)
    points = np.random.default_rng(2).normal(size=(6, 2))
    ratio = f.product(g).pdf(points) / (f.pdf(points) * g.pdf(points))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert len(f.product(g)) == 12


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_a_saved_mixture_is_loaded_to_the_last_bit(make, tmp_path: Path, ending: str) -> None:
    make(3).save(tmp_path / f"m.{ending}")
    loaded = GaussianMixture.load(tmp_path / f"m.{ending}")
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(make(3), name))


def test_every_fault_of_a_file_names_it(make, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    make(3).save(path)
    table = json.loads(path.read_text())
    faults = {
        '{"format": "gmr': "cannot be read",
        "[]": "cannot be read",
        "[" * 100_000: "cannot be read",
        json.dumps({**table, "weights": [1, 1, 1]}): "weights sum to 3",
        json.dumps({**table, "version": 2}): "of version 2; expected: a gmr-metric mixture of version 1",
        json.dumps({k: v for k, v in table.items() if k != "means"}): "cannot be read: 'means'",
        json.dumps({**table, "means": [[1, 2], [3]]}): "means must be an array of numbers",
    }
    for text, match in faults.items():
        path.write_text(text)
        with pytest.raises(InputError, match=match) as raised:
            GaussianMixture.load(path)
        assert "m.json" in str(raised.value)
    for name in ("none.json", "none.npz"):
        with pytest.raises(InputError, match="does not exist"):
            GaussianMixture.load(tmp_path / name)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=r"bad\.npz cannot be read"):
        GaussianMixture.load(tmp_path / "bad.npz")
    with pytest.raises(InputError, match="has an unknown suffix"):
        make(3).save(tmp_path / "m.pickle")


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "match"),
    [
        ([0.5, 0.6], np.zeros((2, 2)), np.repeat(EYE, 2, 0), "weights sum to 1.1; expected: 1 within 1e-08"),
        ([1.5, -0.5], np.zeros((2, 2)), np.repeat(EYE, 2, 0), "weight 1 must be >= 0, got -0.5"),
        ([0.5, 0.5], np.zeros((2, 2)), [np.eye(2), -np.eye(2)], r"covariance 1 is not positive definite.* -1;"),
        (
            [1.0],
            np.zeros((1, 2)),
            [[[1.0, 0.5], [0.0, 1.0]]],
            "covariance 0 must be symmetric, but entries differ by 0.5",
        ),
        ([1.0], [[0.0, np.nan]], EYE, r"means\[0, 1\] must be finite, got nan"),
        ([1.0], np.zeros((2, 2)), EYE, "shapes do not match"),
        ([1.0], np.zeros(2), EYE, r"shapes do not match: weights \(1,\), means \(2, 1\)"),
        ([1.0], np.zeros((1, 1, 1)), EYE, r"shapes do not match: .*means \(1, 1, 1\)"),
        ([1.0], np.zeros((1, 2)), [[1.0, 0.0]], r"variance 0, 1 must be > 0, got 0"),
        ([0.5, 0.5], np.zeros((2, 2)), [1.0, -3.0], r"variance 1 must be > 0, got -3"),
        (
            [1.0],
            np.zeros((1, 2)),
            np.ones((1, 3)),
            r"covariances \(1, 3\); expected: .* \(1, 2, 2\), \(1, 2\) or \(1,\)",
        ),
        ([], np.zeros((0, 2)), np.zeros((0, 2, 2)), "shapes do not match"),
        (["a"], np.zeros((1, 2)), EYE, "weights must be an array of numbers"),
    ],
)
def test_what_is_no_mixture_is_refused_by_name(weights, means, covariances, match: str) -> None:
    with pytest.raises(InputError, match=match):
        GaussianMixture(weights, means, covariances)


def test_any_positive_sum_is_accepted_with_normalize() -> None:
    found = GaussianMixture([1, 3], np.zeros((2, 1)), np.ones((2, 1, 1)), normalize=True)
    assert found.weights.tolist() == [0.25, 0.75]
    with pytest.raises(InputError, match="weights sum to 0"):
        GaussianMixture([0.0], np.zeros((1, 1)), np.ones((1, 1, 1)), normalize=True)


def test_the_value_is_frozen_and_apart_from_what_it_was_made_of() -> None:
    means = np.zeros((1, 2))
    mixture = GaussianMixture([1.0], means, EYE)
    means[0, 0] = 5
    assert mixture.means[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        mixture.means[0, 0] = 1


@pytest.mark.parametrize("dims", [[], [0, 0], [2], [-1], [0.5], 1])
def test_dimensions_that_are_not_there_are_refused(make, dims: object) -> None:
    with pytest.raises(InputError, match="different whole numbers from 0 to 1"):
        make(1).marginal(dims)


def test_other_shapes_are_refused_by_every_operation(make) -> None:
    mixture = make(1)
    with pytest.raises(InputError, match=r"points must have shape \(any, 2\), got \(1, 3\)"):
        mixture.logpdf(np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"matrix must have shape \(any, 2\), got \(3, 3\)"):
        mixture.affine(np.eye(3))
    with pytest.raises(InputError, match="at least one dimension left"):
        mixture.condition([0, 1], [0.0, 0.0])
    with pytest.raises(InputError, match="2 and 3 dimensions"):
        mixture.product(make(1, d=3))
    with pytest.raises(InputError, match="size must be a whole number >= 0, got -1"):
        mixture.sample(-1)


def test_weights_that_sum_to_one_in_single_precision_are_scaled() -> None:
    weights = np.array([0.3, 0.3 + 4e-6, 0.4], dtype=np.float32)
    exact = weights.astype(np.float64)
    mixture = GaussianMixture(weights, np.zeros(3), np.ones(3))
    np.testing.assert_allclose(mixture.weights, exact / exact.sum(), rtol=1e-15)
    with pytest.raises(InputError, match="expected: 1 within 1e-08"):
        GaussianMixture(exact, np.zeros(3), np.ones(3))
    for dtype in (np.float32, np.float16):
        with pytest.raises(InputError, match="expected: 1 within 1e-05"):
            GaussianMixture(weights.astype(dtype) * dtype(1.01), np.zeros(3), np.ones(3))


def test_means_in_one_dimension_may_be_flat() -> None:
    flat = GaussianMixture([0.5, 0.5], [0.0, 1.0], [1.0, 2.0])
    assert flat.means.shape == (2, 1)
    assert flat == GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[2.0]]])


def test_copies_and_pickles_are_equal_values_and_read_only(make) -> None:
    mixture = make(1)
    mixture.sample(1)  # fills a cache
    for other in (copy.copy(mixture), copy.deepcopy(mixture), pickle.loads(pickle.dumps(mixture))):
        assert other == mixture
        assert hash(other) == hash(mixture)
        assert not any(getattr(other, name).flags.writeable for name in ("weights", "means", "covariances"))
    changed = GaussianMixture(mixture.weights, mixture.means + 1e-15, mixture.covariances)
    assert changed != mixture
    assert mixture != "a mixture"
    assert mixture != mixture.subset([0])
    assert GaussianMixture([1.0], [0.0], [1.0]) == GaussianMixture([1.0], [-0.0], [1.0])
    assert len({GaussianMixture([1.0], [0.0], [1.0]), GaussianMixture([1.0], [-0.0], [1.0])}) == 1


def test_an_array_that_nobody_can_change_is_not_copied(make) -> None:
    mixture = make(1)
    assert GaussianMixture(mixture.weights, mixture.means, mixture.covariances).means is mixture.means


def test_seeds_generators_and_random_states_draw_alike(make) -> None:
    mixture = make(1)
    np.testing.assert_array_equal(mixture.sample(4, 3), mixture.sample(4, random_state=3))
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    points = mixture.sample(4, first)
    np.testing.assert_array_equal(points, mixture.sample(4, random_state=second))
    assert not np.array_equal(points, mixture.sample(4, first))  # it has moved on
    legacy = [mixture.sample(4, random_state=np.random.RandomState(7)) for _ in range(2)]
    np.testing.assert_array_equal(*legacy)
    with pytest.raises(InputError, match="seed must be a whole number >= 0, got -1"):
        mixture.sample(4, random_state=-1)
