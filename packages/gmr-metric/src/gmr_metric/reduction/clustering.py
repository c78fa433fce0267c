"""Reductions by clustering: assign components to their cheapest centre, move centres to their barycentre, repeat.

This is majorise-minimise for the composite transportation divergence (CTD; Zhang, Zhang and Chen, arXiv 2002.08410).
With the Kullback-Leibler cost and no regularization it is the k-means of GMRC (Schieferdecker and Huber 2009).
"""

from __future__ import annotations

import numpy as np
from sextet_common.checks import NonNegative, check

from gmr_metric.checks import drawing
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.costs import cauchy_schwarz, kullback_leibler, squared_wasserstein
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction.barycentres import Kind, barycentre
from gmr_metric.reduction.greedy import runnalls
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.objective import Target
from gmr_metric.reduction.outcome import Outcome, Step, dispensable, nearest_centres
from gmr_metric.reduction.race import affordable, race
from gmr_metric.reduction.starts import spread_out

_COSTS = {"kl": kullback_leibler, "w2": squared_wasserstein, "cs": cauchy_schwarz}
_SWEEPS = 100
_STARTS = 6  # of gmrc
_EPSILON = np.finfo(np.float64).eps
_ROUGH = 1e-5  # tolerance of the barycentres of a sweep: it starts near them, and another sweep follows
_CONVERGED = 1e-9  # relative decrease of the regularized objective at which the sweeps end


def ctd(mixture: GaussianMixture, n_components: int, *, cost: Kind = "kl", regularization: float = 0.0) -> Outcome:
    """Minimise the composite transportation divergence, from Runnalls' groups (Zhang, Zhang and Chen 2020).

    Parameters
    ----------
    cost
        The cost of sending component f to centre g: ``kl`` for ``KL(f || g)``, ``w2`` for the squared
        2-Wasserstein distance, ``cs`` for the Cauchy-Schwarz divergence.
    regularization
        The weight of the plan's entropy, in units of the cost. With 0 a component goes entirely to its cheapest
        centre, ties to the first; otherwise its weight is spread over all centres by the softmax of
        ``-cost / regularization``, and it is assigned to the centre with the largest share.

    Returns
    -------
    Outcome
        Its history holds Runnalls' merges and then each sweep; without regularization and with ``kl`` the centres are
        the groups' merges. A sweep is recorded with its objective, which never increases: the sum of weight times cost
        of the cheapest centre. With regularization that cost is the soft minimum
        ``-regularization * log(mean(exp(-cost / regularization)))``. Sweeps end when no component moves, with
        regularization when the relative decrease of the objective is below 1e-9, and after 100 at the latest. They
        hold tables of N x L numbers.

    Examples
    --------
    >>> three = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> outcome = ctd(three, 2, cost="w2")
    >>> outcome.assignment.tolist(), outcome.mixture.means.round(6).tolist()
    ([0, 0, 1], [[0.1], [9.0]])
    """
    check("cost", cost, Kind)
    check("regularization", regularization, NonNegative)
    n = len(mixture)
    if n_components == n:
        return Outcome(np.arange(n))
    start = runnalls(mixture, n_components)
    plan, centres, values = _clusters(mixture, start.assignment, cost, regularization)
    history = (*start.history, *(Step("reassign", (), n_components, value) for value in values))
    merges = cost == "kl" and not regularization
    return Outcome(_partition(plan), None if merges else centres, history)


