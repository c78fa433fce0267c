"""reduce(): what every method owes its users, and the registry."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction import api as reduction
from gmr_metric.reduction.api import Reduction, available_methods, reduce, reduce_many, register_method
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.outcome import Outcome
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError

BUILT_IN = (
    "prune",
    "threshold",
    "salmond",
    "west",
    "williams",
    "runnalls",
    "cowa",
    "gmrc",
    "ctd",
    "brute-force",
    "oggmr",
)
MERGES_ALONE = ("salmond", "west", "williams", "runnalls", "brute-force")
MAY_BE_FEWER = ("prune", "threshold")

every = pytest.mark.parametrize("method", BUILT_IN)


def test_every_method_is_known_by_its_name() -> None:
    assert set(BUILT_IN) <= set(available_methods())


@every
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 3))
def test_every_method_partitions_the_components(make, method: str, seed: int, n: int, d: int) -> None:
    mixture = make(seed, n, d)
    before = [array.copy() for array in (mixture.weights, mixture.means, mixture.covariances)]
    most = 1 + seed % n
    found = reduce(mixture, most, method)
    assert len(found.mixture) == most or (method in MAY_BE_FEWER and len(found.mixture) < most)
    assert found.assignment.shape == (n,)
    assert sorted(set(found.assignment.tolist())) == list(range(len(found.mixture)))
    assert found.mixture.weights.sum() == pytest.approx(1, abs=1e-12)
    assert found.seconds > 0 and 0 <= found.distance <= math.pi / 2
    assert all(step.n_components >= 1 and math.isfinite(step.cost) for step in found.history)
    for array, old in zip((mixture.weights, mixture.means, mixture.covariances), before, strict=True):
        np.testing.assert_array_equal(array, old)


@every
def test_as_many_components_as_there_are_give_the_mixture_itself(make, method: str) -> None:
    mixture = make(1, 6, 2)
    found = reduce(mixture, 6, method, **({"gate": 1e-12} if method == "threshold" else {}))
    assert found.distance < 1e-7
    assert sorted(found.assignment.tolist()) == list(range(6))


@every
def test_one_component_has_the_moments_where_a_method_keeps_them(make, method: str) -> None:
    mixture = make(2, 7, 2)
    found = reduce(mixture, 1, method).mixture
    assert len(found) == 1
    if method in MERGES_ALONE:
        np.testing.assert_allclose(found.means[0], mixture.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.covariances[0], mixture.covariance(), rtol=1e-12)


@pytest.mark.parametrize("method", ["salmond", "west", "williams", "runnalls", "gmrc", "ctd", "cowa"])
def test_a_better_partition_than_brute_force_is_not_to_be_had(make, method: str) -> None:
    mixture = make(3, 8, 2)
    for n in (2, 3, 5):
        best = reduce(mixture, n, "brute-force").distance
        assert distance(mixture, merge_groups(mixture, reduce(mixture, n, method).assignment)) >= best - 1e-9


@every
def test_components_without_weight_go_to_their_neighbours(make, method: str) -> None:
    base = make(4, 5, 2)
    mixture = GaussianMixture(
        np.concatenate([[0.0], base.weights, [0.0]]),
        np.concatenate([base.means[[2]], base.means, base.means[[4]]]),
        np.concatenate([base.covariances[[2]], base.covariances, base.covariances[[4]]]),
    )
    found, expected = reduce(mixture, 3, method), reduce(base, 3, method)
    np.testing.assert_allclose(found.mixture.means, expected.mixture.means, rtol=1e-6)
    np.testing.assert_array_equal(found.assignment[1:-1], expected.assignment)
    assert found.assignment[0] == expected.assignment[2] and found.assignment[-1] == expected.assignment[4]
    named = {c for step in found.history for c in step.components}
    assert named <= set(range(1, 6))
    assert len(reduce(mixture, 7, method).mixture) <= 5


def test_the_order_is_chosen_so_that_one_fewer_would_be_too_far(make) -> None:
    mixture = make(5, 25, 2)
    for method in ("runnalls", "oggmr"):
        for most in (0.02, 0.1, 0.4):
            found = reduce(mixture, method=method, max_distance=most)
            n = len(found.mixture)
            assert found.distance <= most
            assert n == 1 or reduce(mixture, n - 1, method).distance > most
    assert len(reduce(mixture, max_distance=math.pi).mixture) == 1
    assert len(reduce(mixture, method="runnalls", max_distance=0.0).mixture) == 25


def test_a_cap_and_a_distance_together_give_the_fewer(make) -> None:
    mixture = make(5, 25, 2)
    alone = len(reduce(mixture, method="runnalls", max_distance=0.3).mixture)
    assert len(reduce(mixture, alone + 5, "runnalls", max_distance=0.3).mixture) == alone
    assert len(reduce(mixture, alone - 1, "runnalls", max_distance=0.3).mixture) == alone - 1


def test_many_mixtures_are_reduced_alike_by_any_number_of_workers(make) -> None:
    mixtures = [make(seed, 40, 2) for seed in range(4)]
    alone = [reduce(m, 5) for m in mixtures]
    for n_jobs in (None, 2):
        found = reduce_many(mixtures, 5, n_jobs=n_jobs)
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_array_equal(one.mixture.means, other.mixture.means)
            np.testing.assert_array_equal(one.assignment, other.assignment)
    with joblib.parallel_config("threading", n_jobs=2):
        assert [r.distance for r in reduce_many(mixtures, 5)] == [r.distance for r in alone]


def test_a_custom_method_takes_options_and_joins_the_rest(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_METHODS", dict(reduction._METHODS))

    def by_side(mixture: GaussianMixture, n_components: int, *, axis: int = 0) -> Outcome:
        return Outcome((mixture.means[:, axis] > mixture.mean()[axis]).astype(int))

    register_method("by-side", by_side)
    mixture = make(6, 9, 2)
    found = reduce(mixture, 2, "by-side", axis=1)
    np.testing.assert_array_equal(found.assignment, mixture.means[:, 1] > mixture.mean()[1])
    assert isinstance(found, Reduction) and "by-side" in available_methods()
    with pytest.raises(InputError, match="by-side has no option 'side'; expected: axis"):
        reduce(mixture, 2, "by-side", side=1)
    with pytest.raises(InputError, match="'by-side' is already registered"):
        register_method("by-side", by_side)


def test_bad_input_is_refused_in_one_line(make) -> None:
    mixture = make(7, 4, 2)
    for n in (0, 5, -1, 2.0, "2", True):
        with pytest.raises(InputError, match=r"n_components must be a whole number in \[1, 4\]"):
            reduce(mixture, n)
    with pytest.raises(InputError, match=r"method 'best' is unknown; expected: .*runnalls.*oggmr"):
        reduce(mixture, 2, "best")
    with pytest.raises(InputError, match="neither n_components nor max_distance"):
        reduce(mixture)
    for most in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="max_distance must be a number >= 0"):
            reduce(mixture, max_distance=most)


def test_importing_the_package_brings_no_torch_and_is_quick_to_name_things() -> None:
    program = (
        "import sys, gmr_metric as g; light = {m for m in sys.modules if m.split('.')[0] in ('numpy', 'scipy')};"
        "assert not light, light;"
        "assert g.reduce and g.merge and g.refine and g.GaussianMixture;"
        "assert callable(g.merge) and callable(g.refine) and g.reduce is not g.reduction and g.__version__;"
        "assert all(hasattr(g, n) for n in g.__all__);"
        "bad = {m for m in sys.modules if m.split('.')[0] in ('torch', 'numba', 'sklearn', 'matplotlib', 'stonesoup')};"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
