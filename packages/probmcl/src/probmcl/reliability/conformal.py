"""Sets of labels with a guarantee: thresholds of the probabilities, chosen on data the model was not trained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from sextet_common.checks import OpenShare, check
from sextet_common.errors import DataWarning, InputError
from torch import Tensor

Guarantee = Literal["recall", "set", "label"]

_ROUNDING = 1e-9  # 1 - 0.9 is a little below 0.1


@dataclass(frozen=True)
class Coverage:
    """What sets of labels contain of the true labels, as shares in [0, 1], and how large they are."""

    recall: float
    """Mean over the rows of the share of their labels that the set contains; 1 for a row without labels."""
    whole_set: float
    """Share of rows whose labels are all in the set."""
    per_label: tuple[float, ...]
    """For every label, the share of its rows whose set contains it; NaN for an absent label."""
    mean_size: float
    """Mean number of labels in a set."""
    rows: int

    def of(self, guarantee: Guarantee) -> float:
        """Return the share that a guarantee is about; for "label" that of the label with the lowest."""
        if guarantee == "label":
            return float(np.nanmin(self.per_label))
        return self.recall if guarantee == "recall" else self.whole_set

    def table(self) -> str:
        """Return the shares as a line to print, in per cent."""
        return (
            f"on {self.rows} rows: recall {100 * self.recall:.1f}   whole sets {100 * self.whole_set:.1f}   "
            f"lowest label {100 * self.of('label'):.1f}   labels in a set {self.mean_size:.2f}"
        )


@dataclass(frozen=True, eq=False)
class ConformalSets:
    """Sets of the labels whose probabilities reach thresholds, with a guarantee that needs no assumption on the model.

    For data exchangeable with the calibration rows, and in the mean over draws of both:

    - "recall": a set contains in the mean at least the share ``level`` of an image's labels;
    - "set": it contains all labels of an image with a probability of at least ``level``;
    - "label": it contains label k with at least that probability in images that show k, for every k.

    References
    ----------
    Conformal risk control of the false-negative rate, arXiv 2208.02814; with a loss of 0 or 1 this is split conformal
    prediction, and within a label class-conditional conformal prediction.

    Examples
    --------
    >>> p = np.linspace(0.05, 0.95, 20)[:, None]
    >>> sets = ConformalSets.fit(p, np.ones((20, 1)), level=0.8, guarantee="set")
    >>> sets.thresholds.round(2), sets.predict(np.array([[0.1], [0.3]])).tolist()
    (array([0.19]), [[False], [True]])
    """

    thresholds: Float[np.ndarray, " labels"]
    level: float
    guarantee: Guarantee
    rows: int
    """Calibration rows."""

    @classmethod
    def fit(
        cls,
        probabilities: Float[Tensor, "rows labels"] | Float[np.ndarray, "rows labels"],
        labels: Shaped[Tensor, "rows labels"] | Shaped[np.ndarray, "rows labels"],
        level: float = 0.9,
        guarantee: Guarantee = "recall",
    ) -> ConformalSets:
        """Choose the highest thresholds with the guarantee, hence the smallest sets.

        The rows must not have been trained on. A row with an unknown label (a negative entry) is left out; for "label"
        the entry alone is. Labels with fewer than ``level / (1 - level)`` rows are in every set of "label".
        """
        check("level", level, OpenShare)
        check("guarantee", guarantee, Guarantee)
        scores, table = _checked(probabilities, labels)
        n_labels = table.shape[1]
        if guarantee == "label":
            columns = [scores[table[:, label] == 1, label] for label in range(n_labels)]
            thresholds = np.array([_threshold(own, np.ones(len(own)), len(own), 1 - level) for own in columns])
            if not thresholds.any():
                raise InputError(f"too few calibration rows of every label for the level {level}", _enough(level))
            if not thresholds.all():
                always = ", ".join(map(str, np.flatnonzero(thresholds == 0)))
                warnings.warn(
                    DataWarning(f"too few calibration rows, so every set contains these label columns: {always}"),
                    stacklevel=2,
                )
            return cls(thresholds, float(level), guarantee, int((table == 1).sum()))
        known = (table >= 0).all(axis=1)
        scores, table = scores[known], table[known]
        if not (table == 1).any():
            raise InputError("no fully labelled calibration row has a label", "labels to cover")
        if guarantee == "set":
            shown = table.any(axis=1)
            values = np.where(table == 1, scores, np.inf).min(axis=1)[shown]
            weights = np.ones(len(values))
        else:
            values = scores[table == 1]
            weights = (table / table.sum(axis=1, keepdims=True).clip(min=1))[table == 1]
        threshold = _threshold(values, weights, len(table), 1 - level)
        if threshold == 0:
            raise InputError(f"{len(table)} calibration rows for the level {level}", _enough(level))
        return cls(np.full(n_labels, threshold), float(level), guarantee, len(table))

    def predict(
        self, probabilities: Float[Tensor, "rows labels"] | Float[np.ndarray, "rows labels"]
    ) -> Bool[Tensor, "rows labels"]:
        """Return the sets as a table: whether a set contains a label."""
        scores = _array(probabilities)
        if scores.ndim != 2 or scores.shape[1] != len(self.thresholds):
            raise InputError(f"probabilities have shape {scores.shape}", f"(rows, {len(self.thresholds)})")
        return torch.from_numpy(scores >= self.thresholds)

    def measure(
        self,
        probabilities: Float[Tensor, "rows labels"] | Float[np.ndarray, "rows labels"],
        labels: Shaped[Tensor, "rows labels"] | Shaped[np.ndarray, "rows labels"],
    ) -> Coverage:
        """Measure the sets on labelled rows other than the calibration's; rows with unknown labels are left out."""
        scores, table = _checked(probabilities, labels)
        known = (table >= 0).all(axis=1)
        sets, truth = self.predict(scores[known]).numpy(), table[known] == 1
        if not len(truth):
            raise InputError("no row is fully labelled", "rows to measure on")
        hits, counts = (sets & truth), truth.sum(axis=1)
        each = truth.sum(axis=0)
        per_label = np.where(each > 0, hits.sum(axis=0) / each.clip(min=1), np.nan)
        recall = np.where(counts > 0, hits.sum(axis=1) / counts.clip(min=1), 1.0)
        return Coverage(
            recall=float(recall.mean()),
            whole_set=float((hits.sum(axis=1) == counts).mean()),
            per_label=tuple(per_label.tolist()),
            mean_size=float(sets.sum(axis=1).mean()),
            rows=len(truth),
        )


def _threshold(values: np.ndarray, weights: np.ndarray, rows: int, risk: float) -> float:
    """Return the largest value t with (sum of weights of values < t + 1) / (rows + 1) <= risk; 0 if there is none."""
    order = np.argsort(values)
    values = values[order]
    missed = np.concatenate([[0.0], np.cumsum(weights[order])])[np.searchsorted(values, values)]
    allowed = values[missed + 1 <= risk * (rows + 1) + _ROUNDING]
    return float(allowed.max()) if len(allowed) else 0.0


def _enough(level: float) -> str:
    return f"at least {int(np.ceil(level / (1 - level) - _ROUNDING))} rows"


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, table = _array(probabilities), _array(labels)
    if scores.ndim != 2 or scores.shape != table.shape or not scores.size:
        shapes = f"probabilities and labels have shapes {scores.shape} and {table.shape}"
        raise InputError(shapes, "(rows, labels) both, at least one row")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError("a probability is outside [0, 1] or NaN", "numbers in [0, 1]")
    if not ((table == 1) | (table <= 0)).all():
        raise InputError("a label is neither 0 nor 1 nor negative", "0, 1, or a negative number for an unknown label")
    return scores, np.sign(table).astype(np.int8)
