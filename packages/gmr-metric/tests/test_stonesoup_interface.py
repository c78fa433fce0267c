"""The reducer in the place of Stone Soup's own: its properties, its switches, and what Stone Soup's own tests check."""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.interop.stonesoup import GaussianMixtureReducer
from stonesoup.base import Property
from stonesoup.mixturereducer.gaussianmixture import GaussianMixtureReducer as StoneSoupReducer
from stonesoup.types.mixture import GaussianMixture
from stonesoup.types.numeric import Probability
from stonesoup.types.state import ASDTaggedWeightedGaussianState, TaggedWeightedGaussianState, WeightedGaussianState

START = datetime.datetime(2026, 1, 1)
KINDS = [WeightedGaussianState, TaggedWeightedGaussianState]
kinds = pytest.mark.parametrize("kind", KINDS)


def states(kind: type, points: list[list[float]], weights: list[float], variance: float = 1.0) -> list:
    """States with covariances of one variance, and tags a, b, c ... if they have any."""
    tags = [{"tag": chr(97 + i)} if kind is TaggedWeightedGaussianState else {} for i in range(len(points))]
    covariance = variance * np.eye(len(points[0]))
    return [
        kind(np.array(x)[:, None], covariance, weight=w, timestamp=START, **tag)
        for x, w, tag in zip(points, weights, tags, strict=True)
    ]


def total(components: list) -> float:
    return math.fsum(float(state.weight) for state in components)


def test_stone_soups_properties_come_first_in_its_order_and_ours_after_them() -> None:
    theirs, ours = list(StoneSoupReducer.properties), list(GaussianMixtureReducer.properties)
    assert ours == [*theirs, "method", "options"]
    assert theirs[:3] == ["prune_threshold", "merge_threshold", "max_number_components"]
    given = (1e-4, 9, 7, True, False, True, 30.0)
    assert vars(GaussianMixtureReducer(*given)).items() >= vars(StoneSoupReducer(*given)).items()
    assert vars(GaussianMixtureReducer()).items() >= vars(StoneSoupReducer()).items()


def test_the_tests_that_an_installed_stone_soup_ships_pass_with_our_reducer(tmp_path: Path) -> None:
    folder = Path(importlib.util.find_spec("stonesoup.mixturereducer").origin).parent / "tests"
    source = folder / "test_gaussian_mixture_reducer.py"
    if not source.exists():
        pytest.skip("this Stone Soup was installed without its tests; those below restate them")
    lines = "\nfrom gmr_metric.interop.stonesoup import GaussianMixtureReducer\n\n\n@pytest.fixture("
    (tmp_path / source.name).write_text(source.read_text().replace("\n@pytest.fixture(", lines, 1))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", source.name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


@kinds
@pytest.mark.parametrize("kdtree_max_distance", [None, 10])
def test_ten_light_states_are_pruned_and_ten_equal_ones_become_one(kind: type, kdtree_max_distance: int | None) -> None:
    points = 10 * np.random.default_rng(0).random((10, 4))
    light = states(kind, points.tolist(), [1e-10] * 10)
    equal = states(kind, [[1.0, 2.0, 1.0, 2.0]] * 10, [0.05] * 10, variance=5.0)
    reducer = GaussianMixtureReducer(prune_threshold=1e-6, merge_threshold=16, kdtree_max_distance=kdtree_max_distance)
    (one,) = reducer.reduce(GaussianMixture(light + equal))
    assert one.weight == pytest.approx(0.5 + 1e-9, rel=1e-12)
    np.testing.assert_allclose(one.covar, 5 * np.eye(4), rtol=1e-12)
    np.testing.assert_allclose(one.mean[:, 0], [1, 2, 1, 2], rtol=1e-12)


@kinds
def test_without_merging_the_heaviest_five_are_left(kind: type) -> None:
    points = np.random.default_rng(1).normal(size=(10, 4))
    given = states(kind, points.tolist(), [i / 10 for i in range(1, 11)])
    for method in ("prune", "runnalls"):
        reducer = GaussianMixtureReducer(prune_threshold=0.15, merging=False, max_number_components=5, method=method)
        reduced = reducer.reduce(GaussianMixture(list(given)))
        assert len(reduced) == 5 and total(reduced) == pytest.approx(5.5, rel=1e-12)
        if method == "prune":
            assert [state.mean.tolist() for state in reduced] == [state.mean.tolist() for state in given[:4:-1]]


