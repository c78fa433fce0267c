"""OGGMR: greedy merging by the metric, then a race of refinements of all parameters.

The full text of the paper (arXiv 2306.07309) was not available to us. Not specified in its abstract; we use the angle
to the original mixture as the greedy criterion, and refine the result, and other starts, at the end.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from sextet_common.checks import Count, check

from gmr_metric.checks import drawing
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.loops.columns import columns, whitened
from gmr_metric.reduction.clustering import gmrc
from gmr_metric.reduction.greedy import runnalls
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.objective import Target
from gmr_metric.reduction.outcome import Outcome, Step, nearest_centres
from gmr_metric.reduction.race import affordable, last_steps, race
from gmr_metric.reduction.refinement import refine as refine_all
from gmr_metric.reduction.starts import varied
from gmr_metric.reduction.tables import Reference, Tables, merge_by, seconds_against_original

Refine = Literal["final", "each", "none"]
_SEEDED = 6  # starts from which on the result of gmrc is refined too
_QUICK = 0.35  # estimated seconds up to which merges before a refinement go against the original by default


def oggmr(
    mixture: GaussianMixture,
    n_components: int,
    *,
    reference: Reference | None = None,
    refine: Refine = "final",
    neighbours: int | None = None,
    starts: int | None = None,
    seed: int | np.random.Generator = 0,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> Outcome:
    """Merge greedily by the angle, then refine all parameters (after arXiv 2306.07309).

    Each component of the original is assigned to the nearest refined one, and the history holds the steps of the start
    before the refinement. The result is the best of a race of starts, see :func:`~gmr_metric.reduction.race.race`: the
    greedy merges, those of Runnalls and Salmond, k-means' groups, the components with the largest norms, and groups and
    components drawn at random. The result of gmrc is refined, too. The squared error is at most Runnalls'. Not
    specified in the paper.

    Parameters
    ----------
    reference
        ``original``: each merge is the one with the smallest resulting angle to the original mixture; O(N^3) kernels
        and O(N^2) memory in total. ``current``: the one that changes the current mixture least in L2, which bounds
        the angle of the step from above; O(N^2) kernels. By default the original if that takes NumPy an
        estimated two seconds at most (N 300 in d 2, N 200 in d 4).
    refine
        ``final`` refines the result once, ``each`` after every merge (which rebuilds the tables: for small
        mixtures only), ``none`` keeps the merges, and with them the original's mean and covariance.
    neighbours
        With the current reference, consider only pairs with this many nearest components until twice the wanted
        components or 250 are left; 0 considers all pairs. By default 16 beyond 500 components, or where all pairs would
        take an estimated second. Not specified in the paper.
    starts
        The number of starts, 1 for the greedy merges alone. By default as many as can be refined a little in an
        estimated 0.4 s, up to 24.
    seed, random_state
        The seed of the random starts, or a generator; two names for the same. The same seed gives the same result.
    """
    check("refine", refine, Refine)
    check("starts", starts, Count | None)
    if refine == "each":
        return _refined_each(mixture, n_components)
    outcome = _greedy(mixture, n_components, reference, refine, neighbours)
    if refine == "none" or n_components == len(mixture):
        return outcome
    target = Target(mixture)
    count = affordable(target, n_components) if starts is None else starts
    first = outcome.mixture or merge_groups(mixture, outcome.assignment)
    if count == 1:
        refined = refine_all(mixture, first, max_iterations=last_steps(target, n_components))
        return _refined(mixture, outcome, refined)
    by_runnalls = runnalls(mixture, n_components, neighbours=neighbours)
    limit = (1 - 1e-6) * distance(mixture, merge_groups(mixture, by_runnalls.assignment), "ise")
    draw = drawing(seed, random_state, "reduction starts")
    entries = varied(mixture, n_components, outcome, by_runnalls, count, draw)
    points = [target.point(e.mixture or merge_groups(mixture, e.assignment)) for e in entries]
    seeded = []
    if count >= _SEEDED:
        seeded = [gmrc(mixture, n_components, seed=seed, random_state=random_state)]
    others = [target.point(outcome.mixture) for outcome in seeded if outcome.mixture is not None]
    point, chosen = race(target, points, limit=target.scaled(limit), seeded=others)
    return _refined(mixture, [*entries, *seeded][chosen], target.mixture(point))


def _greedy(
    mixture: GaussianMixture, n_components: int, reference: Reference | None, refine: Refine, neighbours: int | None
) -> Outcome:
    """Merge greedily; before a refinement, against the original only where that is quick: it is one of many starts."""
    if reference is None and refine == "final" and seconds_against_original(columns(mixture)) > _QUICK:
        reference = "current"
    return merge_by(mixture, n_components, reference, neighbours, "angle")


def _refined(mixture: GaussianMixture, start: Outcome, refined: GaussianMixture) -> Outcome:
    step = Step("refine", (), len(refined), distance(mixture, refined))
    return Outcome(nearest_centres(mixture, refined), refined, (*start.history, step))


def _refined_each(mixture: GaussianMixture, n_components: int) -> Outcome:
    """Alternate between merging the best pair of the current mixture and refining it."""
    groups, names, current, history = Groups(len(mixture)), np.arange(len(mixture)), mixture, list[Step]()
    while len(names) > n_components:
        i, j, cost = Tables(whitened(mixture), whitened(current, mixture), "angle").cheapest()
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
        joined = np.arange(len(current)) - (np.arange(len(current)) > j)
        joined[j] = i
        current = refine_all(mixture, merge_groups(current, joined))
        history += (groups.history[-1], Step("refine", (), len(names), distance(mixture, current)))
    return Outcome(nearest_centres(mixture, current), current, history)
