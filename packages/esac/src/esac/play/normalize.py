"""Running mean and variance of observations, equal for any number of workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float

_LEAST_STD = 1e-7  # an observation that varies less is constant, and passed on as 0: as in the code of ARS


@dataclass(frozen=True, eq=False)
class Moments:
    """Number of observations, their mean, and the sum of their squared differences from it, in float64.

    Statistics of an episode are computed where it runs, and merged by the learner in the order of the tasks: the result
    does not depend on who ran which episode.

    Examples
    --------
    >>> both = Moments.of(np.array([[1.0], [3.0]])).merge(Moments.of(np.array([[5.0]])))
    >>> both.count, both.mean.tolist(), both.squares.tolist()
    (3, [3.0], [8.0])
    """

    count: int
    mean: Float[np.ndarray, " observations"]
    squares: Float[np.ndarray, " observations"]

    @classmethod
    def empty(cls, observations: int) -> Moments:
        """Return the moments of no observation."""
        return cls(0, np.zeros(observations), np.zeros(observations))

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n observations"]) -> Moments:
        """Return the moments of the rows of a table."""
        rows = np.asarray(rows, dtype=np.float64)
        mean = rows.mean(axis=0)
        return cls(len(rows), mean, np.square(rows - mean).sum(axis=0))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        pairs = ((self.mean, other.mean), (self.squares, other.squares))
        return self.count == other.count and all(np.array_equal(a, b) for a, b in pairs)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        difference = other.mean - self.mean
        squares = self.squares + other.squares + difference**2 * (self.count * other.count / count)
        return Moments(count, self.mean + difference * (other.count / count), squares)

    def merge_all(self, others: Iterable[Moments | None]) -> Moments:
        """Return the moments of these and all others, merged in their order; None is skipped."""
        return reduce(Moments.merge, (other for other in others if other is not None), self)

    def inputs(self) -> Float[np.ndarray, "2 observations"]:
        """Return the offset and the scale of a policy's inputs, ``(observation - offset) * scale``.

        Without observations they are 0 and 1. A scale is the inverse standard deviation, and 0 for a constant.
        """
        if not self.count:
            return identity(len(self.mean))
        std = np.sqrt(self.squares / self.count)
        scale = np.where(std < _LEAST_STD, 0.0, 1 / np.maximum(std, _LEAST_STD))
        return np.stack([self.mean, scale]).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return the moments as arrays."""
        return {"count": np.array(self.count), "mean": self.mean, "squares": self.squares}


def identity(observations: int) -> Float[np.ndarray, "2 observations"]:
    """Return the offset 0 and the scale 1."""
    return np.stack([np.zeros(observations), np.ones(observations)]).astype(np.float32)
