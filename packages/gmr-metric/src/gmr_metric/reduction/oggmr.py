"""OGGMR: greedy merging by the metric, then quasi-Newton refinement; and Williams' greedy, which shares its tables.

The paper's body (arXiv 2306.07309) was not at hand; that the greedy criterion is the angle to the
original mixture, and that the result is refined once at the end, is *ours*. Against the
original the criterion needs three inner products for each pair, and a merge changes them by a
few kernels each, so that all merges together cost O(N^3) kernels and not O(N^5).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.loops import vectorised
from gmr_metric.checks import one_of
from gmr_metric.reduction.greedy import Groups, SquaredChange, merge_greedily, runnalls
from gmr_metric.loops.columns import Columns, columns, implementation, whitened
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.distances.metrics import distance
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.outcome import Outcome, Step, nearest_centres, nearest_kept
from gmr_metric.reduction.refinement import refine as refine_all

Reference = Literal["original", "current"]
Criterion = Literal["angle", "ise"]
FEW = 300  # components up to which the original is the reference, where the user has not said
_LARGE = 10_000_000  # entries of covariances in one step of refinement, beyond which one start has 50 steps


def williams(
    mixture: GaussianMixture,
    n_components: int,
    *,
    reference: Reference | None = None,
    neighbours: int | None = None,
) -> Outcome:
    """Merge greedily where the integral squared error grows least (Williams and Maybeck 2003).

    The reference and the neighbours are as in :func:`oggmr`.
    """
    return _greedy(mixture, n_components, reference, neighbours, "ise")


def oggmr(
    mixture: GaussianMixture,
    n_components: int,
    *,
    reference: Reference | None = None,
    refine: Literal["final", "each", "none"] = "final",
    neighbours: int | None = None,
) -> Outcome:
    """Merge greedily by the angle, then refine all parameters (arXiv 2306.07309; the reading is *ours*).

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        L, from 1 to N.
    reference
        ``original``: each merge is the one that leaves the smallest angle to the original mixture; O(N^3) kernels
        and O(N^2) memory in all. ``current``: the one that changes the current mixture least in L2, which bounds
        the angle of the step from above; O(N^2) kernels and O(N) memory. By default the original up to 300 components.
    refine
        ``final`` refines the result once, ``each`` after every merge (which rebuilds the tables: for small
        mixtures only), ``none`` keeps the merges, and with them the original's mean and covariance.
    neighbours
        With the current reference, consider only pairs with so many nearest components until a few thousand are
        left; 0 considers all pairs. By default 16 beyond 5000 components. *Ours*.

    Returns
    -------
    Outcome
        The refined mixture, and which of its components is nearest to each of the original's; the history tells
        the groups that it started from. It is the best of three starts, after a few steps of refinement: its own
        greedy merges, Runnalls' merges and the components of the largest norms. Large problems, N L d^2 beyond
        10 000 000, have the first start alone and 50 steps. *Ours*.
    """
    one_of("refine", refine, ("final", "each", "none"))
    if refine == "each":
        return _refined_each(mixture, n_components)
    outcome = _greedy(mixture, n_components, reference, neighbours, "angle")
    if refine == "none" or n_components == len(mixture):
        return outcome
    if len(mixture) * n_components * mixture.dim**2 > _LARGE:
        refined = refine_all(mixture, merge_groups(mixture, outcome.assignment), max_iterations=50)
        step = Step("refine", (), n_components, distance(mixture, refined))
        return Outcome(nearest_centres(mixture, refined), refined, (*outcome.history, step))
    by_runnalls = runnalls(mixture, n_components, neighbours=neighbours)
    return _refined(mixture, [outcome, by_runnalls, _largest(mixture, n_components)])


def _refined(mixture: GaussianMixture, starts: list[Outcome]) -> Outcome:
    """Refine some starts a little and the best to its end; the squared error stays below the second's, Runnalls'.

    A greedy start may lie in the basin of a poor local optimum; one of another criterion seldom lies in the same.
    What is twice as far as the nearest is not tried.
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
    """Drop all but the components of the largest L2 norms: where few overlap, no merge comes as near."""
    norms = np.log(mixture.weights) + 0.5 * columns(mixture).log_self()
    order = np.argsort(-norms, kind="stable")
    kept = np.sort(order[:n_components])
    left = GaussianMixture(mixture.weights[kept], mixture.means[kept], mixture.covariances[kept], normalize=True)
    dropped = order[: n_components - 1 : -1].tolist()
    steps = [Step("drop", (i,), len(order) - 1 - k, float(np.exp(norms[i]))) for k, i in enumerate(dropped)]
    return Outcome(nearest_kept(mixture, kept), left, steps)


