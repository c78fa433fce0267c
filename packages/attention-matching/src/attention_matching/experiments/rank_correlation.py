"""Agreement of two rankings: rank correlations and their bootstrap interval."""

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
    """Rank correlations of two rankings, 1 for the same order and -1 for the opposite one.

    Both are NaN if one side ranks nothing: fewer than two items, or all equal.

    Examples
    --------
    >>> print(RankCorrelation(spearman=0.8, kendall=0.6, count=72))
    0.80 / 0.60
    """

    spearman: float
    """Pearson's correlation of the ranks; ties share their mean rank."""
    kendall: float
    """Kendall's tau-b, which corrects for ties."""
    count: int
    """Number of ranked items."""

    def __str__(self) -> str:
        return f"{self.spearman:.2f} / {self.kendall:.2f}"


def rank_correlation(a: Float[np.ndarray, " items"], b: Float[np.ndarray, " items"]) -> RankCorrelation:
    """Compare the orders in which two arrays of numbers rank the same items.

    Examples
    --------
    >>> print(rank_correlation(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.7, 0.9])))
    1.00 / 1.00
    """
    from scipy import stats  # a second to import, needed only at the end of a search

    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"numbers of shapes {a.shape} and {b.shape}", "one for each item in both")
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(math.nan, math.nan, len(a))
    return RankCorrelation(float(stats.spearmanr(a, b).statistic), float(stats.kendalltau(a, b).statistic), len(a))


def spearman_interval(
    a: Float[np.ndarray, " items"], b: Float[np.ndarray, " items"], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of Spearman's coefficient over the items; NaN if nothing is ranked.

    Examples
    --------
    >>> spearman_interval(np.arange(9.0), np.arange(9.0))
    (1.0, 1.0)
    """
    from scipy import stats

    if math.isnan(rank_correlation(a, b).spearman):
        return math.nan, math.nan
    resamples = seeding.generator(seed, "bootstrap").integers(len(a), size=(RESAMPLES, len(a)))
    ranks = [stats.rankdata(values[resamples], axis=1) for values in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    ranked = scale > 0  # a resample of equal values ranks nothing
    coefficients = (x * y).sum(axis=1)[ranked] / scale[ranked]
    low, high = np.quantile(coefficients, [(1 - level) / 2, (1 + level) / 2]).clip(-1, 1)
    return float(low), float(high)