@kinds
@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("radius", [None, 5.0, 0.5])
def test_every_combination_of_switches_leaves_as_many_as_stone_soups_own(
    kind: type, switches: tuple[bool, bool, bool], radius: float | None
) -> None:
    def given() -> list:
        # Three pairs one deviation apart, one of them light; no weight passes one, no centre moves past a gate.
        points = [[x + shift, 0.0] for x in (0.0, 40.0, 80.0) for shift in (0.0, 1.0)]
        return states(kind, points, [0.4, 0.2, 0.3, 0.1, 1e-4, 1e-5])

    settings = (1e-3, 16, 2, *switches, radius)
    ours, theirs = GaussianMixtureReducer(*settings).reduce(given()), StoneSoupReducer(*settings).reduce(given())
    assert len(ours) == len(theirs)
    assert total(ours) == pytest.approx(total(given()), rel=1e-12)
    for mine, other in zip(*(sorted(s, key=lambda state: -state.weight) for s in (ours, theirs)), strict=True):
        assert mine.weight == pytest.approx(other.weight, abs=1.1e-4 + 0.11 * switches[2])  # shares of what was dropped
        np.testing.assert_allclose(mine.mean, other.mean, atol=0.05)


@kinds
@pytest.mark.parametrize("method", ["prune", "runnalls"])
def test_weights_of_zero_and_next_to_zero_go_through_without_pruning(kind: type, method: str) -> None:
    points = [[0.0], [0.5], [30.0], [30.5], [60.0], [90.0]]
    for weights in ([0.5, 0.0, 1e-300, 1e-300, 0.0, 1e-300], [0.0] * 6, [1e-300] * 6, [1e-310, 0, 0, 0, 0, 5e-324]):
        given = states(kind, points, weights)
        merged = GaussianMixtureReducer(pruning=False).reduce(given)
        assert len(merged) == 4 and total(merged) == pytest.approx(math.fsum(weights), rel=1e-12)
        reduced = GaussianMixtureReducer(pruning=False, max_number_components=2, method=method).reduce(given)
        assert len(reduced) in (1, 2) and total(reduced) == pytest.approx(math.fsum(weights), rel=1e-12)
        for state in merged + reduced:
            assert np.isfinite(state.mean).all() and np.isfinite(state.covar).all() and state.weight >= 0
        if not any(weights):
            assert GaussianMixtureReducer().reduce(given) == []


@kinds
def test_nothing_and_one_component_come_back_as_they_are(kind: type) -> None:
    (one,) = states(kind, [[1.0, 2.0]], [Probability(0.3)])
    for settings in ({}, {"pruning": False}, {"max_number_components": 1}):
        reducer = GaussianMixtureReducer(**settings)
        assert reducer.reduce([]) == [] and reducer.reduce([one]) == [one]


class Coloured(TaggedWeightedGaussianState):
    """A state with a property of its own."""

    colour: str = Property(default="grey")


def test_a_merged_state_has_all_attributes_of_its_heaviest_part_and_the_parts_are_unchanged() -> None:
    given = [
        Coloured([[x]], [[1.0]], weight=w, tag=tag, timestamp=START, colour=colour)
        for x, w, tag, colour in ((0.0, 0.2, "a", "red"), (1.0, 0.6, "b", "blue"), (50.0, 0.4, "c", "green"))
    ]
    before = [(s.mean.copy(), s.covar.copy(), s.weight, s.tag, s.colour) for s in given]
    first, second = GaussianMixtureReducer(pruning=False).reduce(given)
    assert type(first) is Coloured and (first.tag, first.colour, first.timestamp) == ("b", "blue", START)
    assert first.mean[0, 0] == pytest.approx(0.75) and first.covar[0, 0] == pytest.approx(1 + 0.2 * 0.6 / 0.64)
    assert second is given[2]
    (joined, _) = GaussianMixtureReducer(max_number_components=2, merging=False).reduce(given)
    assert joined.colour == "blue" and joined.weight == pytest.approx(0.6 * 1.2)
    first.state_vector[0, 0] = joined.weight = 9.0
    for state, (mean, covariance, *rest) in zip(given, before, strict=True):
        assert (state.mean == mean).all() and (state.covar == covariance).all()
        assert [state.weight, state.tag, state.colour] == rest


def test_merged_states_of_accumulated_densities_are_tagged_gaussians_as_in_stone_soup() -> None:
    def given() -> list:
        return [
            ASDTaggedWeightedGaussianState(
                multi_state_vector=np.array([[x], [x]]),
                multi_covar=np.eye(2),
                timestamps=[START, START],
                weight=w,
                tag=tag,
                max_nstep=2,
            )
            for x, w, tag in ((0.0, 0.6, "a"), (1.0, 0.2, "b"))
        ]

    (ours,), (theirs,) = (reducer().reduce(given()) for reducer in (GaussianMixtureReducer, StoneSoupReducer))
    assert type(ours) is type(theirs) is TaggedWeightedGaussianState and ours.tag == theirs.tag == "a"
    np.testing.assert_allclose(ours.mean, theirs.mean)
    np.testing.assert_allclose(ours.covar, theirs.covar)


def test_two_components_merge_with_their_moments_and_the_sum_of_their_weights() -> None:
    pair = states(TaggedWeightedGaussianState, [[0.0], [2.0]], [0.9, 0.3])
    merged = GaussianMixtureReducer().merge_components(*pair)
    assert merged.weight == pytest.approx(1.2) and merged.tag == "a"
    assert merged.mean[0, 0] == pytest.approx(0.5) and merged.covar[0, 0] == pytest.approx(1.75)
