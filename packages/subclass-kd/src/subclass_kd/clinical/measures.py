"""Measures of a binary classifier with bootstrap intervals by patient, and thresholds chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sextet_common.checks import Count, OpenShare, PositiveShare, check
from sextet_common.errors import InputError
from sextet_common.seeding import generator

Rule = Literal["youden", "sensitivity", "specificity", "half"]
BINS = 10  # of the calibration curve, of equal width
_NUMBERS = 1 << 22  # of a block of resampled weights
_Weights = Float[np.ndarray, "replicates images"]


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap(
    statistics: Callable[[_Weights], Mapping[str, Float[np.ndarray, " replicates"]]],
    groups: Shaped[np.ndarray, " images"],
    *,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return statistics with percentile intervals from resampling whole groups, such as patients, with replacement.

    ``statistics`` maps weights of the images, how often each was drawn, to named values, one per row of weights; a row
    of ones gives the values themselves. Replicates in which a statistic is NaN, such as without any positive image, are
    left out of its interval.

    Examples
    --------
    >>> values = np.array([0.0, 1.0, 1.0, 0.0])
    >>> mean = lambda weights: {"mean": weights @ values / weights.sum(axis=1)}
    >>> print(bootstrap(mean, np.array(["anna", "anna", "bert", "carl"]))["mean"])
    0.5000 [0.0000, 1.0000]
    """
    check("replicates", replicates, Count)
    check("level", level, OpenShare)
    group_of = np.unique(groups, return_inverse=True)[1]
    count, images = int(group_of.max()) + 1, len(group_of)
    random = generator(seed, "bootstrap by patient")
    blocks = []
    for start in range(0, replicates, block := max(1, _NUMBERS // images)):
        draws = random.multinomial(count, np.full(count, 1 / count), size=min(block, replicates - start))
        blocks.append(statistics(draws[:, group_of].astype(np.float64)))
    tail = 100 * (1 - level) / 2
    result = {}
    for name, value in statistics(np.ones((1, images))).items():
        drawn = np.concatenate([each[name] for each in blocks])
        drawn = drawn[~np.isnan(drawn)]
        low, high = np.percentile(drawn, [tail, 100 - tail]) if len(drawn) else (math.nan, math.nan)
        result[name] = Interval(float(value[0]), float(low), float(high))
    return result


def rates(positive: np.ndarray, predicted: np.ndarray, weights: _Weights) -> dict[str, np.ndarray]:
    """Return sensitivity, specificity, predictive values, F1 and accuracy of decisions."""
    table = {
        name: weights @ (a & b).astype(np.float64)
        for name, a, b in (
            ("tp", positive, predicted),
            ("fn", positive, ~predicted),
            ("fp", ~positive, predicted),
            ("tn", ~positive, ~predicted),
        )
    }
    tp, fn, fp, tn = table.values()
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "PPV": tp / (tp + fp),
            "NPV": tn / (tn + fn),
            "F1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp + tn) / (tp + tn + fp + fn),
        }


def roc(positive: np.ndarray, scores: np.ndarray, weights: _Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sensitivity and specificity at every cut, (replicates, cuts), and the cuts, in decreasing order.

    At a cut, images with larger scores are predicted positive. Cuts lie halfway between neighbouring scores; above the
    first is no score, and below the last are none.
    """
    order = np.argsort(-scores, kind="stable")
    values = scores[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    tp, fp = (
        np.cumsum(np.add.reduceat((weights * labels)[:, order], starts, axis=1), axis=1)
        for labels in (positive, ~positive)
    )
    distinct = values[starts]
    below = np.nextafter(distinct, -math.inf)
    halfway = np.minimum(distinct[1:] + (distinct[:-1] - distinct[1:]) / 2, below[:-1])
    cuts = np.r_[distinct[0], halfway, below[-1]]
    with np.errstate(invalid="ignore"):
        sensitivity, specificity = tp / tp[:, -1:], (fp[:, -1:] - fp) / fp[:, -1:]
    none = np.ones((len(weights), 1))
    return np.hstack([0 * none, sensitivity]), np.hstack([none, specificity]), cuts


def auroc(positive: np.ndarray, scores: np.ndarray, weights: _Weights) -> Float[np.ndarray, " replicates"]:
    """Return the area under the ROC curve; ties count as a half."""
    sensitivity, specificity, _ = roc(positive, scores, weights)
    area: Float[np.ndarray, " replicates"] = np.trapezoid(sensitivity, 1 - specificity, axis=1)
    return area


def at_fixed(
    positive: np.ndarray, scores: np.ndarray, weights: _Weights, *, specificity: float, sensitivity: float
) -> dict[str, np.ndarray]:
    """Return the ROC curve's sensitivity at the least specificity that is given, and the reverse."""
    each_sensitivity, each_specificity, _ = roc(positive, scores, weights)
    lost = np.isnan(each_sensitivity[:, -1] + each_specificity[:, -1])
    found = {
        "sensitivity": np.where(each_specificity >= specificity, each_sensitivity, 0).max(axis=1),
        "specificity": np.where(each_sensitivity >= sensitivity, each_specificity, 0).max(axis=1),
    }
    return {name: np.where(lost, math.nan, value) for name, value in found.items()}


def calibration(positive: np.ndarray, probability: np.ndarray, weights: _Weights) -> dict[str, np.ndarray]:
    """Return the Brier score and the expected calibration error over ten bins of equal width."""
    difference = positive - probability
    total = weights.sum(axis=1)
    per_bin = difference[:, None] * (bin_of(probability)[:, None] == np.arange(BINS))
    return {
        "Brier score": weights @ difference**2 / total,
        "calibration error": np.abs(weights @ per_bin).sum(axis=1) / total,
    }


def bin_of(probability: np.ndarray) -> np.ndarray:
    """Return the bin of each probability, from 0; the last includes 1."""
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)


def choose_threshold(
    positive: Bool[np.ndarray, " images"],
    scores: Float[np.ndarray, " images"],
    rule: Rule = "youden",
    target: float = 0.9,
) -> float:
    """Return the threshold that a score must exceed for a positive decision, chosen on these images.

    ``youden`` maximises sensitivity + specificity. ``sensitivity`` takes the largest threshold with at least the target
    sensitivity, ``specificity`` the smallest with at least the target specificity. ``half`` is 0.5. A threshold lies
    halfway between two scores.

    Examples
    --------
    >>> labels, scores = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.3, 0.8])
    >>> [round(choose_threshold(labels, scores, rule, 1.0), 2) for rule in ("youden", "sensitivity", "specificity")]
    [0.6, 0.2, 0.6]
    """
    check("rule", rule, Rule)
    check("target", target, PositiveShare)
    labels, values = check_scores(positive, scores)
    if rule == "half":
        return 0.5
    if labels.all() or not labels.any():
        raise InputError(f"{labels.sum()} of {len(labels)} images are positive", "images of both classes")
    sensitivity, specificity, cuts = roc(labels, values, np.ones((1, len(labels))))
    if rule == "youden":
        return float(cuts[np.argmax(sensitivity[0] + specificity[0])])
    if rule == "sensitivity":
        return float(cuts[np.argmax(sensitivity[0] >= target)])
    return float(cuts[np.flatnonzero(specificity[0] >= target)[-1]])


def check_scores(positive: Any, scores: Any) -> tuple[Bool[np.ndarray, " images"], Float[np.ndarray, " images"]]:
    """Return labels and scores as arrays; raise InputError unless they fit together."""
    labels, values = np.asarray(positive), np.asarray(scores, dtype=np.float64)
    if labels.dtype != bool or labels.ndim != 1 or values.shape != labels.shape or not len(labels):
        given = f"labels {labels.dtype} {labels.shape}, scores of shape {values.shape}"
        raise InputError(given, "booleans and numbers, both of shape (images,), at least one")
    if not np.isfinite(values).all():
        raise InputError(f"a score is {values[~np.isfinite(values)][0]}", "finite numbers")
    return labels, values
