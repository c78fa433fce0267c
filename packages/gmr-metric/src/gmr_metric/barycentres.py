"""Barycentres: the Gaussian that is nearest to some Gaussians, on their weighted average.

Each comes by steps that never raise the average cost and cannot leave the positive definite
matrices, whatever the start: a closed form, or the minimiser of an upper bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Float

Kind = Literal["kl", "w2", "cs"]
_ITERATIONS = 500  # a step shrinks the error to two thirds or less, unless the Gaussians are very unlike


class Gaussian(NamedTuple):
    """One Gaussian.

    Attributes
    ----------
    mean
        Shape (d,).
    covariance
        Shape (d, d).
    """

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

    Parameters
    ----------
    mixture
        N components in d dimensions.
    kind
        The cost of a component f: ``kl`` for ``KL(f || g)``, whose minimiser is the moment-preserving merge;
        ``w2`` for the squared 2-Wasserstein distance (Alvarez-Esteban et al., arXiv 1511.05355, in the form of
        *ours* below); ``cs`` for the Cauchy-Schwarz divergence (the steps are *ours*; a local minimum).
    weights
        Other weights than the mixture's, at least 0 and of any positive sum, shape (N,). A component without
        weight does not count, and a single one with weight is its own barycentre, to the last digit.
    start
        A covariance to start from, shape (d, d), where ``w2`` and ``cs`` shall start near their end.
    tolerance
        The change of a step, relative to the covariance, at which the steps of ``w2`` and ``cs`` end.

    Returns
    -------
    Gaussian
        Mean and covariance.

    Raises
    ------
    InputError
        Where the kind is unknown (the accepted ones are listed) or the weights do not fit.

    Notes
    -----
    *w2*: with factors ``P_i = F_i F_i^T`` and ``C = R R^T`` the squared distance of two centred Gaussians is the
    least ``|F_i Q_i - R|^2`` over orthogonal Q_i. One step takes the best Q_i, from the singular vectors of
    ``F_i^T R``, and then the best R, ``sum_i p_i F_i Q_i``; it is the published fixed point without its inverse roots.

    *cs*: with ``S_i = P_i + C`` and ``e_i = m_i - m`` the average cost is, but for a constant,
    ``sum_i p_i (log |S_i| + e_i^T S_i^-1 e_i) / 2 - log |C| / 4``. The best mean for a C is in closed form. In C,
    ``log |S_i|`` lies below its tangent, and ``e^T S^-1 e`` below ``x^T P^-1 x + y^T C^-1 y`` for any
    ``x + y = e``. The sum of these bounds, which touch at the current C, is least where
    ``C A C - C / 2 - B = 0`` with ``A = sum_i p_i S_i^-1`` and B the second moment of the ``y_i = C S_i^-1 e_i``.

    Examples
    --------
    >>> pair = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[9.0]]])
    >>> [round(float(barycentre(pair, kind).covariance[0, 0]), 6) for kind in ("kl", "w2", "cs")]
    [6.0, 4.0, 3.902468]
    """
    if kind not in ("kl", "w2", "cs"):
        raise InputError(f"kind is {kind!r}", "kl, w2, cs")
    shares = mixture.weights if weights is None else np.asarray(weights, dtype=np.float64)
    total = shares.sum()
    if shares.shape != (len(mixture),) or not (shares >= 0).all() or not 0 < total < np.inf:
        raise InputError(f"weights of shape {shares.shape} and sum {total:g}", f"({len(mixture)},), >= 0, not all 0")
    chosen = np.flatnonzero(shares)
    if len(chosen) == 1:
        return Gaussian(mixture.means[chosen[0]].copy(), mixture.covariances[chosen[0]].copy())
    shares, means = shares[chosen] / total, mixture.means[chosen]
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
    transposed = np.swapaxes(factors, 1, 2)
    root = np.linalg.cholesky(np.tensordot(weighted, factors, axes=((0, 2), (0, 2))) if start is None else start)
    for _ in range(_ITERATIONS):
        left, _, right = np.linalg.svd(np.matmul(transposed, root))
        turned = np.matmul(weighted, np.matmul(left, right)).sum(axis=0)
        change = np.abs(turned - root).max()
        root = turned
        if change <= tolerance * np.abs(root).max():
            break
    return np.asarray(root @ root.T)


def _cauchy_schwarz(
    shares: np.ndarray,
    means: np.ndarray,
    factors: np.ndarray,
    merged: Gaussian,
    start: np.ndarray | None,
    tolerance: float,
) -> Gaussian:
    # The minimiser moves with affine maps: in the coordinates of the merge nothing is far from one.
    outer = np.linalg.cholesky(merged.covariance)
    inverse_outer = np.linalg.inv(outer)
    points = (means - merged.mean) @ inverse_outer.T
    spread = np.matmul(inverse_outer, factors)
    covariances = np.matmul(spread, np.swapaxes(spread, 1, 2))
    current = np.eye(len(outer)) if start is None else inverse_outer @ start @ inverse_outer.T
    for _ in range(_ITERATIONS):
        inverses = np.linalg.inv(covariances + current)
        weighted = shares[:, None, None] * inverses
        precision = weighted.sum(axis=0)
        mean = np.linalg.solve(precision, np.einsum("nij,nj->i", weighted, points))
        pulled = np.einsum("nij,nj->ni", inverses, points - mean) @ current
        moment = (shares[:, None] * pulled).T @ pulled
        # With A = L L^T the equation for X = L^T C L is X^2 - X / 2 - L^T B L = 0: an eigenvalue at a time.
        factor = np.linalg.cholesky(precision)
        values, vectors = np.linalg.eigh(factor.T @ moment @ factor)
        roots = 0.25 + np.sqrt(0.0625 + values.clip(0))
        change = np.abs((vectors * roots) @ vectors.T - factor.T @ current @ factor).max()
        root = np.linalg.solve(factor.T, vectors * np.sqrt(roots))
        current = root @ root.T
        if change <= tolerance:  # X is between 1/2 and 1 at the end
            break
    back = outer @ root
    return Gaussian(merged.mean + outer @ mean, back @ back.T)
