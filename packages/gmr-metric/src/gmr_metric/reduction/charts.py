"""Local coordinates of a mixture's components: log weights, shifts and log stretches relative to their own covariance.

With R a factor of the covariance (lower triangular; standard deviations for the other types), a step moves the mean by
``R s`` and replaces R by ``R T``, T lower triangular with the exponentials of the log stretches on its diagonal.
In these coordinates all parameters are of the order of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gmr_metric.density.gaussian import lower
from gmr_metric.reduction.overlaps import Components


class Point(NamedTuple):
    """Log weights (L,), means (L, d) and factors of the covariances (L, d, d), (L, d) or (L, 1)."""

    logs: np.ndarray
    means: np.ndarray
    roots: np.ndarray

    def components(self) -> Components:
        """Return the components in columns."""
        if self.roots.ndim == 3:
            rows, places = lower(self.means.shape[1])
            packed = np.matmul(self.roots, np.swapaxes(self.roots, 1, 2))[:, rows, places]
        else:
            packed = self.roots**2
        return Components(self.logs, np.ascontiguousarray(self.means.T), np.ascontiguousarray(packed.T))

    def moved(self, steps: np.ndarray) -> Point:
        """Return the point after a step (L, 1 + d + T) from here."""
        d = self.means.shape[1]
        logs = self.logs + steps[:, 0]
        if self.roots.ndim == 2:
            return Point(logs, self.means + self.roots * steps[:, 1 : 1 + d], self.roots * np.exp(steps[:, 1 + d :]))
        shift = np.matmul(self.roots, steps[:, 1 : 1 + d, None])[:, :, 0]
        return Point(logs, self.means + shift, np.matmul(self.roots, stretches(steps[:, 1 + d :], d)))

    def part(self, number: int, size: int) -> Point:
        """Return one of several mixtures of that size."""
        here = slice(number * size, (number + 1) * size)
        return Point(self.logs[here], self.means[here], self.roots[here])

    def limits(self, weight: float, stretch: float) -> np.ndarray:
        """Return bounds (L, p) of steps: of log weights, of log stretches, and wide ones of the others."""
        n, d = self.means.shape
        if self.roots.ndim == 2:
            return np.tile(np.repeat([weight, 1e6, stretch], [1, d, self.roots.shape[1]]), (n, 1))
        rows, places = lower(d)
        return np.tile(np.concatenate([[weight], np.full(d, 1e6), np.where(rows == places, stretch, 3000.0)]), (n, 1))


def stacked(points: Sequence[Point]) -> Point:
    """Return the components of several mixtures as those of one."""
    return Point(*(np.concatenate(parts) for parts in zip(*points, strict=True)))


def stretches(entries: np.ndarray, d: int) -> np.ndarray:
    """Return the lower triangular stretches (L, d, d) of log stretches and entries below the diagonal (L, T)."""
    rows, places = lower(d)
    result = np.zeros((len(entries), d, d))
    result[:, rows, places] = entries
    everywhere = np.arange(d)
    result[:, everywhere, everywhere] = np.exp(result[:, everywhere, everywhere])
    return result


def slopes(point: Point, entries: np.ndarray, base: Point | None = None) -> np.ndarray:
    """Return the first derivatives in local coordinates (L, p), from those in mean and packed covariance (L, p).

    The coordinates are those of the point itself, or of the base from which it was reached.
    """
    base = base or point
    d = point.means.shape[1]
    result = entries.copy()
    if point.roots.ndim == 2:
        result[:, 1 : 1 + d] *= base.roots
        result[:, 1 + d :] *= 2 * point.roots**2
        return result
    rows, places = lower(d)
    transposed = np.swapaxes(base.roots, 1, 2)
    result[:, 1 : 1 + d] = np.matmul(transposed, entries[:, 1 : 1 + d, None])[:, :, 0]
    by_stretch = np.matmul(transposed, np.matmul(_doubled(entries[:, 1 + d :], d), point.roots))
    if base is not point:
        everywhere = np.arange(d)
        by_stretch[:, everywhere, everywhere] *= (point.roots / np.where(base.roots, base.roots, 1))[
            :, everywhere, everywhere
        ]
    result[:, 1 + d :] = by_stretch[:, rows, places]
    return result


def curvatures(point: Point, jets: np.ndarray) -> np.ndarray:
    """Return the second derivatives in local coordinates (L, p, p), from jets in mean and packed covariance."""
    d = point.means.shape[1]
    jacobian = jacobians(point)
    result: np.ndarray = np.matmul(np.swapaxes(jacobian, 1, 2), np.matmul(jets, jacobian))
    at = np.arange(1 + d, result.shape[1])
    if point.roots.ndim == 2:
        result[:, at, at] += 4 * point.roots**2 * jets[:, 0, 1 + d :]
        return result
    rows, places = lower(d)
    slope = np.matmul(np.swapaxes(point.roots, 1, 2), np.matmul(_doubled(jets[:, 0, 1 + d :], d), point.roots))
    result[:, 1 + d :, 1 + d :] += slope[:, rows[:, None], rows] * (places[:, None] == places)
    diagonal = at[rows == places]
    result[:, diagonal, diagonal] += slope[:, range(d), range(d)]
    return result


def jacobians(point: Point) -> np.ndarray:
    """Return the derivatives of log weight, mean and packed covariance in local coordinates (L, p, p)."""
    roots, (n, d) = point.roots, point.means.shape
    if roots.ndim == 2:
        parts = [np.ones((n, 1)), np.broadcast_to(roots, (n, d)), 2 * roots**2]
        values = np.concatenate(parts, axis=1)
        return values[:, :, None] * np.eye(values.shape[1])
    rows, places = lower(d)
    (a, b), (c, e) = (rows[:, None], places[:, None]), (rows, places)
    result = np.zeros((n, 1 + d + len(rows), 1 + d + len(rows)))
    result[:, 0, 0] = 1
    result[:, 1 : 1 + d, 1 : 1 + d] = roots
    result[:, 1 + d :, 1 + d :] = roots[:, a, c] * roots[:, b, e] + roots[:, a, e] * roots[:, b, c]
    return result


@lru_cache(maxsize=64)
def _square(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each entry of a symmetric matrix its packed place, and 2 on the diagonal and 1 elsewhere."""
    place = np.zeros((d, d), dtype=np.intp)
    rows, places = lower(d)
    place[rows, places] = place[places, rows] = np.arange(len(rows))
    return place, 1.0 + np.eye(d)


def _doubled(packed: np.ndarray, d: int) -> np.ndarray:
    """Return twice the symmetric matrices (L, d, d) of derivatives in packed entries (two each off the diagonal)."""
    place, factor = _square(d)
    matrices: np.ndarray = np.take(packed, place, axis=1)
    matrices *= factor
    return matrices
