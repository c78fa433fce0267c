"""Starts of a refinement: the results of different methods lie in the basins of different local optima."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops.columns import columns, whitened
from gmr_metric.reduction.greedy import salmond
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.outcome import Outcome, Step, nearest_centres, nearest_kept

_SWEEPS = 5


def varied(
    mixture: GaussianMixture,
    n_components: int,
    greedy: Outcome,
    by_runnalls: Outcome,
    count: int,
    draw: np.random.Generator,
) -> list[Outcome]:
    """Return up to that many different starts: results of greedy methods, pruning, k-means, and random components."""
    drawn = (
        lambda: spread_out(mixture, n_components, draw, by_norm=True),
        lambda: spread_out(mixture, n_components, draw, by_norm=False),
    )
    makers: list[Callable[[], Outcome]] = [
        lambda: greedy,
        lambda: by_runnalls,
        drawn[0],  # the first five draws are the starts of gmrc
        lambda: largest(mixture, n_components),
        drawn[1],
        lambda: reassigned(mixture, by_runnalls),
        drawn[0],
        lambda: salmond(mixture, n_components),
        drawn[1],
        drawn[0],
    ]
    others = (*drawn, lambda: anywhere(mixture, n_components, draw))
    makers += [others[k % 3] for k in range(max(0, count - len(makers)))]
    found: dict[bytes, Outcome] = {}
    for make in makers[:count]:
        start = make()
        kept = b"" if start.mixture is None else start.mixture.means.tobytes()
        found.setdefault(start.assignment.astype(np.int64).tobytes() + kept, start)
    return list(found.values())


def anywhere(mixture: GaussianMixture, n_components: int, draw: np.random.Generator) -> Outcome:
    """Draw components at random."""
    kept = np.sort(draw.choice(len(mixture), n_components, replace=False))
    return Outcome(nearest_kept(mixture, kept), mixture.subset(kept))


def largest(mixture: GaussianMixture, n_components: int) -> Outcome:
    """Keep the components with the largest L2 norms: where few overlap, no merge is as near."""
    norms = log_norms(mixture)
    order = np.argsort(-norms, kind="stable")
    kept = np.sort(order[:n_components])
    dropped = order[: n_components - 1 : -1].tolist()
    steps = [Step("drop", (i,), len(order) - 1 - k, float(np.exp(norms[i]))) for k, i in enumerate(dropped)]
    return Outcome(nearest_kept(mixture, kept), mixture.subset(kept), steps)


def reassigned(mixture: GaussianMixture, start: Outcome, sweeps: int = _SWEEPS) -> Outcome:
    """Move each component to its nearest group by the Kullback-Leibler divergence until no group changes."""
    labels = start.assignment
    for _ in range(sweeps):
        moved = nearest_centres(mixture, merge_groups(mixture, labels))
        if np.array_equal(moved, labels):
            break
        labels = moved
    return Outcome(labels, history=start.history)


def spread_out(mixture: GaussianMixture, n_components: int, draw: np.random.Generator, by_norm: bool) -> Outcome:
    """Draw components far from one another (k-means++), then move the others to the nearest until no group changes.

    Distances are those of the means, in coordinates where the mixture has the identity as covariance. They count with
    the components' weights or norms.
    """
    means = whitened(mixture).means
    shares = np.exp((norms := log_norms(mixture)) - norms.max()) if by_norm else mixture.weights
    nearest, chosen = np.full(len(mixture), np.inf), []
    odds = shares / shares.sum()
    for _ in range(n_components):
        chosen.append(int(draw.choice(len(mixture), p=odds)))
        nearest = np.minimum(nearest, ((means - means[:, chosen[-1:]]) ** 2).sum(axis=0))
        odds = shares * nearest
        if not odds.sum() > 0:
            odds = np.ones(len(mixture))
            odds[chosen] = 0
        odds = odds / odds.sum()
    return reassigned(mixture, Outcome(nearest_kept(mixture, np.sort(np.array(chosen)))))


def log_norms(mixture: GaussianMixture) -> np.ndarray:
    """Return the logs of the components' L2 norms, with their weights."""
    logs: np.ndarray = log_of(mixture.weights) + 0.5 * columns(mixture).log_self()
    return logs
