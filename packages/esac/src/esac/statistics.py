"""What several runs say together: robust aggregates, bootstrap intervals, curves on one grid. NumPy alone.

The aggregates are those of Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice"
(arXiv 2108.13264). Their library, rliable, is archived; scores are laid out as there: a row a run, a column a task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sextet_common.errors import InputError


class Interval(NamedTuple):
    """A number and its confidence interval.

    Attributes
    ----------
    value
        The statistic of the scores themselves.
    low, high
        The interval's ends.
    """

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """A mean curve and its pointwise confidence intervals.

    Attributes
    ----------
    mean, low, high
        Shape (points,); NaN where no curve has a value.
    """

    mean: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def iqm(scores: Float[np.ndarray, "runs tasks"] | Float[np.ndarray, " runs"]) -> float:
    """Return the interquartile mean: the mean without the lowest and the highest quarter of all scores.

    Parameters
    ----------
    scores
        Shape (runs, tasks), or (runs,) for one task; runs and tasks are pooled.

    Returns
    -------
    float
        The mean of what is left after ``floor(n / 4)`` scores are taken from either end, as
        ``scipy.stats.trim_mean(scores, 0.25, axis=None)``.

    Raises
    ------
    InputError
        Where there is no score, or one is not finite.

    Examples
    --------
    >>> iqm(np.array([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    ordered = np.sort(_matrix(scores), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def optimality_gap(scores: Float[np.ndarray, "runs tasks"] | Float[np.ndarray, " runs"], gamma: float = 1.0) -> float:
    """Return by how much runs miss a wanted score on average; what lies above it makes up for nothing.

    Parameters
    ----------
    scores
        Shape (runs, tasks) or (runs,).
    gamma
        The wanted score, in the scores' unit.

    Returns
    -------
    float
        ``mean(max(gamma - score, 0))``, so 0 is best.

    Raises
    ------
    InputError
        Where there is no score, or one of them or `gamma` is not finite.

    Examples
    --------
    >>> optimality_gap(np.array([0.5, 3.0]), gamma=1.0)
    0.25
    """
    if not np.isfinite(gamma):
        raise InputError(f"gamma is {gamma}", "a finite score")
    return float(np.maximum(gamma - _matrix(scores), 0.0).mean())


def probability_of_improvement(
    x: Float[np.ndarray, "runs_x tasks"] | Float[np.ndarray, " runs_x"],
    y: Float[np.ndarray, "runs_y tasks"] | Float[np.ndarray, " runs_y"],
) -> float:
    """Return how probably a run of one algorithm beats a run of another on a task drawn at random.

    Parameters
    ----------
    x, y
        Scores of the two on the same tasks, shapes (runs, tasks) or (runs,); their numbers of runs may differ.

    Returns
    -------
    float
        The Mann-Whitney statistic of each task over its number of pairs, a tie counted as one half; averaged over
        tasks.

    Raises
    ------
    InputError
        Where the numbers of tasks differ, there is no score, or one is not finite.

    Examples
    --------
    >>> probability_of_improvement(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    ours, theirs = _matrix(x), _matrix(y)
    if ours.shape[1] != theirs.shape[1]:
        raise InputError(f"scores on {ours.shape[1]} and on {theirs.shape[1]} tasks", "the same tasks for both")
    difference = ours[:, None] - theirs[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def performance_profile(
    scores: Float[np.ndarray, "runs tasks"] | Float[np.ndarray, " runs"], thresholds: Float[np.ndarray, " thresholds"]
) -> Float[np.ndarray, " thresholds"]:
    """Return the share of runs that score above each threshold.

    Parameters
    ----------
    scores
        Shape (runs, tasks) or (runs,).
    thresholds
        Shape (thresholds,).

    Returns
    -------
    array
        Shares from 0 to 1, averaged over tasks.

    Raises
    ------
    InputError
        Where there is no score, or one is not finite, or thresholds have another shape or are not numbers.

    Examples
    --------
    >>> performance_profile(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 4.0]))
    array([1. , 0.5, 0. ])
    """
    pooled = np.sort(_matrix(scores), axis=None)
    above: np.ndarray = len(pooled) - np.searchsorted(pooled, _line(thresholds, "thresholds"), side="right")
    return above / len(pooled)


def interval(
    statistic: Callable[..., float],
    *scores: Float[np.ndarray, "runs tasks"] | Float[np.ndarray, " runs"],
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic with its stratified percentile bootstrap interval.

    Each resample draws, for every task apart, as many runs as there are with replacement. A profile's interval is
    taken one threshold at a time.

    Parameters
    ----------
    statistic
        A function of as many score matrices as are given, shape (runs, tasks) each.
    scores
        One matrix, or several that are resampled apart, as `probability_of_improvement` needs.
    resamples
        How many.
    level
        The interval's coverage, between 0 and 1.
    seed
        Of the draws: the same seed gives the same interval.

    Returns
    -------
    Interval
        The statistic of the scores, and the quantiles of that of the resamples. One run alone gives an interval
        without width: it says nothing of other runs.

    Raises
    ------
    InputError
        Where there is no score, one is not finite, or another argument is out of its range.

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
    found = [statistic(*(_resampled(matrix, random) for matrix in matrices)) for _ in range(resamples)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*matrices)), float(low), float(high))


def band(
    curves: Float[np.ndarray, "seeds points"], *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Band:
    """Return the mean of curves over seeds, with a pointwise percentile bootstrap band.

    Parameters
    ----------
    curves
        Shape (seeds, points), on one grid. Where a curve has no value (NaN) the others are averaged; resamples that
        have none there are left out.
    resamples
        How many; each draws as many whole curves as there are, with replacement.
    level
        The coverage at each point, between 0 and 1.
    seed
        Of the draws: the same seed gives the same band.

    Returns
    -------
    Band
        Mean and band. One curve alone gives a band without width.

    Raises
    ------
    InputError
        Where there is no curve, a value is infinite, or another argument is out of its range.

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
    # How often each resample has each curve: means are then products of matrices. The first row is every curve once.
    often = np.vstack([np.ones(seeds), (drawn[:, :, None] == np.arange(seeds)).sum(axis=1)])
    known = ~np.isnan(values)
    total, number = often @ np.where(known, values, 0.0), often @ known
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
    """Return a curve's values on a grid: the last one at or before each point, as that is what was known there.

    Parameters
    ----------
    steps
        Where the values were found, shape (n,), not falling; of equal steps the last counts.
    values
        Shape (n,).
    grid
        Shape (points,), in the unit of `steps`.

    Returns
    -------
    array
        Shape (points,), NaN before the first step.

    Raises
    ------
    InputError
        Where shapes differ, or steps fall or are not numbers.

    Examples
    --------
    >>> on_grid(np.array([10.0, 20.0]), np.array([1.0, 2.0]), np.array([5.0, 10.0, 19.0, 30.0]))
    array([nan,  1.,  1.,  2.])
    """
    where, points = _line(steps, "steps"), _line(grid, "grid")
    known = _array(values, "values")
    if known.shape != where.shape:
        raise InputError(f"values of shape {known.shape} at steps of shape {where.shape}", "one value a step")
    if (np.diff(where) < 0).any():
        raise InputError(f"steps that fall at number {int((np.diff(where) < 0).argmax()) + 1}", "steps in order")
    return np.append(np.nan, known)[np.searchsorted(where, points, side="right")]


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} that are no array of numbers: {error}", "real numbers") from error


def _line(values: Any, name: str) -> Float[np.ndarray, " n"]:
    found = _array(values, name)
    if found.ndim != 1 or np.isnan(found).any():
        raise InputError(f"{name} of shape {found.shape}, {np.isnan(found).sum()} of them NaN", "shape (n,), no NaN")
    return found


def _matrix(scores: Any) -> Float[np.ndarray, "runs tasks"]:
    found = _array(scores, "scores")
    matrix = found[:, None] if found.ndim == 1 else found
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        wrong = int((~np.isfinite(found)).sum())
        raise InputError(f"scores of shape {found.shape}, {wrong} not finite", "(runs, tasks) or (runs,), all finite")
    return matrix


def _generator(resamples: int, level: float, seed: int) -> np.random.Generator:
    if resamples < 1 or not 0 < level < 1 or seed < 0:
        raise InputError(f"{resamples} resamples, level {level}, seed {seed}", ">= 1, between 0 and 1, >= 0")
    return np.random.default_rng(seed)


def _resampled(matrix: Float[np.ndarray, "runs tasks"], random: np.random.Generator) -> Float[np.ndarray, "runs tasks"]:
    """Draw runs with replacement, for each task apart: tasks are the strata."""
    found: np.ndarray = np.take_along_axis(matrix, random.integers(len(matrix), size=matrix.shape), axis=0)
    return found
