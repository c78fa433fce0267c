"""Statistics over several runs: robust aggregates, bootstrap intervals, curves on a common grid. NumPy alone.

The aggregates are those of Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice"
(arXiv 2108.13264), whose library, rliable, is archived. As there, scores have a row per run and a column per task; one
dimension means one task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sextet_common import checks
from sextet_common.errors import InputError

Scores = Float[np.ndarray, "runs tasks"] | Float[np.ndarray, " runs"]


class Interval(NamedTuple):
    """A statistic and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """A mean curve and the bounds of its pointwise confidence intervals; NaN where no curve has a value."""

    mean: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def iqm(scores: Scores) -> float:
    """Return the interquartile mean over all runs and tasks.

    It is the mean after dropping ``floor(n / 4)`` scores from each end: ``scipy.stats.trim_mean(scores, 0.25, None)``.

    Examples
    --------
    >>> iqm(np.array([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    ordered = np.sort(_matrix(scores), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def optimality_gap(scores: Scores, gamma: float = 1.0) -> float:
    """Return the mean of ``max(gamma - score, 0)``: by how much runs miss a target score. 0 is best.

    Examples
    --------
    >>> optimality_gap(np.array([0.5, 3.0]), gamma=1.0)
    0.25
    """
    if not np.isfinite(gamma):
        raise InputError(f"gamma is {gamma}", "a finite score")
    return float(np.maximum(gamma - _matrix(scores), 0.0).mean())


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """Return the probability that a run of algorithm x beats a run of algorithm y on a random task.

    It is the Mann-Whitney statistic of each task over its number of pairs, ties counting one half, averaged over
    tasks. The numbers of runs may differ.

    Examples
    --------
    >>> probability_of_improvement(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    x, y = _matrix(x), _matrix(y)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"scores on {x.shape[1]} and on {y.shape[1]} tasks", "the same tasks for both")
    difference = x[:, None] - y[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def performance_profile(scores: Scores, thresholds: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """Return the share of runs that score above each threshold, averaged over tasks.

    Examples
    --------
    >>> performance_profile(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 4.0]))
    array([1. , 0.5, 0. ])
    """
    pooled = np.sort(_matrix(scores), axis=None)
    above: np.ndarray = len(pooled) - np.searchsorted(pooled, _line(thresholds, "thresholds"), side="right")
    return above / len(pooled)


def interval(
    statistic: Callable[..., float], *scores: Scores, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return a statistic with its stratified percentile bootstrap interval.

    Each resample draws as many runs as there are, with replacement and independently for every task. The interval of
    one run has no width: it says nothing about other runs.

    Parameters
    ----------
    statistic
        A function of as many score matrices, shape (runs, tasks), as are given.
    scores
        One matrix, or several that are resampled independently, as `probability_of_improvement` needs.
    level
        Coverage of the interval, in (0, 1).

    Examples
    --------
    >>> found = interval(iqm, np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    >>> found.value, found.low < found.value < found.high
    (3.0, True)
    """
    if not scores:
        raise InputError("no scores", "one matrix or more")
    matrices = [_matrix(each) for each in scores]
    random = _generator(resamples, level, seed)
    values = [statistic(*(_resample(matrix, random) for matrix in matrices)) for _ in range(resamples)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*matrices)), float(low), float(high))


def band(
    curves: Float[np.ndarray, "seeds points"], *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Band:
    """Return the mean of curves over seeds, with a pointwise percentile bootstrap band.

    Each resample draws as many whole curves as there are, with replacement. Where a curve is NaN the others are
    averaged; resamples without a value there are ignored. The band of one curve has no width.

    Parameters
    ----------
    curves
        On a common grid, shape (seeds, points).
    level
        Coverage at each point, in (0, 1).

    Examples
    --------
    >>> found = band(np.array([[0.0, 2.0], [4.0, 2.0], [2.0, np.nan]]))
    >>> found.mean
    array([2., 2.])
    >>> bool(found.low[0] < 2 < found.high[0]), float(found.low[1]), float(found.high[1])
    (True, 2.0, 2.0)
    """
    values = _array(curves, "curves")
    if values.ndim != 2 or not len(values) or np.isinf(values).any():
        wrong = int(np.isinf(values).sum())
        raise InputError(f"curves of shape {values.shape}, {wrong} values infinite", "(seeds, points), finite or NaN")
    random = _generator(resamples, level, seed)
    seeds = len(values)
    drawn: Int[np.ndarray, "resamples seeds"] = random.integers(seeds, size=(resamples, seeds))
    # The number of times that each resample has each curve turns means into matrix products. The first row is the mean.
    counts = np.vstack([np.ones(seeds), (drawn[:, :, None] == np.arange(seeds)).sum(axis=1)])
    known = ~np.isnan(values)
    total, number = counts @ np.where(known, values, 0.0), counts @ known
    means = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    low, high = np.full((2, values.shape[1]), np.nan)
    somewhere = known.any(axis=0)  # quantiles of nothing would warn
    if somewhere.any():
        ends = np.nanquantile(means[1:, somewhere], [(1 - level) / 2, (1 + level) / 2], axis=0)
        low[somewhere], high[somewhere] = ends
    return Band(means[0], low, high)


def on_grid(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], grid: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """Return a curve's last value at or before each point of a grid, NaN before the first step.

    `steps` must not decrease; of equal steps the last value counts.

    Examples
    --------
    >>> on_grid(np.array([10.0, 20.0]), np.array([1.0, 2.0]), np.array([5.0, 10.0, 19.0, 30.0]))
    array([nan,  1.,  1.,  2.])
    """
    places, points = _line(steps, "steps"), _line(grid, "grid")
    known = _array(values, "values")
    if known.shape != places.shape:
        raise InputError(f"values of shape {known.shape} at steps of shape {places.shape}", "one value per step")
    falls = np.diff(places) < 0
    if falls.any():
        raise InputError(f"steps that decrease at index {int(falls.argmax()) + 1}", "steps in order")
    return np.append(np.nan, known)[np.searchsorted(places, points, side="right")]


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not an array of numbers: {error}", "real numbers") from error


def _line(values: Any, name: str) -> Float[np.ndarray, " n"]:
    array = _array(values, name)
    if array.ndim != 1 or np.isnan(array).any():
        raise InputError(f"{name} of shape {array.shape}, {np.isnan(array).sum()} of them NaN", "shape (n,), no NaN")
    return array


def _matrix(scores: Any) -> Float[np.ndarray, "runs tasks"]:
    array = _array(scores, "scores")
    matrix = array[:, None] if array.ndim == 1 else array
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        wrong = int((~np.isfinite(array)).sum())
        raise InputError(f"scores of shape {array.shape}, {wrong} not finite", "(runs, tasks) or (runs,), all finite")
    return matrix


def _generator(resamples: int, level: float, seed: int) -> np.random.Generator:
    checks.check("resamples", resamples, checks.Count)
    checks.check("level", level, checks.OpenShare)
    checks.check("seed", seed, checks.Natural)
    return np.random.default_rng(seed)


def _resample(matrix: Float[np.ndarray, "runs tasks"], random: np.random.Generator) -> Float[np.ndarray, "runs tasks"]:
    """Draw runs with replacement, independently for each task: tasks are the strata."""
    drawn: np.ndarray = np.take_along_axis(matrix, random.integers(len(matrix), size=matrix.shape), axis=0)
    return drawn
