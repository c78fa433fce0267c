"""The groups of merged components, and the steps that led to them."""

from __future__ import annotations

import numpy as np

from gmr_metric.reduction.outcome import Outcome, Step


class Groups:
    """The groups of merged original components, each identified by its lowest one."""

    def __init__(self, n: int) -> None:
        self._leader = np.arange(n)
        self._left = n
        self.history: list[Step] = []

    def merge(self, i: int, j: int, cost: float) -> None:
        """Merge group j into group i < j."""
        self._leader[j] = i
        self._left -= 1
        self.history.append(Step("merge", (int(i), int(j)), self._left, max(0.0, float(cost))))

    def outcome(self) -> Outcome:
        """Return the groups, in the order of their lowest components."""
        leader = self._leader
        while np.any(leader != leader[leader]):
            leader = leader[leader]
        return Outcome(np.unique(leader, return_inverse=True)[1], history=tuple(self.history))
