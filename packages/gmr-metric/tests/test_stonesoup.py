from __future__ import annotations

import datetime
import math

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.filtering import GaussianSumFilter, Model
from gmr_metric.interop.stonesoup import GaussianMixtureReducer
from scipy.optimize import linear_sum_assignment
from sextet_common.errors import InputError
from stonesoup.hypothesiser.distance import DistanceHypothesiser
from stonesoup.hypothesiser.gaussianmixture import GaussianMixtureHypothesiser
from stonesoup.measures import Mahalanobis
from stonesoup.mixturereducer import MixtureReducer
from stonesoup.mixturereducer.gaussianmixture import GaussianMixtureReducer as StoneSoupReducer
from stonesoup.models.measurement.linear import LinearGaussian
from stonesoup.models.measurement.nonlinear import CartesianToBearingRange
from stonesoup.models.transition.linear import CombinedLinearGaussianTransitionModel, ConstantVelocity
from stonesoup.models.transition.nonlinear import ConstantTurn
from stonesoup.predictor.kalman import KalmanPredictor, UnscentedKalmanPredictor
from stonesoup.tracker.pointprocess import PointProcessMultiTargetTracker
from stonesoup.types.array import StateVectors
from stonesoup.types.detection import Detection
from stonesoup.types.hypothesis import SingleHypothesis
from stonesoup.types.numeric import Probability
from stonesoup.types.state import GaussianState, State, TaggedWeightedGaussianState, WeightedGaussianState
from stonesoup.updater.kalman import KalmanUpdater, UnscentedKalmanUpdater
from stonesoup.updater.pointprocess import PHDUpdater

START = datetime.datetime(2026, 1, 1)
SECOND = datetime.timedelta(seconds=1)
STEPS, CROSSING, SIDE, CLUTTER, DETECTED = 40, 20, 200.0, 4.0, 0.95
CUTOFF = 10.0  # of the OSPA distance, in m
Scans = list[np.ndarray]


def seen_among_clutter(seed: int, starts: list[list[int]], velocities: list[list[int]]) -> tuple[np.ndarray, Scans]:
    """Return three targets' positions at every step, and what is measured of them."""
    draw = np.random.default_rng(seed)
    truth = np.array(starts) + np.arange(STEPS)[:, None, None] * np.array(velocities)
    scans = []
    for positions in truth:
        seen = positions[draw.random(3) < DETECTED]
        false = draw.uniform(-SIDE / 2, SIDE / 2, size=(draw.poisson(CLUTTER), 2))
        scans.append(np.concatenate([seen + draw.normal(size=seen.shape), false]))
    return truth, scans


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, Scans]:
    """Three targets that meet in the middle."""
    return seen_among_clutter(2, [[-80, -60], [80, -60], [-80, 0]], [[4, 3], [-4, 3], [4, 0]])


def track(reducer: MixtureReducer, scans: Scans) -> tuple[list[np.ndarray], np.ndarray, list[int], set[str]]:
    """Run Stone Soup's GM-PHD tracker: the targets it reports, its expected number of them, components, tracks.

    A component is as many targets as its weight, rounded (Vo and Ma 2006, table III).
    """
    sensor = LinearGaussian(4, (0, 2), np.eye(2))
    detector = [
        (
            START + k * SECOND,
            [Detection(z[:, None], timestamp=START + k * SECOND, measurement_model=sensor) for z in scan],
        )
        for k, scan in enumerate(scans)
    ]
    predictor = KalmanPredictor(CombinedLinearGaussianTransitionModel([ConstantVelocity(0.05)] * 2))
    updater = KalmanUpdater(sensor)
    pairs = DistanceHypothesiser(predictor, updater, Mahalanobis(), missed_distance=4)
    phd = PHDUpdater(updater, CLUTTER / SIDE**2, prob_detection=DETECTED, prob_survival=0.99)
    birth = TaggedWeightedGaussianState(
        np.zeros((4, 1)), np.diag([1e4, 25, 1e4, 25]), weight=0.1, tag="birth", timestamp=START - SECOND
    )
    tracker = PointProcessMultiTargetTracker(
        detector=detector,
        hypothesiser=GaussianMixtureHypothesiser(pairs, order_by_detection=True),
        updater=phd,
        reducer=reducer,
        extraction_threshold=0.5,
        birth_component=birth,
    )
    reported, expected, sizes = [], [], []
    for _ in tracker:
        states = [
            state.state_vector[[0, 2], 0].astype(float)
            for state in tracker.gaussian_mixture
            for _ in range(round(float(state.weight)))
        ]
        reported.append(np.array(states).reshape(-1, 2))
        expected.append(tracker.estimated_number_of_targets)
        tags = [component.tag for component in tracker.gaussian_mixture]
        assert len(set(tags)) == len(tags)
        sizes.append(len(tags))
    return reported, np.array(expected, dtype=float), sizes, {track.id for track in tracker.tracks}


