"""The costs of merging two components, and lower bounds of them that take a few operations per pair.

With ``w = w_i + w_j``, shares ``p = w_i / w`` and ``q = w_j / w``, ``Q = p P_i + q P_j`` and ``e = m_j - m_i`` the
merge has the covariance ``P = Q + p q e e^T``. Its determinant is ``|Q| (1 + p q e^T Q^-1 e)``, log|Q| is concave, and
by Cauchy and Schwarz ``e^T Q^-1 e >= |e|^4 / e^T Q e``. So

``log |P| >= p log |P_i| + q log |P_j| + log(1 + x)``  with  ``x = p q |e|^4 / (p e^T P_i e + q e^T P_j e)``.

For diagonal covariances and spheres, whose merge keeps the spread's diagonal or its mean, the same holds: its
determinant is larger than that of P. The quadratic forms of one component with all are two matrix-vector products.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from gmr_metric.density.gaussian import (
    full,
    log_self_kernels,
    lower,
    packed_log_determinants,
    packed_outer,
    packed_radii,
)
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops import vectorised
from gmr_metric.loops.columns import whitened

_SLACK = 1e-9  # relative: no rounding of a cost reaches it
_ROUNDING = 1e-13  # of the terms that a cost is the difference of
_MANY = 128  # numbers per covariance beyond which the largest eigenvalue replaces the quadratic form


class PairCost(ABC):
    """The cost of merging two components; it holds the components, whitened and in columns."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.components = whitened(mixture)
        self.own = self.own_terms(np.arange(len(mixture)))
        self._forms: np.ndarray | None = None
        self._terms: np.ndarray | None = None

    @abstractmethod
    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the terms of the cost that depend on one component, for the chosen ones."""

    @abstractmethod
    def pairs(self, i: np.ndarray, j: np.ndarray, limits: np.ndarray | None = None) -> np.ndarray:
        """Return the costs of merging components i with components j, pair by pair.

        A cost above its limit may be replaced by a number between the two.
        """

    @abstractmethod
    def bounds(self, rows: np.ndarray, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return lower bounds of the costs of R components with those from ``start`` on, shape (R, n - start).

        The second array holds numbers in whose order to try them.
        """

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Replace components i by their merges with j, pair by pair."""
        self.components.merge(i, j)
        self.own[i] = self.own_terms(i)
        if self._forms is not None and self._terms is not None:
            self._forms[:, i], self._terms[:, i] = self._quadratic_forms(i)

    def extend(self, n: int) -> None:
        """Add room for n more components at the end."""
        self.keep(np.append(np.arange(len(self.own)), np.zeros(n, dtype=np.intp)))

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Overwrite some components by others."""
        for array in (*self.components, self.own, self._forms, self._terms):
            if array is not None:
                array[..., targets] = array[..., sources]

    def keep(self, kept: np.ndarray) -> None:
        """Drop all other components."""
        self.components, self.own = self.components.take(kept), self.own[kept]
        if self._forms is not None and self._terms is not None:
            self._forms, self._terms = self._forms[:, kept], self._terms[:, kept]

    def _log_determinants(self, chosen: np.ndarray) -> np.ndarray:
        return packed_log_determinants(self.components.packed[:, chosen], len(self.components.means))

    def _squares(self, rows: np.ndarray, start: int) -> np.ndarray:
        """Return the squared distances of the means from those of some components, lowered by the rounding."""
        means = self.components.means
        lengths = np.einsum("ij,ij->j", means, means) * (1 - _ROUNDING)
        squares: np.ndarray = means[:, rows].T @ means[:, start:]
        squares *= -2
        squares += lengths[start:]
        squares += lengths[rows, None]
        np.maximum(squares, 0, out=squares)
        return squares

    def _growth(self, rows: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return w, and x lowered by more than its rounding."""
        weights = self.components.weights
        if self._forms is None or self._terms is None:
            self._forms, self._terms = self._quadratic_forms(np.arange(len(weights)))
            self._error = _ROUNDING * float(np.abs(self._forms).max()) * (1 + float(np.abs(self._terms).max())) + 1e-300
        squares, own = self._squares(rows, start), weights[rows, None]
        ours, weights = weights[rows] * self._forms[:, rows], weights[start:]
        theirs = weights * self._forms[:, start:]
        if len(self._forms) == 1:
            form = (theirs[0] + ours[0][:, None]) * squares
        else:
            form = self._terms[:, rows].T @ theirs
            form += ours.T @ self._terms[:, start:]
        total = weights + own
        form += self._error * total
        form *= total
        squares *= squares
        squares *= weights
        squares *= own
        squares /= form
        return total, squares

    def _quadratic_forms(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return columns f and t with ``f_j . t_i = (m_j - m_i)^T P_j (m_j - m_i)``.

        For spheres and many dimensions f is a row of bounds of ``e^T P_j e / |e|^2``, the largest eigenvalues.
        """
        _, means, packed = self.components.take(chosen)
        d, one = len(means), np.ones((1, len(chosen)))
        if len(packed) == 1 or len(packed) > _MANY:
            return packed_radii(packed, d)[None], one
        products = packed_outer(means, len(packed))
        if len(packed) == d:
            twice, turned = packed, packed * means
        else:
            rows, places = lower(d)
            twice = packed * np.where(rows == places, 1.0, 2.0)[:, None]
            turned = np.einsum("nij,jn->in", full(packed, d), means)
        value = np.einsum("ij,ij->j", turned, means)
        return np.concatenate([value[None], -2 * turned, twice]), np.concatenate([one, means, products])


class Salmond(PairCost):
    """The increase of the covariance within components, relative to the whole covariance (Salmond 1990, joining)."""

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return zeros: the cost has no such terms."""
        return np.zeros(len(chosen))

    def pairs(self, i: np.ndarray, j: np.ndarray, limits: np.ndarray | None = None) -> np.ndarray:
        """Return ``w_i w_j / (w_i + w_j) |m_i - m_j|^2`` of whitened means."""
        weights, means, _ = self.components
        squared = sum(((row[j] - row[i]) ** 2 for row in means), start=np.zeros(()))
        costs: np.ndarray = weights[i] * weights[j] / (weights[i] + weights[j]) * squared
        return costs

    def bounds(self, rows: np.ndarray, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the costs themselves, lowered by more than their rounding."""
        weights = self.components.weights
        own, weights = weights[rows, None], weights[start:]
        lower = (1 - _SLACK) * own * weights / (own + weights) * self._squares(rows, start)
        return lower, lower


class Runnalls(PairCost):
    """An upper bound of the increase of the Kullback-Leibler divergence (Runnalls 2007)."""

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the log determinants."""
        return self._log_determinants(chosen)

    def pairs(self, i: np.ndarray, j: np.ndarray, limits: np.ndarray | None = None) -> np.ndarray:
        """Return ``1/2 [(w_i + w_j) log |P_ij| - w_i log |P_i| - w_j log |P_j|]``."""
        return vectorised.runnalls_costs(i, j, self.components, self.own)

    def bounds(self, rows: np.ndarray, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return ``w / 2 log(1 + x)``, lowered by more than the rounding of a cost."""
        total, x = self._growth(rows, start)
        lower = np.log1p(x)
        lower *= 0.5 * (1 - _SLACK)
        lower -= _ROUNDING * (1 + float(np.abs(self.own).max()))
        lower *= total
        return lower, lower


class SquaredChange(PairCost):
    """The squared L2 norm of the change that the merge makes to the mixture (Williams 2003, locally).

    It bounds the angle between the mixtures before and after: its sine is at most the norm of the change over that of
    the mixture, which is the same for all pairs. In whitened coordinates, over a common scale.
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        self.log_scale = float(whitened(mixture).log_self().max())
        super().__init__(mixture)

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the logs of the components' norms, over the root of the scale."""
        d = len(self.components.means)
        logs: np.ndarray = 0.5 * (log_self_kernels(self._log_determinants(chosen), d) - self.log_scale)
        return logs

    def pairs(self, i: np.ndarray, j: np.ndarray, limits: np.ndarray | None = None) -> np.ndarray:
        """Return ``||w_i f_i + w_j f_j - w_ij f_ij||^2``."""
        return vectorised.ise_costs(i, j, self.components, self.own, self.log_scale, limits)

    def bounds(self, rows: np.ndarray, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the square of ``||w_i f_i + w_j f_j|| - ||w_ij f_ij||``, with bounds for both norms."""
        total, x = self._growth(rows, start)
        weighted, sizes = self.components.weights * self.own, self.components.weights * np.exp(self.own)
        x += 1
        logs = (weighted[start:] + weighted[rows, None]) / total - 0.25 * np.log(x)
        own, sizes = sizes[rows, None], sizes[start:]
        squares = sizes**2 + own**2
        lower = np.maximum(0, np.sqrt(squares) - total * np.exp(logs)) ** 2
        lower *= 1 - _SLACK
        lower -= 2 * _ROUNDING * squares
        return lower, np.minimum(sizes, own) ** 2 * (1 - 1 / x)
