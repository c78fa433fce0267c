"""The density of a stream: what is kept exactly, what is forgotten, and how near it is to a batch estimate."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.streaming import StreamingDensity
from scipy.stats import gaussian_kde
from sextet_common.errors import InputError


def two_moons(n: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    angle = np.pi * draw.random(n)
    upper = draw.random(n) < 0.5
    points = np.column_stack([np.cos(angle) + ~upper * 1.0, np.where(upper, 1, -1) * np.sin(angle) + upper * 0.3])
    return points + 0.15 * draw.normal(size=(n, 2))


def fed(density: StreamingDensity, points: np.ndarray, chunks: int = 1) -> StreamingDensity:
    for chunk in np.array_split(points, chunks):
        density.update(chunk)
    return density


def assert_identical(f: GaussianMixture, g: GaussianMixture) -> None:
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(f, name), getattr(g, name))


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.3])
def test_few_points_give_the_kernel_estimate_of_scipy(bandwidth: str | float) -> None:
    points = two_moons(40)
    density = fed(StreamingDensity(50, bandwidth=bandwidth), points, 3)
    expected = gaussian_kde(points.T, bandwidth).logpdf(points.T)
    np.testing.assert_allclose(density.logpdf(points), expected, rtol=1e-12)
    np.testing.assert_allclose(density.pdf(points), np.exp(expected), rtol=1e-11)


def test_forgotten_points_weigh_as_in_scipys_weighted_estimate() -> None:
    points = two_moons(40)
    weights = 0.5 ** (np.arange(39, -1, -1) / 7)
    expected = gaussian_kde(points.T, weights=weights)
    density = fed(StreamingDensity(20, forgetting=7, bandwidth="scott", buffer=100), points)
    assert density.n_effective == pytest.approx(expected.neff, rel=1e-12)
    many = fed(StreamingDensity(64, forgetting=7, bandwidth="scott", buffer=9), points)
    assert many.n_effective == pytest.approx(expected.neff, rel=1e-12)
    np.testing.assert_allclose(many.logpdf(points), expected.logpdf(points.T), rtol=1e-11)


@pytest.mark.parametrize("method", ["oggmr", "runnalls", "prune"])
@pytest.mark.parametrize("forgetting", [None, 300.0])
def test_mean_and_covariance_stay_exact_and_the_kernel_is_added_once(method: str, forgetting: float | None) -> None:
    points = two_moons(1234) + 1000
    kernel = np.array([[0.02, 0.01], [0.01, 0.03]])
    density = fed(StreamingDensity(15, forgetting=forgetting, bandwidth=kernel, method=method), points)
    weights = np.ones(len(points)) if forgetting is None else 0.5 ** (np.arange(len(points))[::-1] / forgetting)
    mixture = density.mixture
    assert len(mixture) == 15 and density.n_seen == 1234
    np.testing.assert_allclose(mixture.mean(), np.average(points, axis=0, weights=weights), rtol=1e-13)
    expected = np.cov(points.T, aweights=weights, ddof=0) + kernel
    np.testing.assert_allclose(mixture.covariance(), expected, rtol=1e-9)


def test_the_division_into_chunks_changes_no_number() -> None:
    points = two_moons(700)
    for options in ({}, {"forgetting": 100.0, "buffer": 33}):
        whole = fed(StreamingDensity(12, **options), points)
        for chunks in (3, 70, 700):
            assert_identical(fed(StreamingDensity(12, **options), points, chunks).mixture, whole.mixture)


def test_reading_between_updates_changes_no_number() -> None:
    points = two_moons(300)
    density = StreamingDensity(10)
    for chunk in np.array_split(points, 20):
        density.update(chunk)
        assert len(density.mixture) <= 10
    assert_identical(density.mixture, fed(StreamingDensity(10), points).mixture)


@pytest.mark.parametrize("name", ["state.npz", "state.safetensors"])
@pytest.mark.parametrize("bandwidth", ["predictive", 0.2, [[0.1, 0.0], [0.0, 0.2]]])
def test_a_loaded_state_continues_with_the_same_numbers(name: str, bandwidth: object, tmp_path: Path) -> None:
    points = two_moons(500)
    density = fed(StreamingDensity(10, forgetting=200, bandwidth=bandwidth, method="runnalls"), points[:333])
    density.save(tmp_path / name)
    loaded = StreamingDensity.load(tmp_path / name)
    assert loaded.n_seen == 333
    assert_identical(fed(loaded, points[333:]).mixture, fed(density, points[333:]).mixture)


def test_an_empty_stream_can_be_saved(tmp_path: Path) -> None:
    StreamingDensity(7, bandwidth="scott").save(tmp_path / "s.npz")
    loaded = StreamingDensity.load(tmp_path / "s.npz")
    assert (loaded.n_components, loaded.bandwidth, loaded.n_seen, loaded.n_effective) == (7, "scott", 0, 0)


def test_held_out_points_are_as_likely_as_under_scipys_estimate_of_all_points() -> None:
    points, held_out = two_moons(3000), two_moons(1000, seed=1)
    factors = 2.0 ** np.arange(-4, 1) * len(points) ** (-1 / 6)
    batch = max(gaussian_kde(points.T, factor).logpdf(held_out.T).mean() for factor in factors)  # its best, unfairly
    stream = fed(StreamingDensity(40), points).logpdf(held_out).mean()
    assert stream > batch - 0.05


def test_the_bandwidth_is_the_best_of_leave_one_out() -> None:
    points = np.concatenate([two_moons(30), two_moons(30) + np.array([50, 0])])
    density = fed(StreamingDensity(60, buffer=100), points)
    scott = len(points) ** (-1 / 6)
    covariance = np.cov(points.T)

    def left_out(factor: float) -> float:
        kernel = factor**2 * covariance
        rest = (GaussianMixture.from_kde(np.delete(points, k, axis=0), kernel) for k in range(len(points)))
        return sum(float(f.logpdf(points[[k]])[0]) for k, f in enumerate(rest))

    best = max((scott * 2 ** (k / 2) for k in range(-12, 3)), key=left_out)
    assert best < scott / 4
    np.testing.assert_allclose(density.mixture.covariances[0], best**2 * covariance, rtol=1e-12)


def test_forgetting_follows_a_drift() -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(4000, 1)) + np.arange(4000)[:, None] / 200
    late = draw.normal(size=(500, 1)) + 20
    scores = [fed(StreamingDensity(15, forgetting=h), points).logpdf(late).mean() for h in (None, 200)]
    assert scores[1] > scores[0] + 1


def test_a_million_half_lives_leave_finite_numbers() -> None:
    points = two_moons(2000)
    density = fed(StreamingDensity(5, forgetting=0.7, buffer=50, bandwidth=0.5), points)
    assert density.n_effective == pytest.approx((1 + density._decay) / (1 - density._decay))
    assert np.isfinite(density.logpdf(points)).all()


def test_points_on_a_line_are_refused_and_nothing_is_taken_in() -> None:
    density = StreamingDensity(3, buffer=4)
    density.update(two_moons(3))
    flat = np.column_stack([np.arange(20.0), np.ones(20)])
    fresh = StreamingDensity(3, buffer=4)
    with pytest.raises(InputError, match="span 1 of 2 dimensions; expected: more points"):
        fresh.update(flat)
    assert fresh.n_seen == 0
    fixed = fed(StreamingDensity(3, bandwidth=np.eye(2), buffer=4), flat)
    np.testing.assert_allclose(fixed.mixture.mean(), [9.5, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_components": 0}, "n_components must be a whole number >= 1, got 0"),
        ({"forgetting": 0}, "forgetting must be a number > 0, got 0"),
        ({"buffer": 1.5}, "buffer must be a whole number >= 1"),
        ({"bandwidth": "best"}, "bandwidth must be predictive, scott or silverman, got 'best'"),
        ({"bandwidth": -1.0}, "bandwidth must be a number > 0"),
        ({"bandwidth": -np.eye(2)}, "bandwidth is not positive definite"),
        ({"method": "best"}, "method 'best' is unknown"),
        ({"method": "runnalls", "options": {"gate": 1}}, "runnalls has no option 'gate'"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        StreamingDensity(**arguments)


def test_bad_points_and_files_are_refused(tmp_path: Path) -> None:
    density = StreamingDensity(3)
    with pytest.raises(InputError, match="no points yet"):
        _ = density.mixture
    density.update(np.zeros((1, 2)))
    for wrong in (np.zeros(3), np.zeros((2, 3)), [[np.nan, 0]]):
        with pytest.raises(InputError, match="points"):
            density.update(wrong)
    with pytest.raises(InputError, match=r"bandwidth has shape \(2, 2\)"):
        StreamingDensity(bandwidth=np.eye(2)).update(np.zeros((1, 3)))
    with pytest.raises(InputError, match="suffix"):
        density.save(tmp_path / "state.txt")
    GaussianMixture([1.0], [[0.0]], [[[1.0]]]).save(tmp_path / "m.npz")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    for name in ("m.npz", "broken.safetensors", "none.npz"):
        with pytest.raises(InputError, match=name):
            StreamingDensity.load(tmp_path / name)
