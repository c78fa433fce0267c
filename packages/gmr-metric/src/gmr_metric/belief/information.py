"""Mixtures in information form, ``sum_n exp(g_n + h_n . x - x . J_n x / 2)``, in which a message need not be a density.

A message says nothing about the directions in which all J_n vanish. Scales are kept up to a common factor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import log_gaussian
from gmr_metric.density.mixture import GaussianMixture

MOST = 100_000  # components of one product or message
_FLAT = 1e-12  # eigenvalue of a J of unit diagonal from which it counts as singular
Noise = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights (M,), means (M, m), covariances (M, m, m)


class Information(NamedTuple):
    """Components in information form: N terms in d dimensions."""

    logs: np.ndarray  # g, (N,)
    vectors: np.ndarray  # h, (N, d)
    matrices: np.ndarray  # J, (N, d, d), symmetric positive semi-definite

    @property
    def says_nothing(self) -> bool:
        """Whether it is constant."""
        return not (self.matrices.any() or self.vectors.any())


def constant(dim: int) -> Information:
    """Return the message that says nothing."""
    return Information(np.zeros(1), np.zeros((1, dim)), np.zeros((1, dim, dim)))


def of_mixture(mixture: GaussianMixture) -> Information:
    """Return a density in information form."""
    full = mixture.convert("full")
    return of_moments(log_of(full.weights), full.means, full.covariances)


def of_moments(log_weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Information:
    """Return N Gaussians, given in moments, in information form."""
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(covariances))
    except np.linalg.LinAlgError:
        raise InputError(
            "a message lies in a subspace, for it has no noise of full rank", "a noise of full rank"
        ) from None
    matrices = np.matmul(np.swapaxes(inverse, 1, 2), inverse)
    vectors = np.matmul(matrices, means[..., None])[..., 0]
    return _scaled(log_weights + log_gaussian(means, covariances), vectors, matrices)


def to_moments(message: Information) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return log weights, the largest being 0, means and covariances; None if the message is not a density."""
    diagonal = np.diagonal(message.matrices, axis1=1, axis2=2)
    if not (diagonal > 0).all():
        return None
    scale = 1 / np.sqrt(diagonal)
    unit = message.matrices * scale[:, :, None] * scale[:, None, :]
    if np.linalg.eigvalsh(unit)[:, 0].min() <= _FLAT:
        return None
    covariances = np.linalg.inv(unit) * scale[:, :, None] * scale[:, None, :]
    covariances = (covariances + np.swapaxes(covariances, 1, 2)) / 2
    means = np.matmul(covariances, message.vectors[..., None])[..., 0]
    logs = message.logs - log_gaussian(means, covariances)
    return logs - logs.max(), means, covariances


def to_mixture(message: Information) -> GaussianMixture | None:
    """Return the normalised density, or None if the message is none."""
    moments = to_moments(message)
    return None if moments is None else GaussianMixture(np.exp(moments[0]), *moments[1:], normalize=True)


def product(a: Information, b: Information) -> Information:
    """Multiply two messages: a term for each pair."""
    check_size(len(a.logs) * len(b.logs))
    d = a.vectors.shape[1]
    return _scaled(
        (a.logs[:, None] + b.logs).ravel(),
        (a.vectors[:, None] + b.vectors).reshape(-1, d),
        (a.matrices[:, None] + b.matrices).reshape(-1, d, d),
    )


def convolved(message: Information, noise: Noise, sign: int = 1) -> Information:
    """Return ``integral of message(y + sign * e) p(e) de`` over the noise e: a term for each pair.

    No matrix of the message or the noise is inverted, so that both may be singular.
    """
    weights, offsets, covariances = noise
    check_size(len(message.logs) * len(weights))
    d = message.vectors.shape[1]
    offsets = sign * offsets
    j = message.matrices[:, None]
    shifted = np.matmul(j, offsets[..., None])[..., 0]
    vectors = message.vectors[:, None] - shifted
    logs = message.logs[:, None] + ((message.vectors[:, None] - 0.5 * shifted) * offsets).sum(axis=-1)
    mixed = np.eye(d) + np.matmul(j, covariances)
    shrunk = np.linalg.solve(mixed, np.concatenate([np.broadcast_to(j, mixed.shape), vectors[..., None]], axis=-1))
    matrices, moved = shrunk[..., :d], shrunk[..., d]
    logs = logs + 0.5 * (vectors * np.matmul(covariances, moved[..., None])[..., 0]).sum(axis=-1)
    logs = logs + log_of(weights) - 0.5 * np.linalg.slogdet(mixed)[1]
    return _scaled(logs.ravel(), moved.reshape(-1, d), matrices.reshape(-1, d, d))


def pulled_back(message: Information, matrix: np.ndarray) -> Information:
    """Return the message about ``matrix @ x`` as one about x."""
    return _scaled(message.logs, message.vectors @ matrix, np.matmul(matrix.T, np.matmul(message.matrices, matrix)))


def point(value: np.ndarray, noise: Noise) -> Information:
    """Return the likelihood ``p(value - y)`` of y."""
    weights, offsets, covariances = noise
    return of_moments(log_of(weights), value - offsets, covariances)


def check_size(count: int) -> None:
    """Refuse products of too many components."""
    if count > MOST:
        raise InputError(f"a product of messages has {count} components", f"a smaller n_components: at most {MOST}")


def _scaled(logs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray) -> Information:
    """Return symmetric terms, the largest log being 0."""
    return Information(logs - logs.max(), vectors, (matrices + np.swapaxes(matrices, 1, 2)) / 2)
