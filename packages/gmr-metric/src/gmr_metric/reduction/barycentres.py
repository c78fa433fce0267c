"""Barycentres: the Gaussian with the lowest weighted average cost from given Gaussians.

Each has a closed form, or is found by steps to the minimiser of an upper bound of the average cost. Such steps never
increase the cost and never leave the positive definite matrices, from any start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from sextet_common.checks import check
from sextet_common.errors import InputError

from gmr_metric.density.kinds import outer
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Float

Kind = Literal["kl", "w2", "cs"]
_ITERATIONS = 500  # ten to twenty suffice, unless the Gaussians are very different
_MEMORY = 5  # previous steps used by an extrapolation
_FAR = 5.0  # an extrapolation beyond this, in scaled roots or in logs of covariances, is rejected


class Gaussian(NamedTuple):
    """One Gaussian: mean (d,) and covariance (d, d), (d,) or (), by its type."""

    mean: np.ndarray
    covariance: np.ndarray


def barycentre(
    mixture: GaussianMixture,
    kind: Kind = "kl",
    *,
    weights: Float[np.ndarray, " components"] | None = None,
    start: Float[np.ndarray, "dim dim"] | None = None,
    tolerance: float = 1e-12,
) -> Gaussian:
    """Find the Gaussian g that minimises the weighted sum of costs from a mixture's components to g.

    It has the mixture's type of covariances: among diagonal or spherical Gaussians it is the minimiser.

    Parameters
    ----------
    kind
        The cost of a component f: ``kl`` for ``KL(f || g)``, whose minimiser is the moment-preserving merge;
        ``w2`` for the squared 2-Wasserstein distance (Alvarez-Esteban et al., arXiv 1511.05355, in the form below);
        ``cs`` for the Cauchy-Schwarz divergence (a local minimum; the steps are our own).
    weights
        Weights to use instead of the mixture's, at least 0 and of any positive sum, shape (N,). Components of zero
        weight do not count, and a single component of positive weight is returned unchanged.
    start, tolerance
        The covariance at which ``w2`` and ``cs`` start, in the shape of one of the mixture's, and the change of a
        step, relative to the covariance, at which they stop.

    Notes
    -----
    *w2*: with factors ``P_i = F_i F_i^T`` and ``C = R R^T`` the squared distance of two centred Gaussians is the
    minimum of ``|F_i Q_i - R|^2`` over orthogonal Q_i. One step takes the best Q_i, from the singular vectors of
    ``F_i^T R``, and then the best R, ``sum_i p_i F_i Q_i``; it is the published fixed point without its inverse roots.

    *cs*: with ``S_i = P_i + C`` and ``e_i = m_i - m`` the average cost is, up to a constant,
    ``sum_i p_i (log |S_i| + e_i^T S_i^-1 e_i) / 2 - log |C| / 4``. The best mean for a C has a closed form. In C,
    ``log |S_i|`` lies below its tangent, and ``e^T S^-1 e`` below ``x^T P^-1 x + y^T C^-1 y`` for any
    ``x + y = e``. The sum of these bounds, which touch at the current C, is minimal where
    ``C A C - C / 2 - B = 0`` with ``A = sum_i p_i S_i^-1`` and B the second moment of the ``y_i = C S_i^-1 e_i``.

    Examples
    --------
    >>> pair = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[9.0]]])
    >>> [round(float(barycentre(pair, kind).covariance[0, 0]), 6) for kind in ("kl", "w2", "cs")]
    [6.0, 4.0, 3.902468]
    """
    check("kind", kind, Kind)
    shares = mixture.weights if weights is None else np.asarray(weights, dtype=np.float64)
    total = shares.sum()
    if shares.shape != (len(mixture),) or not (shares >= 0).all() or not 0 < total < np.inf:
        raise InputError(f"weights of shape {shares.shape} and sum {total:g}", f"({len(mixture)},), >= 0, not all 0")
    chosen = np.flatnonzero(shares)
    if len(chosen) == 1:
        return Gaussian(mixture.means[chosen[0]].copy(), mixture.covariances[chosen[0]].copy())
    shares, means = shares[chosen] / total, mixture.means[chosen]
    if mixture.covariances.ndim < 3:
        return _of_variances(kind, shares, means, mixture.covariances[chosen], start, tolerance)
    if kind == "w2":
        return Gaussian(shares @ means, _wasserstein(shares, mixture.cholesky[chosen], start, tolerance))
    merged = _merged(shares, means, mixture.covariances[chosen])
    if kind == "kl":
        return merged
    return _cauchy_schwarz(shares, means, mixture.cholesky[chosen], merged, start, tolerance)


def _merged(shares: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Gaussian:
    mean = shares @ means
    offsets = means - mean
    # Each term is positive semi-definite; E[x x^T] - m m^T would cancel far from the origin.
    return Gaussian(mean, np.tensordot(shares, covariances, axes=1) + (shares[:, None] * offsets).T @ offsets)


def _wasserstein(shares: np.ndarray, factors: np.ndarray, start: np.ndarray | None, tolerance: float) -> np.ndarray:
    weighted = shares[:, None, None] * factors
    mean = np.tensordot(weighted, factors, axes=((0, 2), (0, 2)))
    scale = np.sqrt(np.trace(mean))
    weighted, transposed = weighted / scale, np.swapaxes(factors, 1, 2) / scale

    def step(root: np.ndarray) -> tuple[float, np.ndarray]:
        left, values, right = np.linalg.svd(np.matmul(transposed, root))
        cost = 1 + (root**2).sum() - 2 * shares @ values.sum(axis=1)
        return float(cost), np.matmul(weighted, np.matmul(left, right)).sum(axis=0)

    root = scale * _descended(step, np.linalg.cholesky(mean if start is None else start) / scale, tolerance)
    covariance: np.ndarray = root @ root.T
    return covariance


def _cauchy_schwarz(
    shares: np.ndarray,
    means: np.ndarray,
    factors: np.ndarray,
    merged: Gaussian,
    start: np.ndarray | None,
    tolerance: float,
) -> Gaussian:
    # The minimiser is equivariant under affine maps: in the coordinates of the merge all numbers are of order one.
    outer = np.linalg.cholesky(merged.covariance)
    inverse_outer = np.linalg.inv(outer)
    points = (means - merged.mean) @ inverse_outer.T
    spread = np.matmul(inverse_outer, factors)
    covariances = np.matmul(spread, np.swapaxes(spread, 1, 2))

    def best_mean(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the best mean for a covariance, the inverses of the S_i, and A."""
        inverses = np.linalg.inv(covariances + covariance)
        weighted = shares[:, None, None] * inverses
        precision = weighted.sum(axis=0)
        return np.linalg.solve(precision, np.einsum("nij,nj->i", weighted, points)), inverses, precision

    def step(log: np.ndarray) -> tuple[float, np.ndarray]:
        current = _symmetric_map(np.exp, log)
        mean, inverses, precision = best_mean(current)
        offsets = points - mean
        pulls = np.einsum("nij,nj->ni", inverses, offsets)
        distances = (offsets * pulls).sum(axis=1) - np.linalg.slogdet(inverses)[1]
        y = pulls @ current
        # With A = L L^T the equation for X = L^T C L is X^2 - X / 2 - L^T B L = 0, solved for each eigenvalue.
        factor = np.linalg.cholesky(precision)
        values, vectors = np.linalg.eigh(factor.T @ (shares[:, None] * y).T @ y @ factor)
        root = np.linalg.solve(factor.T, vectors * np.sqrt(0.25 + np.sqrt(0.0625 + values.clip(0))))
        return float(0.5 * shares @ distances - 0.25 * np.trace(log)), _symmetric_map(_log, root @ root.T)

    first = np.eye(len(outer)) if start is None else inverse_outer @ start @ inverse_outer.T
    log = _descended(step, _symmetric_map(_log, first), tolerance)
    back = outer @ _symmetric_map(np.exp, log / 2)
    mean = best_mean(_symmetric_map(np.exp, log))[0]
    return Gaussian(merged.mean + outer @ mean, back @ back.T)