def ospa(found: np.ndarray, truth: np.ndarray) -> float:
    costs = np.minimum(np.linalg.norm(found[:, None] - truth, axis=2), CUTOFF)
    matched = costs[linear_sum_assignment(costs)]
    largest = max(costs.shape)
    return float(matched.sum() + CUTOFF * (largest - len(matched))) / largest


@pytest.fixture(scope="module")
def stone_soup(scene: tuple[np.ndarray, Scans]) -> tuple[float, np.ndarray]:
    """The tracker with Stone Soup's own reducer: its mean OSPA distance, and its expected numbers of targets."""
    truth, scans = scene
    found, expected, _, _ = track(StoneSoupReducer(prune_threshold=1e-5, max_number_components=10), scans)
    return mean_ospa(found, truth), expected


def mean_ospa(found: list[np.ndarray], truth: np.ndarray) -> float:
    """Average over the steps after the first five, in which targets are being found."""
    return float(np.mean([ospa(a, b) for a, b in zip(found[5:], truth[5:], strict=True)]))


@pytest.mark.parametrize("method", ["prune", "runnalls"])
def test_a_phd_tracker_follows_crossing_targets_as_with_stone_soups_own(scene, stone_soup, method: str) -> None:
    truth, scans = scene
    reducer = GaussianMixtureReducer(max_number_components=10, method=method, prune_threshold=1e-5)
    found, expected, sizes, tracks = track(reducer, scans)
    # The measurements' error is 1 m in each coordinate, and one target in twenty is missed; each costs 10 m / 3.
    assert stone_soup[0] < 2 and mean_ospa(found, truth) < min(2, stone_soup[0] + 0.2)
    assert max(sizes) == 10 and len(tracks) >= 3
    assert abs(expected[5:].mean() - 3) < 0.2
    # The three are one component when they meet. A weight clipped at one, as Stone Soup's, would lose the others.
    crossing = slice(CROSSING, CROSSING + 2)
    assert expected[crossing].min() > 2.9 > stone_soup[1][crossing].min()


def test_two_targets_side_by_side_stay_two_where_stone_soups_own_reducer_loses_one() -> None:
    truth, scans = seen_among_clutter(0, [[-80, 0], [-80, 2], [-80, 40]], [[4, 0], [4, 0], [4, -1]])
    error, bias = [], []
    for reducer in (GaussianMixtureReducer, StoneSoupReducer):
        found, expected, _, _ = track(reducer(prune_threshold=1e-5, max_number_components=5), scans)
        error.append(mean_ospa(found, truth))
        bias.append(abs(expected[5:].mean() - 3))
    assert error[0] < 0.7 * error[1] and bias[0] < 0.3 < bias[1]


def test_merges_tags_and_times_are_those_of_stone_soups_own_where_no_weight_passes_one() -> None:
    def states() -> list[TaggedWeightedGaussianState]:
        """Four targets' estimates, far from each other, of total weights below one."""
        draw = np.random.default_rng(1)
        return [
            TaggedWeightedGaussianState(
                100 * (k % 4) + draw.normal(size=(2, 1)),
                np.diag(draw.uniform(1, 2, size=2)),
                weight=draw.uniform(0.1, 0.2),
                tag=f"{k % 6}",
                timestamp=START,
            )
            for k in draw.permutation(20)
        ]

    given = states()
    ours = GaussianMixtureReducer().reduce(given)
    theirs = sorted(StoneSoupReducer().reduce(states()), key=lambda state: -state.weight)
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        assert type(a) is type(b) and a.timestamp == b.timestamp == START
        assert a.weight == pytest.approx(b.weight, rel=1e-12)
        np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
        np.testing.assert_allclose(a.covar, b.covar, rtol=1e-10)
    shared = [state.tag for state in theirs if state.tag.isdigit()]
    assert [state.tag for state in ours if state.tag.isdigit()] == shared and len({s.tag for s in ours}) == 4
    for state, untouched in zip(given, states(), strict=True):
        assert state.tag == untouched.tag and state.weight == untouched.weight
        np.testing.assert_array_equal(state.mean, untouched.mean)
    ours[0].state_vector[0, 0] = 1.0  # a state of Stone Soup may be written to


