"""What an uncertainty is worth: how well it ranks the errors of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from sextet_common.errors import InputError


@dataclass(frozen=True)
class Ranking:
    """How well an uncertainty ranks errors."""

    auroc: float
    """Probability that a wrong prediction has a higher uncertainty than a right one, ties half; NaN without both."""
    aurc: float
    """Area under the risk-coverage curve: mean error among the surest rows, averaged over their number."""
    best_aurc: float
    """The lowest possible `aurc`: all right predictions before all wrong ones."""
    error: float
    """Mean error of all rows: the `aurc` of a random order."""


def error_ranking(values: Shaped[np.ndarray, " rows"], wrong: Shaped[np.ndarray, " rows"]) -> Ranking:
    """Measure how well an uncertainty (`values`) ranks errors, zeros and ones (`wrong`).

    An error is, for instance, that at least one label of an image is wrong, or that one label is. The same function
    measures the detection of out-of-distribution images: those are the errors.

    Examples
    --------
    >>> error_ranking(np.array([0.1, 0.9, 0.5, 0.4]), np.array([0, 1, 1, 0])).auroc
    1.0
    """
    from sklearn.metrics import roc_auc_score

    values, wrong = _checked(values, wrong)
    both = 0 < wrong.sum() < len(wrong)
    return Ranking(
        auroc=float(roc_auc_score(wrong, values)) if both else float("nan"),
        aurc=float(risk_coverage(values, wrong)[1].mean()),
        best_aurc=float(risk_coverage(wrong, wrong)[1].mean()),
        error=float(wrong.mean()),
    )


def risk_coverage(
    values: Shaped[np.ndarray, " rows"], errors: Shaped[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Compute the risk-coverage curve: the mean error of the surest rows, at every share of rows.

    Rows of equal uncertainty have their mean error each, as in the mean over all orders of them.

    Returns
    -------
    tuple of array
        Coverage, from 1 / rows to 1, and risk.

    Examples
    --------
    >>> coverage, risk = risk_coverage(np.array([1, 2, 3, 4]), np.array([0, 0, 1, 1]))
    >>> coverage.tolist(), risk.round(2).tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.33, 0.5])
    """
    values, errors = _checked(values, errors)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=errors) / counts
    number = np.arange(1, len(values) + 1)
    return number / len(values), np.cumsum(means[np.sort(group)]) / number


def _checked(values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, errors = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if values.ndim != 1 or values.shape != errors.shape or not len(values):
        raise InputError(f"values and errors have shapes {values.shape} and {errors.shape}", "(rows,) both")
    if np.isnan(values).any():
        raise InputError("an uncertainty is NaN", "numbers")
    return values, errors
