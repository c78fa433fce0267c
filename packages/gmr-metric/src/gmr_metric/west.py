"""West's reduction, the lightest component joins its nearest, and COWA, which also fits the weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.greedy import Groups
from gmr_metric.inner import log_kernels
from gmr_metric.merging import merge_groups
from gmr_metric.mixture import GaussianMixture
from gmr_metric.outcome import Outcome, Step

Dissimilarity = Literal["kl", "ise"]
Weighting = Literal["plain", "trace", "determinant"]


def west(
    mixture: GaussianMixture,
    n_components: int,
    *,
    dissimilarity: Dissimilarity = "kl",
    weighting: Weighting = "plain",
) -> Outcome:
    """Merge the component of the smallest weight with its nearest neighbour, again and again (West 1993).

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        How many to keep.
    dissimilarity
        What nearest means: ``kl``, the Kullback-Leibler divergence of the neighbour from the light component, or
        ``ise``, the integral squared error between the two densities.
    weighting
        What smallest means: by the weight itself (``plain``), or by the weight over the covariance's ``trace`` or
        ``determinant``, as enhanced versions have it (Chen, Chang and Smith 2010).

    Returns
    -------
    Outcome
        The groups; every step costs O(N) kernels.

    Raises
    ------
    InputError
        Where an option is unknown.
    """
    _check(dissimilarity, weighting)
    groups, names, current = Groups(len(mixture)), np.arange(len(mixture)), mixture
    while len(names) > n_components:
        i, j, cost = _lightest_pair(current, dissimilarity, weighting)
        groups.merge(names[i], names[j], cost)
        names, current = np.delete(names, j), _merged(current, i, j)
    return groups.outcome()


def cowa(
    mixture: GaussianMixture,
    n_components: int,
    *,
    dissimilarity: Dissimilarity = "ise",
    weighting: Weighting = "trace",
) -> Outcome:
    """Constraint-optimised weight adaptation: West's merges, each followed by a fit of all weights.

    After every merge the weights minimise the integral squared error against the original mixture, subject to
    being at least 0 and summing to one. The paper (Chen, Chang and Smith 2010) has the sum alone; that no weight
    may turn negative is Crouse's (2011). A weight may end at 0: that component goes first.

    Parameters
    ----------
    mixture, n_components, dissimilarity, weighting
        As for :func:`west`.

    Returns
    -------
    Outcome
        The mixture of the fitted weights; its mean is not the original's.

    Raises
    ------
    InputError
        Where an option is unknown.
    """
    _check(dissimilarity, weighting)
    groups, names, current = Groups(len(mixture)), np.arange(len(mixture)), mixture
    while len(names) > n_components:
        i, j, cost = _lightest_pair(current, dissimilarity, weighting)
        groups.merge(names[i], names[j], cost)
        names = np.delete(names, j)
        merged = _merged(current, i, j)
        weights = best_weights(mixture, merged)
        groups.history.append(Step("refine", (), len(names), 0.0))
        current = GaussianMixture(weights, merged.means, merged.covariances, normalize=True)
    return Outcome(groups.outcome().assignment, current, tuple(groups.history))


def best_weights(f: GaussianMixture, g: GaussianMixture) -> np.ndarray:
    """Return the weights for g's components that come nearest to f in L2: at least 0, summing to one.

    They solve ``min a^T H a - 2 h^T a`` on the simplex, with H and h the components' inner products with
    one another and with f, by an active set of the components whose weight is positive.

    Parameters
    ----------
    f
        The mixture to come near to.
    g
        A mixture of L components; its weights are not used.

    Returns
    -------
    numpy.ndarray
        Shape (L,).
    """
    within, across = log_kernels(g, g), log_kernels(g, f)
    scale = within.max()
    table, target = np.exp(within - scale), np.exp(across - scale) @ f.weights
    # Duplicates make the table singular; the ridge is far below what the error can tell.
    table = (table + table.T) / 2 + 1e-13 * np.trace(table) / len(table) * np.eye(len(table))
    return _on_simplex(table, target)


def _on_simplex(table: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Minimise ``a^T H a - 2 h^T a`` over the simplex: primal active set, from the best single vertex."""
    n = len(target)
    a = np.zeros(n)
    a[int(np.argmin(np.diagonal(table) - 2 * target))] = 1.0
    free = a > 0
    for _ in range(20 * n + 20):
        wanted = _on_face(table, target, free)
        if np.all(wanted[free] > 0):
            a = wanted
            slope = table @ a - target
            level = float(slope[free].mean())
            lowest = int(np.argmin(np.where(free, np.inf, slope)))
            if free.all() or slope[lowest] >= level - 1e-12 * max(abs(level), float(np.abs(target).max())):
                break
            free[lowest] = True
        else:
            blocked = free & (wanted <= 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.where(blocked, a / (a - wanted), np.inf)
            nearest = int(np.argmin(steps))
            a = a + min(1.0, float(steps[nearest])) * (wanted - a)
            a[nearest], free[nearest] = 0.0, False
            a[~free] = 0.0
    return np.asarray(a.clip(0) / a.clip(0).sum())


def _on_face(table: np.ndarray, target: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Minimise over the weights of some components that sum to one, negative ones allowed."""
    k = int(free.sum())
    system = np.ones((k + 1, k + 1))
    system[:k, :k], system[k, k] = table[np.ix_(free, free)], 0.0
    result = np.zeros(len(target))
    result[free] = np.linalg.solve(system, np.append(target[free], 1.0))[:k]
    return result


def _check(dissimilarity: str, weighting: str) -> None:
    if dissimilarity not in ("kl", "ise"):
        raise InputError(f"dissimilarity is {dissimilarity!r}", "kl, ise")
    if weighting not in ("plain", "trace", "determinant"):
        raise InputError(f"weighting is {weighting!r}", "plain, trace, determinant")


def _lightest_pair(
    mixture: GaussianMixture, dissimilarity: Dissimilarity, weighting: Weighting
) -> tuple[int, int, float]:
    """Return the lightest component and its nearest, the lower number first, and what parts them."""
    light = int(np.argmin(_weights(mixture, weighting)))
    apart = _divergences(mixture, light) if dissimilarity == "kl" else _errors(mixture, light)
    apart[light] = np.inf
    near = int(apart.argmin())
    return min(light, near), max(light, near), max(0.0, float(apart[near]))


def _weights(mixture: GaussianMixture, weighting: Weighting) -> np.ndarray:
    if weighting == "plain":
        return mixture.weights
    if weighting == "trace":
        return np.asarray(mixture.weights / np.trace(mixture.covariances, axis1=1, axis2=2))
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mixture.weights) - _log_determinants(mixture))


def _log_determinants(mixture: GaussianMixture) -> np.ndarray:
    return np.asarray(2 * np.log(np.diagonal(mixture.cholesky, axis1=1, axis2=2)).sum(axis=1))


def _divergences(mixture: GaussianMixture, i: int) -> np.ndarray:
    """Return KL(f_i || f_j) for all j."""
    offset = mixture.means - mixture.means[i]
    spread = mixture.covariances[i] + offset[:, :, None] * offset[:, None, :]
    traces = np.trace(np.linalg.solve(mixture.covariances, spread), axis1=1, axis2=2)
    logs = _log_determinants(mixture)
    return np.asarray(0.5 * (traces - mixture.dim + logs - logs[i]))


def _errors(mixture: GaussianMixture, i: int) -> np.ndarray:
    """Return the integral squared errors between component i and all, over one scale."""
    single = GaussianMixture(np.ones(1), mixture.means[[i]], mixture.covariances[[i]])
    own = -0.5 * (mixture.dim * np.log(4 * np.pi) + _log_determinants(mixture))
    across = log_kernels(single, mixture)[0]
    scale = own.max()
    return np.asarray(np.exp(own[i] - scale) + np.exp(own - scale) - 2 * np.exp(across - scale))


def _merged(mixture: GaussianMixture, i: int, j: int) -> GaussianMixture:
    """Merge j into i, a lower number."""
    n = len(mixture)
    joined = np.arange(n) - (np.arange(n) > j)
    joined[j] = i
    return merge_groups(mixture, joined)
