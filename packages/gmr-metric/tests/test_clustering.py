from __future__ import annotations

import itertools
import time
import warnings

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.costs import cauchy_schwarz, kullback_leibler, squared_wasserstein
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction import clustering
from gmr_metric.reduction.barycentres import barycentre
from gmr_metric.reduction.clustering import ctd, gmrc
from gmr_metric.reduction.greedy import runnalls
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.outcome import Outcome
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # POT tries every array library there is, and some warn
    import ot

COSTS = {"kl": kullback_leibler, "w2": squared_wasserstein, "cs": cauchy_schwarz}

# The ten-component example of the reduction literature.
M10 = GaussianMixture(
    [0.03, 0.18, 0.12, 0.19, 0.02, 0.16, 0.06, 0.10, 0.08, 0.06],
    np.array([1.45, 2.20, 0.67, 0.48, 1.49, 0.91, 1.01, 1.42, 2.77, 0.89])[:, None],
    np.array([0.0487, 0.0305, 0.1171, 0.0174, 0.0295, 0.0102, 0.0323, 0.0380, 0.0115, 0.0679])[:, None, None],
)


def reduced(f: GaussianMixture, outcome: Outcome) -> GaussianMixture:
    return merge_groups(f, outcome.assignment) if outcome.mixture is None else outcome.mixture


def sweeps(outcome: Outcome) -> list[float]:
    return [step.cost for step in outcome.history if step.action == "reassign"]


def hard_objective(f: GaussianMixture, g: GaussianMixture, cost: str) -> float:
    return float(f.weights @ COSTS[cost](f, g).min(axis=1))


def soft_objective(f: GaussianMixture, g: GaussianMixture, cost: str, regularization: float) -> float:
    """The cost of the best plan plus its divergence from an even one, term by term."""
    table = COSTS[cost](f, g)
    shares = np.exp(-(table - table.min(axis=1, keepdims=True)) / regularization)
    shares /= shares.sum(axis=1, keepdims=True)
    divergence = np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1) * len(g)), 0)
    return float(f.weights @ (shares * table + regularization * divergence).sum(axis=1))


def plain_k_means(f: GaussianMixture, labels: np.ndarray) -> np.ndarray:
    """Reassign one component after the other by the textbook's divergence, and merge, until nothing moves."""
    while True:
        g = merge_groups(f, labels)
        new = []
        for m, p in zip(f.means, f.covariances, strict=True):
            row = []
            for mean, covariance in zip(g.means, g.covariances, strict=True):
                inverse, e = np.linalg.inv(covariance), mean - m
                log_ratio = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(p)[1]
                row.append(np.trace(inverse @ p) + e @ inverse @ e + log_ratio)
            new.append(int(np.argmin(row)))
        if new == labels.tolist():
            return labels
        labels = np.array(new)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(2, 25),
    st.integers(1, 3),
    st.sampled_from(list(COSTS)),
    st.sampled_from([0.0, 0.01, 0.3, 5.0, 1e6]),
)
def test_the_objective_never_rises_and_every_label_is_used(
    make, seed: int, n: int, d: int, cost: str, regularization: float
) -> None:
    f = make(seed, n, d)
    n_components = 1 + seed % n
    outcome = ctd(f, n_components, cost=cost, regularization=regularization)
    values = sweeps(outcome)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values)) and len(values) <= 100
    assert sorted(set(outcome.assignment.tolist())) == list(range(n_components))
    assert len(reduced(f, outcome)) == n_components
    assert all(step.components == () for step in outcome.history if step.action == "reassign")
    assert outcome.history[: n - n_components] == runnalls(f, n_components).history
    assert all(
        step.components == () and step.n_components == n_components
        for step in outcome.history[-len(values) :]
        if values
    )


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("regularization", [0.0, 0.2])
def test_the_objective_is_what_it_is_said_to_be_and_below_that_of_the_start(
    make, cost: str, regularization: float
) -> None:
    f = make(11, 60, 2)
    groups = runnalls(f, 6).assignment
    centres = [barycentre(f, cost, weights=np.where(groups == label, f.weights, 0)) for label in range(6)]
    start = GaussianMixture(np.full(6, 1 / 6), [g.mean for g in centres], [g.covariance for g in centres])
    outcome = ctd(f, 6, cost=cost, regularization=regularization)
    g = reduced(f, outcome)
    if regularization:
        before, after = (soft_objective(f, x, cost, regularization) for x in (start, g))
    else:
        before, after = (hard_objective(f, x, cost) for x in (start, g))
    # The last centres are found more exactly than those of a sweep, which are within 1e-5 of theirs.
    assert sweeps(outcome)[-1] == pytest.approx(after, rel=1e-8)
    # One sweep may be all: then both values are of the same centres, found twice.
    assert after <= sweeps(outcome)[0] * (1 + 1e-8)
    assert sweeps(outcome)[0] < before