def _greedy(
    mixture: GaussianMixture,
    n_components: int,
    reference: Reference | None,
    neighbours: int | None,
    criterion: Criterion,
) -> Outcome:
    if reference is not None:
        one_of("reference", reference, ("original", "current"))
    else:
        reference = "original" if len(mixture) <= FEW else "current"
    if reference == "current":
        return merge_greedily(SquaredChange(mixture), n_components, neighbours)
    if neighbours:
        raise InputError(f"neighbours is {neighbours} with reference 'original'", "reference='current'")
    groups = Groups(len(mixture))
    if n_components < len(mixture):
        f = whitened(mixture)
        tables = _Tables(f, f, criterion)
        names = np.arange(len(mixture))
        while len(names) > n_components:
            i, j, cost = tables.cheapest()
            groups.merge(names[i], names[j], cost)
            tables.merge(i, j)
            names = np.delete(names, j)
    return groups.outcome()


def _refined_each(mixture: GaussianMixture, n_components: int) -> Outcome:
    """Merge the best pair of the current mixture, and refine it, until so many components are left."""
    groups, names, current = Groups(len(mixture)), np.arange(len(mixture)), mixture
    while len(names) > n_components:
        i, j, cost = _Tables(whitened(mixture), whitened(current, mixture), "angle").cheapest()
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
        joined = np.arange(len(current)) - (np.arange(len(current)) > j)
        joined[j] = i
        current = refine_all(mixture, merge_groups(current, joined))
        groups.history.append(Step("refine", (), len(names), distance(mixture, current)))
    return Outcome(nearest_centres(mixture, current), current, tuple(groups.history))


class _Tables:
    """The inner products that say, for every pair of the current mixture, what its merge would do.

    With h = w_i g_i + w_j g_j - w_ij g_ij the mixture after a merge is g - h, so that its inner product with the
    original f is <f, g> - <f, h> and its squared norm <g, g> - 2 <g, h> + <h, h>. The tables hold <f, g_ij>,
    <g, g_ij> and <h, h>; a merge changes g by three components, and with them <g, g_ij> by three kernels a pair.
    """

    def __init__(self, f: Columns, g: Columns, criterion: Criterion) -> None:
        self._f, self._g, self._criterion = f, g.take(np.arange(len(g.weights))), criterion
        self._inner = implementation(len(f.weights))
        self._log_scale = float(f.log_self().max())
        n = len(g.weights)
        self._with_f = self._overlaps_of_components(f)
        self._with_g = self._overlaps_of_components(g)
        self._tables = np.zeros((3, n, n))
        self._merged_f, self._merged_g, self._changes = self._tables
        own = np.exp(g.log_self() - self._log_scale)
        for i in range(n - 1):
            self._inner.pair_overlaps(i, i + 1, n, *g, *f, self._log_scale, self._merged_f[i, i + 1 :])
            if g is not f:
                self._inner.pair_overlaps(i, i + 1, n, *g, *g, self._log_scale, self._merged_g[i, i + 1 :])
            self._inner.ise_row(i, i + 1, n, *g, own, self._log_scale, self._changes[i, i + 1 :])
        if g is f:
            self._merged_g[:] = self._merged_f

    def cheapest(self) -> tuple[int, int, float]:
        """Return the pair i < j whose merge is best, and its cost; of equal ones that with the lowest indices."""
        w = self._g.weights
        i, j, cost = self._inner.cheapest_pair(
            w, w * self._with_f, w * self._with_g, *self._tables, self._criterion == "angle"
        )
        return int(i), int(j), float(cost)

    def merge(self, i: int, j: int) -> None:
        """Put the merge of i < j in the place of i, and bring the tables up to date."""
        before = self._g.take(np.array([i, j]))
        self._g.merge(np.array([i]), np.array([j]))
        after = self._g.take(np.array([i]))
        step = Columns(
            np.concatenate([-before.weights, after.weights]),
            np.concatenate([before.means, after.means], axis=1),
            np.concatenate([before.packed, after.packed], axis=1),
        )
        kept = np.delete(np.arange(len(self._g.weights)), j)
        single_f, single_g = self._merged_f[i, j], self._merged_g[i, j]
        self._g = self._g.take(kept)
        self._with_f, self._with_g = self._with_f[kept], self._with_g[kept]
        self._tables = np.delete(np.delete(self._tables, j, axis=1), j, axis=2)
        self._merged_f, self._merged_g, self._changes = self._tables
        self._with_f[i], self._with_g[i] = single_f, single_g
        self._with_g += self._overlaps_of_components(step)
        self._inner.add_overlaps(*self._g, *step, self._log_scale, self._merged_g)
        self._renew(i)

    def _renew(self, i: int) -> None:
        """Compute the entries of one component anew."""
        n = len(self._g.weights)
        others = np.delete(np.arange(n), i)
        low, high = np.minimum(i, others), np.maximum(i, others)
        for table, other in ((self._merged_f, self._f), (self._merged_g, self._g)):
            row = np.empty(n)
            self._inner.pair_overlaps(i, 0, n, *self._g, *other, self._log_scale, row)
            table[low, high] = row[others]
        own, row = np.exp(self._g.log_self() - self._log_scale), np.empty(n)
        self._inner.ise_row(i, 0, n, *self._g, own, self._log_scale, row)
        self._changes[low, high] = row[others]

    def _overlaps_of_components(self, other: Columns) -> np.ndarray:
        """Return the inner products of another mixture, of any weights, with each component."""
        return vectorised.overlaps(*self._g[1:], *other, self._log_scale)
