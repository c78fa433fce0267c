"""The costs of merging two components."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from gmr_metric.density.gaussian import (
    log_self_kernels,
    packed_log_determinants,
)
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.loops import vectorised
from gmr_metric.loops.columns import whitened


class PairCost(ABC):
    """The cost of merging two components; it holds the components, whitened and in columns."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.components = whitened(mixture)
        self.own = self.own_terms(np.arange(len(mixture)))

    @abstractmethod
    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the terms of the cost that depend on one component, for the chosen ones."""

    @abstractmethod
    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the costs of merging components i with components j, pair by pair."""

    def merge(self, i: np.ndarray, j: np.ndarray) -> None:
        """Replace components i by their merges with j, pair by pair."""
        self.components.merge(i, j)
        self.own[i] = self.own_terms(i)

    def keep(self, kept: np.ndarray) -> None:
        """Drop all other components."""
        self.components, self.own = self.components.take(kept), self.own[kept]

    def _log_determinants(self, chosen: np.ndarray) -> np.ndarray:
        return packed_log_determinants(self.components.packed[:, chosen], len(self.components.means))


class Salmond(PairCost):
    """The increase of the covariance within components, relative to the whole covariance (Salmond 1990, joining)."""

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return zeros: the cost has no such terms."""
        return np.zeros(len(chosen))

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``w_i w_j / (w_i + w_j) |m_i - m_j|^2`` of whitened means."""
        weights, means, _ = self.components
        squared = sum(((row[j] - row[i]) ** 2 for row in means), start=np.zeros(()))
        costs: np.ndarray = weights[i] * weights[j] / (weights[i] + weights[j]) * squared
        return costs


class Runnalls(PairCost):
    """An upper bound of the increase of the Kullback-Leibler divergence (Runnalls 2007)."""

    def own_terms(self, chosen: np.ndarray) -> np.ndarray:
        """Return the log determinants."""
        return self._log_determinants(chosen)

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``1/2 [(w_i + w_j) log |P_ij| - w_i log |P_i| - w_j log |P_j|]``."""
        return vectorised.runnalls_costs(i, j, self.components, self.own)


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

    def pairs(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return ``||w_i f_i + w_j f_j - w_ij f_ij||^2``."""
        return vectorised.ise_costs(i, j, self.components, self.own, self.log_scale)