@pytest.mark.parametrize("cost", COSTS)
def test_at_the_end_each_component_is_with_its_cheapest_centre_and_each_centre_a_barycentre(make, cost: str) -> None:
    f = make(12, 80, 3)
    outcome = ctd(f, 7, cost=cost)
    g = reduced(f, outcome)
    assert sweeps(outcome), "an example in which something moves"
    assert COSTS[cost](f, g).argmin(axis=1).tolist() == outcome.assignment.tolist()
    for label in range(7):
        weights = np.where(outcome.assignment == label, f.weights, 0)
        mean, covariance = barycentre(f, cost, weights=weights)
        assert g.weights[label] == pytest.approx(weights.sum(), rel=1e-12)
        np.testing.assert_allclose(g.means[label], mean, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(g.covariances[label], covariance, rtol=1e-8, atol=1e-8)


def test_the_w2_objective_is_the_transport_between_the_mixtures(make) -> None:
    f = make(13, 30, 2)
    outcome = ctd(f, 4, cost="w2")
    g = outcome.mixture
    assert g is not None
    transport = ot.gmm.gmm_ot_loss(f.means, g.means, f.covariances, g.covariances, f.weights, g.weights)
    assert sweeps(outcome)[-1] == pytest.approx(transport, rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_kl_cost_is_plain_k_means_and_gmrc_before_its_refinement(make, seed: int) -> None:
    f = make(seed, 40, 2)
    expected = plain_k_means(f, runnalls(f, 5).assignment)
    for outcome in (ctd(f, 5), gmrc(f, 5, refine=False)):
        assert outcome.assignment.tolist() == expected.tolist() and outcome.mixture is None
    assert expected.tolist() != runnalls(f, 5).assignment.tolist(), "an example in which something moves"


def test_runnalls_result_on_the_classic_mixture_is_a_fixed_point_of_k_means() -> None:
    table = {
        6: ([{0, 4, 7}, {2, 6, 9}], 0.00122118160882, 0.0501608418),
        5: ([{0, 4, 7}, {2, 5, 6, 9}], 0.0266345317744, 0.2357814591),
        4: (None, 0.0332198128756, 0.2638847668),
    }
    for n_components, (groups, ise, angle) in table.items():
        outcome = gmrc(M10, n_components, refine=False)
        assert sweeps(outcome) == []
        found = [set(np.flatnonzero(outcome.assignment == label).tolist()) for label in range(n_components)]
        if groups:
            assert sorted(map(sorted, (x for x in found if len(x) > 1))) == sorted(map(sorted, groups))
        g = reduced(M10, outcome)
        assert distance(M10, g, "ise") == pytest.approx(ise, rel=1e-10)
        assert distance(M10, g) == pytest.approx(angle, rel=1e-8)


def test_gmrc_refines_the_squared_error_of_its_clusters() -> None:
    # Local optima of the squared error, computed independently; that of 4 is of the divergence's refinement.
    for n_components, best in {6: 3.23542e-6, 5: 1.703209e-4, 4: 0.02547371}.items():
        outcome = gmrc(M10, n_components)
        assert outcome.mixture is not None and len(outcome.mixture) == n_components
        ise = distance(M10, outcome.mixture, "ise")
        assert ise <= best * (1 + 1e-3)
        last = outcome.history[-1]
        assert (last.action, last.components, last.n_components) == ("refine", (), n_components)
        assert last.cost == pytest.approx(ise, rel=1e-12)
        assert outcome.assignment.tolist() == kullback_leibler(M10, outcome.mixture).argmin(axis=1).tolist()


@pytest.mark.parametrize("regularization", [0.0, 0.3])
def test_the_kl_cost_keeps_mean_and_covariance(make, regularization: float) -> None:
    f = make(14, 50, 3)
    g = reduced(f, ctd(f, 6, regularization=regularization))
    np.testing.assert_allclose(g.mean(), f.mean(), atol=1e-10)
    np.testing.assert_allclose(g.covariance(), f.covariance(), atol=1e-10)


@pytest.mark.parametrize("cost", COSTS)
def test_a_vanishing_regularization_gives_the_hard_result(make, cost: str) -> None:
    f = make(15, 40, 2)
    hard = ctd(f, 5, cost=cost)
    g = reduced(f, hard)
    errors = []
    for regularization in (1e-2, 1e-6):
        soft = ctd(f, 5, cost=cost, regularization=regularization)
        assert soft.mixture is not None
        errors.append(np.abs(soft.mixture.means - g.means).max())
    assert soft.assignment.tolist() == hard.assignment.tolist()
    assert errors[1] < 1e-9
    np.testing.assert_allclose(soft.mixture.covariances, g.covariances, atol=1e-8)
    # Each component pays the divergence of a whole assignment from an even one.
    assert sweeps(soft)[-1] == pytest.approx(sweeps(hard)[-1] + 1e-6 * np.log(5), rel=1e-8)


def test_a_soft_plan_is_stationary_at_its_end(make) -> None:
    f = make(16, 30, 2)
    g = ctd(f, 3, regularization=0.2).mixture
    assert g is not None
    shares = np.exp(-kullback_leibler(f, g) / 0.2)
    plan = f.weights[:, None] * shares / shares.sum(axis=1, keepdims=True)
    # The sweeps end when the objective, which is flat there, moves by 1e-9: the plan by the root of it.
    np.testing.assert_allclose(plan.sum(axis=0), g.weights, atol=1e-3)
    for label in range(3):
        np.testing.assert_allclose(barycentre(f, weights=plan[:, label]).mean, g.means[label], atol=1e-2)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("regularization", [0.0, 0.1])
def test_equal_components_still_make_as_many_groups_as_asked_for(cost: str, regularization: float) -> None:
    f = GaussianMixture(np.full(8, 0.125), [[1.0, 2.0]] * 8, [np.diag([1.0, 3.0])] * 8)
    outcome = ctd(f, 3, cost=cost, regularization=regularization)
    assert set(outcome.assignment.tolist()) == {0, 1, 2}
    assert distance(f, reduced(f, outcome)) < 1e-6


@pytest.mark.parametrize("regularization", [0.0, 1e-3])
def test_an_emptied_centre_takes_the_component_that_costs_most_where_it_is(regularization: float) -> None:
    """Nobody prefers the last two centres: the dearest of those with company go there, by weight times cost."""
    f = GaussianMixture([0.1, 0.2, 0.3, 0.2, 0.2], np.zeros((5, 1)), np.ones((5, 1, 1)))
    costs = np.array([[0, 90, 99, 99], [5, 9, 99, 99], [4, 9, 99, 99], [0, 9, 99, 99], [50, 10, 99, 99.0]])
    plan = clustering._plan(f, costs, regularization)
    # The last one is dearest, but alone in its group.
    assert plan.argmax(axis=1).tolist() == [0, 3, 2, 0, 1]
    np.testing.assert_allclose(plan.sum(axis=1), f.weights)
    assert (plan.sum(axis=0) > 0.05).all()


def test_as_many_components_as_there_are_is_the_identity_and_one_is_the_barycentre(make) -> None:
    f = make(17, 6)
    for method in (ctd, gmrc):
        whole = method(f, 6)
        assert whole.assignment.tolist() == list(range(6)) and whole.mixture is None and whole.history == ()
    for cost in COSTS:
        g = reduced(f, ctd(f, 1, cost=cost))
        mean, covariance = barycentre(f, cost)
        np.testing.assert_allclose(g.means[0], mean, atol=1e-9)
        np.testing.assert_allclose(g.covariances[0], covariance, atol=1e-9)


def test_thousands_of_components_take_seconds(make) -> None:
    f = make(18, 2000, 4)
    ctd(make(19, 200, 4), 20)  # numba compiles
    began = time.process_time()
    assert len(set(ctd(f, 20).assignment.tolist())) == 20
    assert time.process_time() - began < 5  # a tenth of that on one core of today


def test_what_does_not_fit_is_refused(make) -> None:
    f = make(20)
    with pytest.raises(InputError, match="cost must be kl, w2 or cs, got 'ise'"):
        ctd(f, 2, cost="ise")
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="regularization must be a number >= 0"):
            ctd(f, 2, regularization=value)