@pytest.mark.parametrize("method", ["runnalls", "oggmr", "williams"])
@pytest.mark.parametrize("total", [1e-3, 1.0, 7.5])
def test_the_total_weight_is_kept_whatever_it_is(make, method: str, total: float) -> None:
    mixture = make(2, 15, 2)
    weights = total * mixture.weights
    given = [
        WeightedGaussianState(mean[:, None], covariance, weight=weight, timestamp=START)
        for weight, mean, covariance in zip(weights, mixture.means, mixture.covariances, strict=True)
    ]
    for merge_threshold in (None, 1.0):
        reducer = GaussianMixtureReducer(np.sort(weights)[2], merge_threshold, 4, method=method)
        reduced = reducer.reduce(given)
        assert 1 <= len(reduced) <= 4 and all(type(state) is WeightedGaussianState for state in reduced)
        assert math.fsum(state.weight for state in reduced) == pytest.approx(total, rel=1e-12)
        assert [state.weight for state in reduced] == sorted((state.weight for state in reduced), reverse=True)
    assert len(reducer.reduce(given[:1])) == 1 and GaussianMixtureReducer().reduce([]) == []


def test_dropped_weights_go_to_the_others_in_proportion() -> None:
    given = [
        TaggedWeightedGaussianState([[float(x)]], [[1.0]], weight=weight, tag=tag, timestamp=START)
        for x, weight, tag in ((0, Probability(0.9), "a"), (50, Probability(0.3), "b"), (99, Probability(0.012), "c"))
    ]
    reducer = GaussianMixtureReducer(prune_threshold=0.1)
    assert [(s.tag, round(s.weight, 9)) for s in reducer.reduce(given)] == [("a", 0.909), ("b", 0.303)]
    assert reducer.reduce(given[2:]) == [], "none left"


def test_close_ones_merge_first_and_too_many_after_that() -> None:
    given = [
        TaggedWeightedGaussianState([[x]], [[1.0]], weight=weight, tag=tag, timestamp=START)
        for x, weight, tag in ((0.0, 0.9, "a"), (0.5, 0.3, "b"), (40.0, 0.5, "c"), (46.0, 0.2, "d"), (90.0, 0.6, "e"))
    ]
    reduced = GaussianMixtureReducer(max_number_components=3, method="runnalls").reduce(given)
    assert [(state.tag, round(state.weight, 9)) for state in reduced] == [("a", 1.2), ("c", 0.7), ("e", 0.6)]
    assert reduced[1].mean[0, 0] == pytest.approx((40 * 0.5 + 46 * 0.2) / 0.7)


def test_the_gate_is_by_the_lighter_components_own_covariance_and_from_the_heaviest_one() -> None:
    given = [
        WeightedGaussianState([[x]], [[variance]], weight=weight, timestamp=START)
        # From the heaviest, at 0: four deviations of its own are too far, three are near; 5 is near only to the last.
        for x, variance, weight in ((0.0, 9.0, 0.9), (4.0, 1.0, 0.3), (-3.0, 1.0, 0.2), (5.0, 1.0, 0.1))
    ]
    reduced = GaussianMixtureReducer(merge_threshold=16).reduce(given)
    assert [round(state.weight, 9) for state in reduced] == [1.1, 0.4]


def test_of_equal_tags_the_heaviest_keeps_it() -> None:
    given = [
        TaggedWeightedGaussianState([[float(x)]], [[1.0]], weight=weight, tag="same", timestamp=START)
        for x, weight in ((0, 0.3), (50, 0.9), (99, 0.5))
    ]
    reduced = GaussianMixtureReducer().reduce(given)
    assert [state.mean[0, 0] for state in reduced] == [50, 99, 0]
    assert reduced[0].tag == "same" and len({state.tag for state in reduced}) == 3
    assert all(isinstance(state.tag, str) for state in reduced)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="max_number_components must be a whole number >= 1, got 0"):
        GaussianMixtureReducer(max_number_components=0)
    with pytest.raises(InputError, match=r"'magic' is unknown; expected: .*runnalls"):
        GaussianMixtureReducer(method="magic")
    for weight in (-0.1, np.nan):
        with pytest.raises(InputError, match=f"weights must be >= 0, got {weight}"):
            GaussianMixtureReducer().reduce([WeightedGaussianState([[0.0]], [[1.0]], weight=weight)])
    with pytest.raises(InputError, match="covariance 0 is not positive definite"):
        GaussianMixtureReducer().reduce([WeightedGaussianState([[0.0]], [[-1.0]], weight=1.0)] * 2)


