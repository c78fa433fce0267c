from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.filtering import Estimate, GaussianSumFilter, Model
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from sextet_common.errors import InputError

EXACT = GaussianSumFilter(n_components=None)


def single(mean: object, covariance: object) -> GaussianMixture:
    return GaussianMixture([1.0], [mean], [covariance])


def line(weights: list[float], means: list[float], deviations: list[float]) -> GaussianMixture:
    return GaussianMixture(weights, np.array(means)[:, None], np.square(deviations)[:, None, None])


def wrapped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a - b + np.pi) % (2 * np.pi) - np.pi)


def assert_same(f: GaussianMixture, g: GaussianMixture, rtol: float) -> None:
    for name in ("weights", "means", "covariances"):
        expected = getattr(g, name)
        np.testing.assert_allclose(getattr(f, name), expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_one_component_throughout_is_the_kalman_filter() -> None:
    draw = np.random.default_rng(0)
    f, h = draw.normal(size=(3, 3)) / 2, draw.normal(size=(2, 3))
    q, r = (np.cov(draw.normal(size=(d, 9))) for d in (3, 2))
    mean, covariance = draw.normal(size=3), np.cov(draw.normal(size=(3, 9)))
    measurements = draw.normal(size=(20, 2))
    found = EXACT.run(single(mean, covariance), measurements, Model(f, q), Model(h, r))
    for z, estimate in zip(measurements, found, strict=True):
        mean, covariance = f @ mean, f @ covariance @ f.T + q
        assert_same(estimate.predicted, single(mean, covariance), 1e-12)
        s = h @ covariance @ h.T + r
        assert estimate.log_likelihood == pytest.approx(multivariate_normal(h @ mean, s).logpdf(z), rel=1e-12)
        gain = covariance @ h.T @ np.linalg.inv(s)
        mean, covariance = mean + gain @ (z - h @ mean), (np.eye(3) - gain @ h) @ covariance
        assert_same(estimate.posterior, single(mean, covariance), 1e-12)


@pytest.mark.parametrize(("alpha", "beta", "kappa"), [(1, 0, 0), (1, 2, 0), (0.5, 2, -1), (1e-2, 2, 0), (1, 0, 2.5)])
def test_linear_functions_make_the_unscented_filter_the_linear_one(
    make, alpha: float, beta: float, kappa: float
) -> None:
    f, h = np.random.default_rng(1).normal(size=(2, 3, 3))
    h, process, noise, state = h[:2], make(1, 2, 3), make(2, 3, 2), make(3, 2, 3)
    unscented = GaussianSumFilter(None, alpha=alpha, beta=beta, kappa=kappa)
    measurements = [[0.3, -0.2], [1.0, 0.5]]
    linear = EXACT.run(state, measurements, Model(f, process), Model(h, noise))
    same = unscented.run(state, measurements, Model(lambda x: x @ f.T, process), Model(lambda x: x @ h.T, noise))
    for a, b in zip(linear, same, strict=True):
        # A small alpha divides differences of order alpha by alpha: it costs that many digits.
        assert_same(b.posterior, a.posterior, 1e-12 / alpha)
        assert b.log_likelihood == pytest.approx(a.log_likelihood, rel=1e-12 / alpha)


def test_the_log_likelihood_is_the_integral_of_prior_times_likelihood() -> None:
    state, noise = line([0.3, 0.7], [-1.0, 2.0], [0.5, 1.2]), line([0.9, 0.1], [0.0, 0.4], [0.3, 3.0])
    for z in (-2.0, 0.5, 9.0):
        posterior, found = EXACT.update(state, [z], Model([[2.0]], noise))

        def joint(x: float, z: float = z) -> float:
            return float(state.pdf([[x]])[0] * noise.pdf([[z - 2 * x]])[0])

        points = [z / 2, *state.means[:, 0]]
        evidence = quad(joint, -20, 20, points=points, epsabs=1e-14, limit=200)[0]
        assert found == pytest.approx(math.log(evidence), rel=1e-9)
        for x in (-1.0, z / 2, 1.7):
            assert posterior.pdf([[x]])[0] == pytest.approx(joint(x) / evidence, rel=1e-8)


def test_log_likelihoods_add_up_to_that_of_all_measurements_together(make) -> None:
    """Every choice of one component per noise makes the stacked measurements Gaussian: sum over all choices."""
    prior, process, noise = make(5, 2, 2), make(6, 2, 2), make(7, 2, 1)
    f, h = np.array([[1.0, 0.7], [-0.2, 0.9]]), np.array([[1.0, 0.5]])
    measurements = np.array([[0.5], [-1.5], [3.0]])
    steps = len(measurements)
    powers = [np.linalg.matrix_power(f, k) for k in range(steps + 1)]
    # Rows: measurements. Columns: the prior's state, each step's process noise, each step's measurement noise.
    effect = np.zeros((steps, 2 + 2 * steps + steps))
    for t in range(steps):
        effect[t, :2] = h @ powers[t + 1]
        for s in range(t + 1):
            effect[t, 2 + 2 * s : 4 + 2 * s] = h @ powers[t - s]
        effect[t, 2 + 2 * steps + t] = 1
    sources = [prior] + [process] * steps + [noise] * steps
    total = 0.0
    for choice in itertools.product(range(2), repeat=len(sources)):
        chosen = list(zip(sources, choice, strict=True))
        mean = np.concatenate([source.means[k] for source, k in chosen])
        covariance = np.zeros((len(mean), len(mean)))
        start = 0
        for source, k in chosen:
            covariance[start : start + source.dim, start : start + source.dim] = source.covariances[k]
            start += source.dim
        density = multivariate_normal(effect @ mean, effect @ covariance @ effect.T).pdf(measurements[:, 0])
        total += density * math.prod(source.weights[k] for source, k in chosen)
    found = list(EXACT.run(prior, measurements, Model(f, process), Model(h, noise)))
    assert sum(estimate.log_likelihood for estimate in found) == pytest.approx(math.log(total), rel=1e-11)
    assert len(found[-1].posterior) == 2 * 2 ** (2 * steps)


def test_mixture_noises_give_the_posterior_that_a_grid_gives() -> None:
    prior = line([1.0], [0.0], [1.0])
    process, noise = line([0.8, 0.2], [0.0, 1.0], [0.4, 1.5]), line([0.7, 0.3], [0.0, -0.5], [0.5, 2.0])
    grid = np.linspace(-25, 25, 1501)
    width = grid[1] - grid[0]
    density = prior.pdf(grid[:, None])
    step = process.pdf((grid[:, None] - 0.9 * grid).reshape(-1, 1)).reshape(len(grid), -1)
    measurements = [[1.0], [5.0], [-0.5]]
    found = EXACT.run(prior, measurements, Model([[0.9]], process), Model([[1.5]], noise))
    for z, estimate in zip(measurements, found, strict=True):
        # Smooth functions that vanish at both ends: the rectangle rule is as exact as float64.
        density = step @ density * width
        np.testing.assert_allclose(estimate.predicted.pdf(grid[:, None]), density, atol=1e-12)
        density = density * noise.pdf((z[0] - 1.5 * grid)[:, None])
        evidence = density.sum() * width
        density = density / evidence
        np.testing.assert_allclose(estimate.posterior.pdf(grid[:, None]), density, atol=1e-12)
        assert estimate.log_likelihood == pytest.approx(math.log(evidence), rel=1e-11)


@pytest.mark.parametrize("unscented", [False, True])
def test_five_hundred_steps_stay_sound_and_within_the_number_of_components(unscented: bool) -> None:
    draw = np.random.default_rng(2)
    # White acceleration noise over a step of 1: a covariance of rank one.
    f, q = np.array([[1.0, 1.0], [0.0, 1.0]]), 0.01 * np.array([[0.25, 0.5], [0.5, 1.0]])
    h, noise = np.array([[1.0, 0.0]]), line([0.9, 0.1], [0.0, 0.0], [1e-3, 10.0])
    models = (
        (Model(lambda x: x @ f.T, q), Model(lambda x: x @ h.T, noise)) if unscented else (Model(f, q), Model(h, noise))
    )
    measurements = [None if draw.random() < 0.2 else draw.normal(scale=20, size=1) for _ in range(500)]
    bank = GaussianSumFilter(n_components=4)
    estimates = list(bank.run(single([0, 0], np.eye(2)), measurements, *models))
    assert len(estimates) == 500
    for estimate in estimates:
        for state in (estimate.predicted, estimate.posterior):
            assert 1 <= len(state) <= 4
            assert math.fsum(state.weights) == pytest.approx(1, abs=1e-12)
            assert np.isfinite(state.means).all() and np.linalg.eigvalsh(state.covariances).min() > 0
        assert np.isfinite(estimate.log_likelihood)


def test_heavy_tailed_noise_misleads_the_kalman_filter_more_than_the_mixture() -> None:
    draw = np.random.default_rng(3)
    f = np.kron(np.array([[1.0, 1.0], [0.0, 1.0]]), np.eye(2))
    q = 0.02 * np.kron(np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]]), np.eye(2))
    h = np.eye(2, 4)
    noise = GaussianMixture([0.85, 0.15], np.zeros((2, 2)), [np.eye(2), 400 * np.eye(2)])
    prior = single(np.zeros(4), np.eye(4))
    squared = {}
    truth, measurements = np.zeros((100, 4)), np.zeros((100, 2))
    x = np.zeros(4)
    for t in range(100):
        x = f @ x + draw.multivariate_normal(np.zeros(4), q)
        truth[t], measurements[t] = x, h @ x + draw.standard_normal(2) * (20 if draw.random() < 0.15 else 1)
    for name, r in (("mixture", noise), ("kalman", noise.covariance()), ("kalman without outliers", np.eye(2))):
        run = GaussianSumFilter(n_components=8).run(prior, measurements, Model(f, q), Model(h, r))
        means = np.array([estimate.posterior.mean() for estimate in run])
        squared[name] = float(((means - truth)[:, :2] ** 2).sum(axis=1).mean())
    # Root mean squared errors of half or less: far beyond what another seed changes.
    assert squared["mixture"] < squared["kalman"] / 4 and squared["mixture"] < squared["kalman without outliers"] / 4