def _of_variances(
    kind: Kind,
    shares: np.ndarray,
    means: np.ndarray,
    variances: np.ndarray,
    start: np.ndarray | None,
    tolerance: float,
) -> Gaussian:
    """Return the barycentre of diagonal or spherical Gaussians, of variances (n, d) or (n,)."""
    if kind == "w2":
        return Gaussian(shares @ means, (shares @ np.sqrt(variances)) ** 2)
    centre = shares @ means
    merged = shares @ (variances + outer(means - centre, variances.ndim))
    if kind == "kl":
        return Gaussian(centre, merged)
    scale = np.sqrt(merged)
    points, unit = (means - centre) / scale, variances / scale**2
    columns = unit.reshape(len(unit), -1)
    shared = means.shape[1] // columns.shape[1]  # dimensions with one variance

    def best_mean(current: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inverses = 1 / (columns + current)
        precision = shares @ inverses
        return shares @ (inverses * points) / precision, inverses, precision

    def step(log: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the cost and the next log variances: the steps of `_cauchy_schwarz` without its matrices."""
        current = np.exp(log)
        mean, inverses, precision = best_mean(current)
        squares = (points - mean) ** 2
        cost = 0.5 * shares @ ((squares * inverses).sum(axis=1) - shared * np.log(inverses).sum(axis=1))
        second = shares @ (squares * (inverses * current) ** 2)
        second = second if shared == 1 else second.mean(keepdims=True)
        root = (0.25 + np.sqrt(0.0625 + precision * second)) / precision
        return float(cost - 0.25 * shared * log.sum()), np.log(root)

    first = np.zeros(columns.shape[1]) if start is None else np.log(np.ravel(start / scale**2))
    log = _descended(step, first, tolerance)
    covariance = np.exp(log).reshape(merged.shape) * scale**2
    return Gaussian(centre + scale * best_mean(np.exp(log))[0], covariance)


def _symmetric_map(function: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    image: np.ndarray = (vectors * function(values)) @ vectors.T
    return image


def _log(eigenvalues: np.ndarray) -> np.ndarray:
    """Return logs, also if an eigenvalue is lost to rounding: the next step restores it."""
    logs: np.ndarray = np.log(eigenvalues.clip(np.finfo(np.float64).tiny))
    return logs


def _descended(
    step: Callable[[np.ndarray], tuple[float, np.ndarray]], point: np.ndarray, tolerance: float
) -> np.ndarray:
    """Repeat a step that never increases a cost until it converges, with Anderson acceleration (Walker and Ni 2011).

    The step returns the cost of a point and the next point. An extrapolation that costs more than the point before is
    rejected in favour of the plain step.
    """
    points: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    cost, plain = np.inf, point
    for _ in range(_ITERATIONS):
        new_cost, following = step(point)
        if new_cost > cost and point is not plain:
            point, points, changes = plain, [], []
            continue
        cost, plain = new_cost, following
        points, changes = [*points[-_MEMORY:], point], [*changes[-_MEMORY:], following - point]
        if np.abs(changes[-1]).max() <= tolerance:
            break
        point = _extrapolated(points, changes)
        if np.abs(point - following).max() > _FAR:
            point = following
    return plain


def _extrapolated(points: list[np.ndarray], changes: list[np.ndarray]) -> np.ndarray:
    """Return the point where the change vanishes if it is linear in the point."""
    by_point, by_change = (np.diff(np.reshape(values, (len(values), -1)), axis=0).T for values in (points, changes))
    last = changes[-1]
    share = np.linalg.lstsq(by_change, last.ravel(), rcond=1e-8)[0]
    point: np.ndarray = points[-1] + last - ((by_point + by_change) @ share).reshape(last.shape)
    return point
