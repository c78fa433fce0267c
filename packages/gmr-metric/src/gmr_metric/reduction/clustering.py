"""Reductions by clustering: components go to their cheapest centre, centres to their barycentre, in turn.

That is majorise-minimise for the composite transportation divergence (CTD; Zhang, Zhang and
Chen, arXiv 2002.08410). With the Kullback-Leibler cost and no regularization it is the k-means
of GMRC (Schieferdecker and Huber 2009).
"""

from __future__ import annotations

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.reduction.barycentres import Kind, barycentre
from gmr_metric.checks import number, one_of
from gmr_metric.distances.costs import cauchy_schwarz, kullback_leibler, squared_wasserstein
from gmr_metric.reduction.greedy import runnalls
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.distances.metrics import distance
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.outcome import Outcome, Step, dispensable, nearest_centres
from gmr_metric.reduction.refinement import refine as refine_all

_COSTS = {"kl": kullback_leibler, "w2": squared_wasserstein, "cs": cauchy_schwarz}
_SWEEPS = 100
_EPSILON = np.finfo(np.float64).eps
_ROUGH = 1e-5  # how nearly a sweep finds its barycentres: it starts near them, and another sweep follows
_CONVERGED = 1e-9  # relative fall of the regularized objective at which the sweeps end


def ctd(mixture: GaussianMixture, n_components: int, *, cost: Kind = "kl", regularization: float = 0.0) -> Outcome:
    """Minimise the composite transportation divergence, from Runnalls' groups (Zhang, Zhang and Chen 2020).

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        L, from 1 to N.
    cost
        The cost of sending component f to centre g: ``kl`` for ``KL(f || g)``, ``w2`` for the squared
        2-Wasserstein distance, ``cs`` for the Cauchy-Schwarz divergence.
    regularization
        The weight of the plan's entropy, in units of the cost. With 0 a component goes whole to its cheapest
        centre, of equal ones to the first; else its weight is spread over all centres by the softmax of
        ``-cost / regularization``, and the assignment says where most of it went.

    Returns
    -------
    Outcome
        The groups, with Runnalls' merges and then each sweep as the history; without regularization and with ``kl``
        the groups' merges are the centres. A sweep is recorded with its objective, which never rises: the sum of
        weight times cost of the cheapest centre. With regularization that cost is the soft minimum
        ``-regularization * log(mean(exp(-cost / regularization)))``. Sweeps end when no component moves, with
        regularization when the objective falls by less than 1e-9 of itself, and after 100 at the latest. They hold
        tables of N x L numbers.

    Raises
    ------
    InputError
        Where the cost is unknown (the known ones are listed) or the regularization is negative.

    Examples
    --------
    >>> three = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> found = ctd(three, 2, cost="w2")
    >>> found.assignment.tolist(), found.mixture.means.round(6).tolist()
    ([0, 0, 1], [[0.1], [9.0]])
    """
    one_of("cost", cost, _COSTS)
    number("regularization", regularization, lambda weight: 0 <= weight < np.inf, "a number >= 0")
    n = len(mixture)
    if n_components == n:
        return Outcome(np.arange(n))
    start = runnalls(mixture, n_components)
    plan, centres, values = _clusters(mixture, start.assignment, cost, regularization)
    history = (*start.history, *(Step("reassign", (), n_components, value) for value in values))
    merges = cost == "kl" and not regularization
    return Outcome(_partition(plan), None if merges else centres, history)


def gmrc(mixture: GaussianMixture, n_components: int, *, refine: bool = True) -> Outcome:
    """Reduce by clustering and refinement (GMRC; Schieferdecker and Huber 2009).

    Runnalls' groups, then k-means under ``KL(f || g)`` with moment-preserving merges as :func:`ctd` does it, then
    the refinement of all parameters for the smallest integral squared error.

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        L, from 1 to N.
    refine
        Whether the last step is taken; without it the mixture's mean and covariance stay as they are.

    Returns
    -------
    Outcome
        The refined mixture, and which of its components is nearest to each of the original's.

    Raises
    ------
    InputError
        Where ``refine`` is no truth value.

    Examples
    --------
    >>> three = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> gmrc(three, 2).assignment.tolist()
    [0, 0, 1]
    """
    if not isinstance(refine, bool | np.bool_):
        raise InputError(f"refine is {refine!r}", "true, false")
    found = ctd(mixture, n_components)
    if not refine or n_components == len(mixture):
        return found
    refined = refine_all(mixture, merge_groups(mixture, found.assignment), objective="ise")
    step = Step("refine", (), n_components, distance(mixture, refined, "ise"))
    return Outcome(nearest_centres(mixture, refined), refined, (*found.history, step))


def _clusters(
    mixture: GaussianMixture, assignment: np.ndarray, cost: Kind, regularization: float
) -> tuple[np.ndarray, GaussianMixture, list[float]]:
    """Return how much of each component's weight goes to each centre, the centres, and the objective of each sweep."""
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
        new_costs[:, changed] = _COSTS[cost](mixture, _only(new_centres, changed))
        new_value = _objective(mixture, new_costs, regularization)
        if not new_value < value:  # what rounding calls a move is none
            break
        fall = value - new_value
        plan, centres, costs, value = new_plan, new_centres, new_costs, new_value
        values.append(value)
        if regularization and fall <= _CONVERGED * value:
            break
    return plan, _moved(mixture, plan, cost, centres, everywhere, tolerance=1e-12), values


def _objective(mixture: GaussianMixture, costs: np.ndarray, regularization: float) -> float:
    """Return the least that the plan can cost, its entropy included, with these costs of component and centre."""
    least = costs.min(axis=1)
    if regularization:
        above = np.expm1((least[:, None] - costs) / regularization).mean(axis=1)
        least = least - regularization * np.log1p(above)
    return float(mixture.weights @ least)


def _plan(mixture: GaussianMixture, costs: np.ndarray, regularization: float) -> np.ndarray:
    """Return the plan that attains the objective, but that a centre which it leaves empty gets a component.

    It is the one that costs most where it is, among those that do not leave another centre empty. The centre will
    be this component, at no cost.
    """
    n, n_components = costs.shape
    least = costs.min(axis=1)
    if regularization:
        shares = np.exp((least[:, None] - costs) / regularization)
        shares[shares < _EPSILON] = 0  # they change no digit of a centre, but would take part in finding it
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
    """Return the centres, some of them moved to the barycentres of what the plan sends them."""
    means, covariances = centres.means.copy(), centres.covariances.copy()
    for label in changed:
        found = barycentre(mixture, cost, weights=plan[:, label], start=covariances[label], tolerance=tolerance)
        means[label], covariances[label] = found
    return GaussianMixture(plan.sum(axis=0), means, covariances, normalize=True)


def _only(mixture: GaussianMixture, chosen: np.ndarray) -> GaussianMixture:
    return GaussianMixture(mixture.weights[chosen], mixture.means[chosen], mixture.covariances[chosen], normalize=True)


def _partition(plan: np.ndarray) -> np.ndarray:
    """Return where most of each component goes; a centre that is nobody's first gets who sends it most."""
    n_components = plan.shape[1]
    labels = np.asarray(plan.argmax(axis=1))
    for empty in np.setdiff1d(np.arange(n_components), labels):
        labels[np.where(dispensable(labels, n_components), plan[:, empty], -1).argmax()] = empty
    return labels
