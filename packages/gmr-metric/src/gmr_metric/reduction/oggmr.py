"""OGGMR: greedy merging by the metric, then quasi-Newton refinement of all parameters.

The full text of the paper (arXiv 2306.07309) was not available to us. Not specified in its abstract; we use the angle
to the original mixture as the greedy criterion, and refine the result once at the end.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from sextet_common.checks import check

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.loops.columns import columns, whitened
from gmr_metric.reduction.greedy import runnalls
from gmr_metric.reduction.groups import Groups
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.outcome import Outcome, Step, nearest_centres, nearest_kept
from gmr_metric.reduction.refinement import refine as refine_all
from gmr_metric.reduction.tables import Reference, Tables, merge_by

Refine = Literal["final", "each", "none"]
_LARGE = 10_000_000  # above this N L d^2 only one start is refined, in 50 steps


def oggmr(
    mixture: GaussianMixture,
    n_components: int,
    *,
    reference: Reference | None = None,
    refine: Refine = "final",
    neighbours: int | None = None,
) -> Outcome:
    """Merge greedily by the angle, then refine all parameters (after arXiv 2306.07309).

    Each component of the original is assigned to the nearest refined one, and the history holds the merges before the
    refinement. The result is the best of three starts, compared after a few steps of refinement: its own greedy merges,
    Runnalls' merges and the components with the largest norms. Large problems, with N L d^2 above 10 000 000, use the
    first start alone and 50 steps. Not specified in the paper.

    Parameters
    ----------
    reference
        ``original``: each merge is the one with the smallest resulting angle to the original mixture; O(N^3) kernels
        and O(N^2) memory in total. ``current``: the one that changes the current mixture least in L2, which bounds
        the angle of the step from above; O(N^2) kernels and O(N) memory. By default the original if that takes NumPy an
        estimated two seconds at most (N 300 in d 2, N 200 in d 4).
    refine
        ``final`` refines the result once, ``each`` after every merge (which rebuilds the tables: for small
        mixtures only), ``none`` keeps the merges, and with them the original's mean and covariance.
    neighbours
        With the current reference, consider only pairs with this many nearest components until a few thousand are
        left; 0 considers all pairs. By default 16 beyond 5000 components. Not specified in the paper.
    """
    check("refine", refine, Refine)
    if refine == "each":
        return _refined_each(mixture, n_components)
    outcome = merge_by(mixture, n_components, reference, neighbours, "angle")
    if refine == "none" or n_components == len(mixture):
        return outcome
    if len(mixture) * n_components * mixture.dim**2 > _LARGE:
        refined = refine_all(mixture, merge_groups(mixture, outcome.assignment), max_iterations=50)
        step = Step("refine", (), n_components, distance(mixture, refined))
        return Outcome(nearest_centres(mixture, refined), refined, (*outcome.history, step))
    by_runnalls = runnalls(mixture, n_components, neighbours=neighbours)
    return _best_refined(mixture, [outcome, by_runnalls, _largest(mixture, n_components)])


def _best_refined(mixture: GaussianMixture, starts: list[Outcome]) -> Outcome:
    """Refine some starts a little and the best completely; its squared error stays below the second's, Runnalls'.

    A greedy start may lie in the basin of a poor local optimum; one of another criterion is seldom in the same. Starts
    at more than twice the smallest angle are not tried.
    """
    merged = [s.mixture or merge_groups(mixture, s.assignment) for s in starts]
    angles = np.array([distance(mixture, start) for start in merged])
    max_ise = (1 - 1e-6) * distance(mixture, merged[1], "ise")
    tried = np.flatnonzero(angles <= 2 * angles.min())
    trials = [(i, refine_all(mixture, merged[i], max_iterations=100)) for i in tried.tolist()]
    ranked = sorted(((distance(mixture, trial), i, trial) for i, trial in trials), key=lambda t: t[:2])
    best, chosen, refined = (True, float(angles[0])), 0, merged[0]
    for angle, i, trial in ranked:
        if (False, angle) >= best:
            break
        final = refine_all(mixture, trial, max_ise=max_ise)
        reached = distance(mixture, final, "ise") > max_ise, distance(mixture, final)
        if reached < best and reached[1] <= angles[0]:
            best, chosen, refined = reached, i, final
    steps = (*starts[chosen].history, Step("refine", (), len(refined), distance(mixture, refined)))
    return Outcome(nearest_centres(mixture, refined), refined, steps)


def _largest(mixture: GaussianMixture, n_components: int) -> Outcome:
    """Keep the components with the largest L2 norms: where few overlap, no merge is as near."""
    norms = np.log(mixture.weights) + 0.5 * columns(mixture).log_self()
    order = np.argsort(-norms, kind="stable")
    kept = np.sort(order[:n_components])
    dropped = order[: n_components - 1 : -1].tolist()
    steps = [Step("drop", (i,), len(order) - 1 - k, float(np.exp(norms[i]))) for k, i in enumerate(dropped)]
    return Outcome(nearest_kept(mixture, kept), mixture.subset(kept), steps)


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