def test_angles_that_wrap_around_are_angles() -> None:
    """The scene turned by half a turn, where the bearings jump from pi to -pi, gives the same estimates, turned."""
    noise = line([0.9, 0.1], [0.0, 0.0], [0.02, 0.3])
    bearing = Model(lambda x: np.arctan2(x[:, 1:], x[:, :1]), noise, difference=wrapped)
    state = GaussianMixture([0.5, 0.5], [[10.0, 0.5], [9.0, -0.5]], [np.diag([1.0, 4.0])] * 2)
    turned = state.affine(-np.eye(2))
    for angle in (-0.05, 0.0, 0.1):
        one, log_one = EXACT.update(state, [angle], bearing)
        two, log_two = EXACT.update(turned, [float(wrapped(np.array(angle), np.array(np.pi)))], bearing)
        assert_same(two, one.affine(-np.eye(2)), 1e-11)
        assert log_two == pytest.approx(log_one, rel=1e-11)
        naive, _ = EXACT.update(turned, [angle - np.pi], Model(bearing.function, noise))
        assert np.abs(naive.mean() + one.mean()).max() > 0.1, "the difference function is what makes it right"


def test_a_measurement_that_could_not_be_leaves_finite_numbers() -> None:
    state, noise = line([0.5, 0.5], [0.0, 1.0], [1.0, 2.0]), line([0.5, 0.5], [0.0, 0.0], [1.0, 0.1])
    posterior, log_likelihood = EXACT.update(state, [1e6], Model([[1.0]], noise))
    # The widest pair of components takes all: 2^2 + 1^2.
    assert log_likelihood == pytest.approx(math.log(0.25) + norm(1, math.sqrt(5)).logpdf(1e6), rel=1e-12)
    assert posterior.weights.tolist() == [0, 0, 1, 0] and posterior.mean()[0] == pytest.approx(1 + 0.8 * (1e6 - 1))


