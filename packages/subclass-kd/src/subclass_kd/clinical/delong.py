"""Area under the ROC curve with the interval and the test of DeLong, DeLong and Clarke-Pearson (1988)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sextet_common.checks import OpenShare, check
from sextet_common.errors import InputError

from subclass_kd.clinical.measures import Interval, check_scores


@dataclass(frozen=True)
class AurocTest:
    """AUROC of two classifiers on the same images, with DeLong's test of their difference.

    ``difference`` is the first minus the second. ``z`` and the two-sided ``p`` are NaN if the difference has no
    variance, as between two classifiers that order the images equally.
    """

    first: Interval
    second: Interval
    difference: Interval
    z: float
    p: float


def auroc_interval(
    positive: Bool[np.ndarray, " images"], scores: Float[np.ndarray, " images"], *, level: float = 0.95
) -> Interval:
    """Return the AUROC with DeLong's interval, cut off at 0 and 1; ties count as a half.

    The images are taken as independent: for several images per patient, prefer a bootstrap by patient. The interval of
    a perfect order has no width, which is a limit of the method and no certainty.

    Examples
    --------
    >>> print(auroc_interval(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])))
    0.7500 [0.0570, 1.0000]
    """
    check("level", level, OpenShare)
    return _interval(*_area(*_placements(positive, scores)), level, 0.0)


def auroc_test(
    positive: Bool[np.ndarray, " images"],
    first: Float[np.ndarray, " images"],
    second: Float[np.ndarray, " images"],
    *,
    level: float = 0.95,
) -> AurocTest:
    """Test whether two classifiers have the same AUROC on the same images, which are taken as independent.

    Examples
    --------
    >>> labels = np.array([False, False, False, True, True, True])
    >>> a, b = np.array([0.1, 0.2, 0.6, 0.5, 0.7, 0.9]), np.array([0.3, 0.6, 0.2, 0.5, 0.1, 0.9])
    >>> test = auroc_test(labels, a, b)
    >>> print(test.difference, round(test.p, 3))
    0.3333 [-0.4211, 1.0000] 0.386
    """
    check("level", level, OpenShare)
    placements = [_placements(positive, scores) for scores in (first, second)]
    a, b = (_interval(*_area(*both), level, 0.0) for both in placements)
    difference, variance = _area(*(x - y for x, y in zip(*placements, strict=True)))
    z = p = math.nan
    if variance > 0:
        from scipy import stats  # slow to import

        z = difference / math.sqrt(variance)
        p = float(2 * stats.norm.sf(abs(z)))
    return AurocTest(a, b, _interval(difference, variance, level, -1.0), z, p)


def _placements(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many negatives each positive is above, and how many positives are above each negative.

    Ties count as a half; the numbers come from midranks (Sun and Xu, 2014), and are exact.
    """
    from scipy import stats  # slow to import

    labels, values = check_scores(positive, scores)
    above, below = values[labels], values[~labels]
    if min(len(above), len(below)) < 2:
        raise InputError(f"{len(above)} positive and {len(below)} negative images", "at least two of each")
    ranks = stats.rankdata(values)
    beaten = ranks[labels] - stats.rankdata(above)
    beating = len(above) - (ranks[~labels] - stats.rankdata(below))
    return beaten, beating


def _area(beaten: np.ndarray, beating: np.ndarray) -> tuple[float, float]:
    """Return the area under the curve, or a difference of two, and its variance."""
    m, n = len(beaten), len(beating)
    variance = np.var(beaten / n, ddof=1) / m if np.ptp(beaten) else 0.0
    variance += np.var(beating / m, ddof=1) / n if np.ptp(beating) else 0.0
    return float(beaten.mean() / n), float(variance)


def _interval(value: float, variance: float, level: float, least: float) -> Interval:
    from scipy import stats  # slow to import

    half = float(stats.norm.ppf(0.5 + level / 2)) * math.sqrt(variance)
    return Interval(value, max(least, value - half), min(1.0, value + half))