def gmrc(
    mixture: GaussianMixture,
    n_components: int,
    *,
    refine: bool = True,
    seed: int | np.random.Generator = 0,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> Outcome:
    """Reduce by clustering and refinement (GMRC; Schieferdecker and Huber 2009).

    The steps are Runnalls' groups, k-means under ``KL(f || g)`` with moment-preserving merges as in :func:`ctd`, and
    the refinement of all parameters for the smallest integral squared error. ``refine=False`` omits the last, and keeps
    the mixture's mean and covariance. Not specified in the paper; we refine the best of a race of up to six starts
    (see :func:`~gmr_metric.reduction.race.race`), of which the others are groups of k-means++ drawn with the seed.

    Examples
    --------
    >>> three = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> gmrc(three, 2).assignment.tolist()
    [0, 0, 1]
    """
    check("refine", bool(refine) if isinstance(refine, np.bool_) else refine, bool)
    outcome = ctd(mixture, n_components)
    if not refine or n_components == len(mixture):
        return outcome
    target = Target(mixture)
    draw = drawing(seed, random_state, "reduction starts")
    entries = [outcome]
    for number in range(min(_STARTS, affordable(target, n_components)) - 1):
        entries.append(spread_out(mixture, n_components, draw, by_norm=number % 2 == 0))
    points = [target.point(merge_groups(mixture, entry.assignment)) for entry in entries]
    point, chosen = race(target, points)
    refined = target.mixture(point)
    step = Step("refine", (), n_components, distance(mixture, refined, "ise"))
    return Outcome(nearest_centres(mixture, refined), refined, (*entries[chosen].history, step))


def _clusters(
    mixture: GaussianMixture, assignment: np.ndarray, cost: Kind, regularization: float
) -> tuple[np.ndarray, GaussianMixture, list[float]]:
    """Return the plan (the weight from each component to each centre), the centres, and each sweep's objective."""
    plan = np.zeros((len(mixture), int(assignment.max()) + 1))
    plan[np.arange(len(mixture)), assignment] = mixture.weights
    everywhere = np.arange(plan.shape[1])
    centres = _moved(mixture, plan, cost, merge_groups(mixture, assignment), everywhere)
    costs = _COSTS[cost](mixture, centres)
    value, values = _objective(mixture, costs, regularization), []
    for _ in range(_SWEEPS):
        new_plan = _plan(mixture, costs, regularization)
        changed = np.flatnonzero((new_plan != plan).any(axis=0))
        if not len(changed):
            break
        new_centres = _moved(mixture, new_plan, cost, centres, changed)
        new_costs = costs.copy()
        new_costs[:, changed] = _COSTS[cost](mixture, new_centres.subset(changed))
        new_value = _objective(mixture, new_costs, regularization)
        if not new_value < value:  # the move is rounding
            break
        decrease = value - new_value
        plan, centres, costs, value = new_plan, new_centres, new_costs, new_value
        values.append(value)
        if regularization and decrease <= _CONVERGED * value:
            break
    return plan, _moved(mixture, plan, cost, centres, everywhere, tolerance=1e-12), values


def _objective(mixture: GaussianMixture, costs: np.ndarray, regularization: float) -> float:
    """Return the lowest cost of any plan, including its entropy, for these costs of component and centre."""
    least = costs.min(axis=1)
    if regularization:
        above = np.expm1((least[:, None] - costs) / regularization).mean(axis=1)
        least = least - regularization * np.log1p(above)
    return float(mixture.weights @ least)


def _plan(mixture: GaussianMixture, costs: np.ndarray, regularization: float) -> np.ndarray:
    """Return the plan that attains the objective, except that every empty centre gets a component.

    It gets the one with the highest cost, among those that do not leave another centre empty. The centre will be this
    component, at no cost.
    """
    n, n_components = costs.shape
    least = costs.min(axis=1)
    if regularization:
        shares = np.exp((least[:, None] - costs) / regularization)
        shares[shares < _EPSILON] = 0  # they change no digit of a centre, but cost time
        plan: np.ndarray = mixture.weights[:, None] * (shares / shares.sum(axis=1, keepdims=True))
    else:
        plan = np.zeros(costs.shape)
        plan[np.arange(n), costs.argmin(axis=1)] = mixture.weights
    loss = mixture.weights * least
    while len(empty := np.flatnonzero(plan.sum(axis=0) == 0)):
        i = int(np.where(dispensable(plan.argmax(axis=1), n_components), loss, -1).argmax())
        plan[i] = 0
        plan[i, empty[0]] = mixture.weights[i]
    return plan


def _moved(
    mixture: GaussianMixture,
    plan: np.ndarray,
    cost: Kind,
    centres: GaussianMixture,
    changed: np.ndarray,
    tolerance: float = _ROUGH,
) -> GaussianMixture:
    """Return the centres, with the changed ones moved to the barycentres of what the plan sends them."""
    means, covariances = centres.means.copy(), centres.covariances.copy()
    for label in changed:
        means[label], covariances[label] = barycentre(
            mixture, cost, weights=plan[:, label], start=covariances[label], tolerance=tolerance
        )
    return GaussianMixture(plan.sum(axis=0), means, covariances, normalize=True)


def _partition(plan: np.ndarray) -> np.ndarray:
    """Return the main centre of each component; an empty centre gets the component that gives it most weight."""
    n_components = plan.shape[1]
    labels: np.ndarray = plan.argmax(axis=1)
    for empty in np.setdiff1d(np.arange(n_components), labels):
        labels[np.where(dispensable(labels, n_components), plan[:, empty], -1).argmax()] = empty
    return labels