class Polar(CartesianToBearingRange):
    """Bearings that are plain numbers: Stone Soup averages its own over the circle, which differs in third order."""

    def function(self, *args, **kwargs):
        return super().function(*args, **kwargs).astype(float)


def test_the_filter_with_one_component_is_stone_soups_kalman_filter() -> None:
    transition = CombinedLinearGaussianTransitionModel([ConstantVelocity(0.05), ConstantVelocity(0.2)])
    sensor = LinearGaussian(4, (0, 2), np.array([[1.0, 0.3], [0.3, 2.0]]))
    prior = GaussianState([[1.0], [0.5], [-2.0], [0.1]], np.diag([4.0, 1.0, 3.0, 0.5]), timestamp=START)
    ours = (
        Model(transition.matrix(time_interval=SECOND), transition.covar(time_interval=SECOND)),
        Model(sensor.matrix(), sensor.covar()),
    )
    measurements = np.random.default_rng(3).normal(size=(5, 2))
    # Stone Soup's updater is not of Joseph's form: it loses more digits than we do.
    compare(GaussianSumFilter(), ours, KalmanPredictor(transition), KalmanUpdater(sensor), prior, measurements, 1e-10)


@pytest.mark.parametrize(("alpha", "beta", "kappa"), [(0.5, 2.0, None), (1.0, 0.0, 0.0), (1.0, 2.0, 1.5)])
def test_the_filter_with_functions_is_stone_soups_unscented_filter(
    alpha: float, beta: float, kappa: float | None
) -> None:
    transition = ConstantTurn([0.05, 0.05], 0.01)
    sensor = Polar(5, (0, 2), np.diag([0.02**2, 0.5**2]))

    def move(x: np.ndarray) -> np.ndarray:
        return np.asarray(transition.function(State(StateVectors(x.T)), time_interval=SECOND), dtype=float).T

    def see(x: np.ndarray) -> np.ndarray:
        return np.asarray(sensor.function(State(StateVectors(x.T))), dtype=float).T

    prior = GaussianState([[20.0], [0.5], [-2.0], [1.0], [0.2]], np.diag([4.0, 1.0, 9.0, 0.5, 0.01]), timestamp=START)
    measurements = np.array([[0.1, 19.0], [0.0, 19.5], [0.2, 18.0], [0.1, 18.5]])
    ours = (Model(move, transition.covar(time_interval=SECOND)), Model(see, sensor.covar()))
    parameters = {"alpha": alpha, "beta": beta, "kappa": kappa}
    filters = UnscentedKalmanPredictor(transition, **parameters), UnscentedKalmanUpdater(sensor, **parameters)
    bank = GaussianSumFilter(alpha=alpha, beta=beta, kappa=3.0 - 5 if kappa is None else kappa)
    compare(bank, ours, *filters, prior, measurements, 1e-9)


def compare(bank, models, predictor, updater, prior, measurements, rtol: float) -> None:
    start = GaussianMixture([1.0], prior.mean.T.astype(float), prior.covar[None])
    state = prior
    for k, (z, estimate) in enumerate(zip(measurements, bank.run(start, measurements, *models), strict=True), start=1):
        prediction = predictor.predict(state, timestamp=START + k * SECOND)
        detection = Detection(z[:, None], timestamp=START + k * SECOND, measurement_model=updater.measurement_model)
        state = updater.update(SingleHypothesis(prediction, detection))
        for ours, theirs in ((estimate.predicted, prediction), (estimate.posterior, state)):
            np.testing.assert_allclose(ours.means[0], theirs.mean[:, 0].astype(float), rtol=rtol, atol=rtol)
            np.testing.assert_allclose(ours.covariances[0], np.asarray(theirs.covar, dtype=float), rtol=rtol, atol=rtol)