def test_without_a_measurement_the_prediction_stands(make) -> None:
    state, transition, sensor = make(1), Model(np.eye(2), np.eye(2)), Model(np.eye(1, 2), [[1.0]])
    (estimate,) = EXACT.run(state, [None], transition, sensor)
    assert isinstance(estimate, Estimate) and estimate.log_likelihood == 0
    assert estimate.posterior is estimate.predicted
    assert_same(estimate.predicted, GaussianMixture(state.weights, state.means, state.covariances + np.eye(2)), 1e-13)


def test_only_too_many_components_are_reduced_and_the_moments_stay(make) -> None:
    state, transition = make(4, 3), Model(np.eye(2), make(5, 2))
    whole = EXACT.predict(state, transition)
    assert len(whole) == len(GaussianSumFilter(6).predict(state, transition)) == 6
    for method in ("runnalls", "salmond"):
        reduced = GaussianSumFilter(2, method).predict(state, transition)
        assert len(reduced) == 2
        np.testing.assert_allclose(reduced.mean(), whole.mean(), rtol=1e-12)
        np.testing.assert_allclose(reduced.covariance(), whole.covariance(), rtol=1e-12)
    loose = GaussianSumFilter(5, options={"max_distance": 0.5}).predict(state, transition)
    assert len(loose) < 5, "options reach the reduction"


