"""How well one order agrees with another: the rank correlations of an architecture search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sextet_common import seeding
from sextet_common.errors import InputError

RESAMPLES = 2000  # of the bootstrap: its ends vary by about a hundredth


@dataclass(frozen=True)
class RankCorrelation:
    """Agreement of two rankings, 1 for the same order and -1 for the opposite one.

    A value is NaN where one side ranks nothing: fewer than two things, or all equal.

    Parameters
    ----------
    spearman
        Pearson's correlation of the ranks, equals sharing their mean rank.
    kendall
        Kendall's tau-b: pairs in the same order minus pairs in the opposite one, over their
        number corrected for ties.
    count
        How many things were ranked.

    Examples
    --------
    >>> print(RankCorrelation(spearman=0.8, kendall=0.6, count=72))
    0.80 / 0.60
    """

    spearman: float
    kendall: float
    count: int

    def __str__(self) -> str:
        return f"{self.spearman:.2f} / {self.kendall:.2f}"


def rank_correlation(a: Float[np.ndarray, " things"], b: Float[np.ndarray, " things"]) -> RankCorrelation:
    """Compare the orders in which two lists of numbers put the same things.

    Parameters
    ----------
    a, b
        A number for each thing, shape (things,).

    Returns
    -------
    RankCorrelation
        Spearman's and Kendall's coefficients.

    Raises
    ------
    InputError
        Where the lists have different lengths.

    Examples
    --------
    >>> print(rank_correlation(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.7, 0.9])))
    1.00 / 1.00
    """
    from scipy import stats  # here, since it takes a second to import and only the end of a search needs it

    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"numbers of shapes {a.shape} and {b.shape}", "one for each thing in both")
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(math.nan, math.nan, len(a))
    return RankCorrelation(float(stats.spearmanr(a, b).statistic), float(stats.kendalltau(a, b).statistic), len(a))


def spearman_interval(
    a: Float[np.ndarray, " things"], b: Float[np.ndarray, " things"], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Say how far Spearman's coefficient depends on which things happened to be ranked.

    Parameters
    ----------
    a, b
        A number for each thing, shape (things,).
    seed
        The seed of the resampling.
    level
        The share of resamples between the two ends.

    Returns
    -------
    tuple of float
        The ends of a percentile bootstrap interval over the things; NaN where nothing is ranked.

    Examples
    --------
    >>> spearman_interval(np.arange(9.0), np.arange(9.0))
    (1.0, 1.0)
    """
    from scipy import stats

    if math.isnan(rank_correlation(a, b).spearman):
        return math.nan, math.nan
    chosen = seeding.generator(seed, "bootstrap").integers(len(a), size=(RESAMPLES, len(a)))
    ranks = [stats.rankdata(values[chosen], axis=1) for values in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    ranked = scale > 0  # a resample of equals alone says nothing
    found = (x * y).sum(axis=1)[ranked] / scale[ranked]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).clip(-1, 1)
    return float(low), float(high)
