"""The groups of merged components, and the steps that led to them in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from gmr_metric.reduction.outcome import Outcome, Step


class History(Sequence[Step]):
    """The merges of N components, in arrays, and the steps after them; a merge becomes a `Step` when it is accessed.

    ``pairs``, shape (M, 2), are the groups that became one, each identified by its lowest component; ``costs`` has
    shape (M,). A million merges take 24 MB.
    """

    def __init__(self, pairs: np.ndarray, costs: np.ndarray, n: int, after: Sequence[Step] = ()) -> None:
        self.pairs, self.costs, self.after = pairs, costs, tuple(after)
        self.n = n

    def __len__(self) -> int:
        return len(self.pairs) + len(self.after)

    @overload
    def __getitem__(self, at: int) -> Step: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Step]: ...
    def __getitem__(self, at: int | slice) -> Step | Sequence[Step]:
        if isinstance(at, slice):
            chosen = range(*at.indices(len(self)))
            if chosen.start == 0 and chosen.step == 1 and len(chosen) <= len(self.pairs):
                return History(self.pairs[at], self.costs[at], self.n)
            return tuple(self[k] for k in chosen)
        k = range(len(self))[at]
        if k >= len(self.pairs):
            return self.after[k - len(self.pairs)]
        i, j = self.pairs[k].tolist()
        return Step("merge", (i, j), self.n - 1 - k, float(self.costs[k]))

    def __iter__(self) -> Iterator[Step]:
        return (self[k] for k in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(tuple.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # mutable arrays

    def __repr__(self) -> str:
        return f"History of {len(self.pairs)} merges and {len(self.after)} other steps"

    def then(self, *steps: Step) -> History:
        """Return the history with more steps at its end."""
        return History(self.pairs, self.costs, self.n, (*self.after, *steps))


def renamed(history: Sequence[Step], names: np.ndarray) -> Sequence[Step]:
    """Return a history with other names (N,), ascending, for the components."""
    if isinstance(history, History):
        return History(names[history.pairs], history.costs, history.n, renamed(history.after, names))
    return tuple(step._replace(components=tuple(int(names[c]) for c in step.components)) for step in history)


def merges_only(history: Sequence[Step]) -> bool:
    """Return whether all steps are merges."""
    steps = history.after if isinstance(history, History) else history
    return all(step.action == "merge" for step in steps)


def groups_after(pairs: np.ndarray, n: int) -> np.ndarray:
    """Return each component's group (n,) after some merges, the groups in the order of their lowest components."""
    leader = np.arange(n)
    leader[pairs[:, 1]] = pairs[:, 0]
    while not np.array_equal(leader, above := leader[leader]):
        leader = above
    labels: np.ndarray = (np.cumsum(leader == np.arange(n)) - 1)[leader]
    return labels


class Groups:
    """The groups of merged original components, each identified by its lowest one."""

    def __init__(self, n: int) -> None:
        self._n, self._merges = n, 0
        self._pairs, self._costs = np.empty((max(0, n - 1), 2), dtype=np.intp), np.empty(max(0, n - 1))

    def merge(
        self, i: int | np.integer | np.ndarray, j: int | np.integer | np.ndarray, cost: float | np.ndarray
    ) -> None:
        """Merge group j into group i < j, or groups j into i one after the other."""
        new = slice(self._merges, self._merges + np.size(i))
        self._pairs[new, 0], self._pairs[new, 1], self._costs[new] = i, j, np.maximum(0.0, cost)
        self._merges = new.stop

    @property
    def history(self) -> History:
        """The merges so far."""
        return History(self._pairs[: self._merges], self._costs[: self._merges], self._n)

    def outcome(self) -> Outcome:
        """Return the groups, in the order of their lowest components."""
        return Outcome(groups_after(self._pairs[: self._merges], self._n), history=self.history)