def test_what_does_not_fit_is_refused_by_name(make) -> None:
    state = make(1)
    plane = Model(np.eye(2), np.eye(2))
    for call, match in (
        (lambda: Model(np.eye(2), np.eye(3)), r"a model.s matrix must have shape \(3, any\), got \(2, 2\)"),
        (lambda: Model(np.eye(2), np.ones((2, 3))), "noise covariance"),
        (lambda: Model(np.eye(2), [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: Model(np.eye(2), [[1.0, 2.0], [2.0, 1.0]]), "must be positive semi-definite, got the eigenvalue -1"),
        (lambda: Model([["a"]], [[1.0]]), "must be an array of numbers"),
        (lambda: Model([[np.nan]], [[1.0]]), "must be finite, got nan"),
        (lambda: GaussianSumFilter(0), "n_components must be a whole number >= 1.*, got 0"),
        (lambda: GaussianSumFilter(2.5), "n_components must be a whole number >= 1.*, got 2.5"),
        (lambda: GaussianSumFilter(method="magic"), "'magic' is unknown; expected: .*runnalls"),
        (lambda: GaussianSumFilter(alpha=0.0), "alpha must be a number > 0, got 0"),
        (
            lambda: GaussianSumFilter(kappa=-2.0).predict(state, Model(lambda x: x, np.eye(2))),
            "kappa must be > -2 in 2 dimensions, got -2.0",
        ),
        (
            lambda: EXACT.predict(state, Model(np.eye(3), np.eye(3))),
            "transition's noise must have 2 dimensions like the state, got 3",
        ),
        (
            lambda: EXACT.predict(state, Model(np.ones((2, 3)), np.eye(2))),
            r"transition matrix must have shape \(2, 2\), got \(2, 3\)",
        ),
        (
            lambda: EXACT.predict(state, Model(lambda x: x[:, :1], np.eye(2))),
            r"transition function.s result must have shape \(15, 2\), got \(15, 1\)",
        ),
        (
            lambda: EXACT.predict(state, Model(lambda x: x / 0 * 0, np.eye(2))),
            "transition function.s result\\[0, 0\\] must be finite",
        ),
        (lambda: EXACT.update(state, [1.0], plane), r"measurement must have shape \(2,\), got \(1,\)"),
        (lambda: EXACT.update(state, [1.0, np.nan], plane), r"measurement\[1\] must be finite, got nan"),
        (
            lambda: EXACT.update(state, [1.0], Model([[1.0]], [[1.0]])),
            r"sensor matrix must have shape \(1, 2\), got \(1, 1\)",
        ),
        (lambda: EXACT.update(state, [1.0], Model([[0.0, 0.0]], [[0.0]])), "not positive definite"),
        (
            lambda: EXACT.update(state, [1.0, 2.0], Model(np.eye(2), np.eye(2), lambda a, b: (a - b)[:1])),
            "difference function's result",
        ),
    ):
        with np.errstate(all="ignore"), pytest.raises(InputError, match=match):
            call()


def test_the_example_shows_the_mixture_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "track.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    errors = [float(text.split(":")[1].split()[0]) for text in lines]
    assert len(errors) == 2 and errors[1] < errors[0] / 2


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_states_and_noise_of_other_covariance_types_count_as_full_ones(make, kind: str) -> None:
    state, noise = make(1).convert(kind), make(2).convert(kind)
    model = Model(np.array([[1.0, 0.5], [0.0, 1.0]]), noise)
    full = Model(model.function, noise.convert("full"))
    chain = GaussianSumFilter()
    assert chain.predict(state, model) == chain.predict(state.convert("full"), full)
    found, expected = (
        chain.update(*given) for given in ((state, [1.0, 2.0], model), (state.convert("full"), [1.0, 2.0], full))
    )
    assert found == expected
