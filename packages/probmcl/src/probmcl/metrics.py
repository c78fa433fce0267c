"""Scores of a multi-label classifier, with every convention chosen by name.

All labels are sorted at once. The numbers are those of scikit-learn and torchmetrics, which the tests compare with.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from sextet_common.checks import Bounds, Count, ShareBelowOne, check
from sextet_common.errors import InputError
from sextet_common.text import SHORT, terminal
from torch import Tensor

Absent = Literal["ignore", "zero"]
TopKRule = Literal["only", "and_threshold"]
Tuned = Literal["cf1", "of1"]

_THRESHOLDS = np.arange(1, 100) / 100
_AT_ONCE = 2**22  # numbers of the scores that are sorted at once


@dataclasses.dataclass(frozen=True)
class Scores:
    """A classifier's scores on a data set, as shares in [0, 1]."""

    mean_ap: float
    """Mean over the labels of the average precision. It needs no threshold."""
    cp: float
    """Per-class precision: mean over the labels."""
    cr: float
    """Per-class recall: mean over the labels."""
    cf1: float
    """Harmonic mean of `cp` and `cr`, as in the tables of ML-GCN and its followers."""
    macro_f1: float
    """Mean over the labels of their F1, the macro average of scikit-learn and torchmetrics."""
    op: float
    """Overall precision: all labels of all rows counted together."""
    orr: float
    """Overall recall."""
    of1: float
    """Overall F1."""
    top_k: dict[str, float]
    """The same seven without `mean_ap`, if only the `k` best labels of a row may be positive."""
    k: int
    top_k_rule: TopKRule
    """Whether the k best labels must also exceed the threshold ("and_threshold") or not ("only")."""
    calibration_error: float
    """Expected calibration error over all (row, label) pairs, in bins of equal width."""
    exact_match: float
    """Share of rows whose labels are all right."""
    per_label_ap: tuple[float, ...]
    """Average precision of every label; NaN for an absent one."""
    threshold: float
    """A label is predicted if its probability exceeds it."""
    n_labels_used: int
    """Labels with at least one positive row. `absent` says what becomes of the others."""
    absent: Absent
    """Absent labels are left out of means over labels ("ignore") or count as 0 ("zero")."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; the average precision of an absent label is None."""
        plain = dataclasses.asdict(self)
        plain["per_label_ap"] = [None if np.isnan(value) else value for value in self.per_label_ap]
        return plain

    def table(self, label_names: tuple[str, ...] | None = None) -> str:
        """Return the scores as lines to print, in per cent; with names, one line for every label."""
        names = ("cp", "cr", "cf1", "macro_f1", "op", "orr", "of1")
        shown = {"cp": "CP", "cr": "CR", "cf1": "CF1", "macro_f1": "macro F1", "op": "OP", "orr": "OR", "of1": "OF1"}
        lines = [f"mAP {100 * self.mean_ap:6.2f}   (mean over {self.n_labels_used} of {len(self.per_label_ap)} labels)"]
        rule = "only these" if self.top_k_rule == "only" else "and the threshold"
        for title, values in (
            (f"probability > {self.threshold:g}", {name: getattr(self, name) for name in names}),
            (f"top {self.k}, {rule}", self.top_k),
        ):
            lines.append(f"{title}: " + "  ".join(f"{shown[name]} {100 * values[name]:.2f}" for name in names))
        lines.append(f"calibration error {100 * self.calibration_error:.2f}   exact match {100 * self.exact_match:.2f}")
        for name, value in zip(label_names or (), self.per_label_ap, strict=False):
            shown_name = terminal(name, SHORT)
            lines.append(
                f"AP {shown_name}: {100 * value:.2f}" if not np.isnan(value) else f"AP {shown_name}: no positive row"
            )
        return "\n".join(lines)


def evaluate(
    probabilities: Float[Tensor, "rows labels"] | Float[np.ndarray, "rows labels"],
    labels: Shaped[Tensor, "rows labels"] | Shaped[np.ndarray, "rows labels"],
    *,
    threshold: float = 0.5,
    absent: Absent = "ignore",
    k: int | None = None,
    top_k_rule: TopKRule = "only",
    bins: int = 15,
) -> Scores:
    """Measure predicted probabilities against labels: 1, 0, or negative where unknown.

    An unknown label counts nowhere: neither in its label's average precision nor among a row's k best, and a row whose
    known labels are right is an exact match.

    Parameters
    ----------
    probabilities
        In [0, 1], shape (rows, labels), of the whole data set: a mean over batches differs.
    threshold
        A label is predicted if its probability exceeds it. Published code uses 0.5 or 0.8; scores at different
        thresholds are not comparable. Choose it on validation data with `best_threshold`.
    absent
        Labels that no row has have no average precision or recall: they are left out of every mean over labels
        ("ignore"), or count as 0 ("zero").
    k
        By default 3, or fewer if there are fewer labels.
    top_k_rule
        "only": the k best labels of a row are predicted. "and_threshold": those of them above the threshold.
    bins
        Number of bins of the calibration error.

    References
    ----------
    CP, CR, CF1, OP, OR, OF1 as in the tables of arXiv 2401.01448 and of the papers it compares with.

    Examples
    --------
    >>> scores = evaluate(np.array([[0.9, 0.2], [0.3, 0.8], [0.6, 0.7]]), np.array([[1, 0], [0, 1], [0, 1]]), k=1)
    >>> round(scores.mean_ap, 3), round(scores.cp, 3), round(scores.cr, 3), round(scores.of1, 3)
    (1.0, 0.75, 1.0, 0.857)
    """
    scores, truth = _checked(probabilities, labels)
    n_labels = truth.shape[1]
    check("threshold", threshold, ShareBelowOne)
    check("absent", absent, Absent)
    check("top_k_rule", top_k_rule, TopKRule)
    check("k", k, Annotated[int, Bounds(1, n_labels)] | None)
    check("bins", bins, Count)
    k = min(3, n_labels) if k is None else k
    ap = average_precision(scores, truth)
    present = _present(truth)
    predicted = scores > scores.dtype.type(threshold)
    best = _best(scores, truth, k)
    chosen_best = best if top_k_rule == "only" else best & predicted
    known = truth >= 0
    measured = known.any(axis=1)
    return Scores(
        mean_ap=float(ap[present].sum()) / (int(present.sum()) if absent == "ignore" else n_labels),
        **_thresholded(*_counts(predicted, truth), present, absent),
        top_k=_thresholded(*_counts(chosen_best, truth), present, absent),
        k=k,
        top_k_rule=top_k_rule,
        calibration_error=_calibration_error(scores[known], truth[known], bins),
        exact_match=float(((predicted == (truth == 1)) | ~known).all(axis=1)[measured].mean()),
        per_label_ap=tuple(ap.tolist()),
        threshold=float(threshold),
        n_labels_used=int(present.sum()),
        absent=absent,
    )


def best_threshold(
    probabilities: Float[Tensor, "rows labels"] | Float[np.ndarray, "rows labels"],
    labels: Shaped[Tensor, "rows labels"] | Shaped[np.ndarray, "rows labels"],
    score: Tuned = "of1",
) -> float:
    """Return the threshold from 0.01 to 0.99 with the highest score, the lowest of equal ones; on validation data.

    Examples
    --------
    >>> best_threshold(np.array([[0.3], [0.2], [0.1]]), np.array([[1], [1], [0]]))
    0.1
    """
    check("score", score, Tuned)
    scores, truth = _checked(probabilities, labels)
    present = _present(truth)
    # A score is predicted at the first thresholds, those below it: one count of all scores serves all thresholds.
    below = np.searchsorted(_THRESHOLDS.astype(scores.dtype), scores.ravel(), side="left").reshape(scores.shape)
    n_labels, steps = truth.shape[1], len(_THRESHOLDS) + 1
    place = below + steps * np.arange(n_labels)
    hits, others = (
        np.bincount(place[truth == value], minlength=steps * n_labels).reshape(n_labels, steps) for value in (1, 0)
    )
    above = [table[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] for table in (hits, others)]
    positives = hits.sum(axis=1)
    values = [
        _thresholded(tp, fp, positives - tp, present, "ignore")[score]
        for tp, fp in zip(above[0].T, above[1].T, strict=True)
    ]
    return float(_THRESHOLDS[int(np.argmax(values))])


def average_precision(
    scores: Float[np.ndarray, "rows labels"], truth: Int[np.ndarray, "rows labels"]
) -> Float[np.ndarray, " labels"]:
    """Compute the average precision of every label, NaN without a positive row; equal scores are one threshold.

    Labels are 1, 0, or negative where unknown.

    Examples
    --------
    >>> average_precision(np.array([[0.9, 0.2], [0.8, 0.2], [0.1, 0.2]]), np.array([[1, 1], [0, 0], [1, 0]]))
    array([0.83333333, 0.33333333])
    """
    rows, n_labels = scores.shape
    width = max(1, _AT_ONCE // max(1, rows))
    parts = [slice(first, first + width) for first in range(0, n_labels, width)]
    return np.concatenate([_average_precision(scores[:, part].T, truth[:, part].T) for part in parts])


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute the average precision of labels whose scores are rows."""
    order = np.argsort(-scores, axis=1)
    ranked, values = np.take_along_axis(scores, order, axis=1), np.take_along_axis(truth, order, axis=1)
    hits = np.cumsum(values == 1, axis=1)
    counted = np.cumsum(values >= 0, axis=1)
    ends = np.ones(ranked.shape, dtype=bool)
    ends[:, :-1] = ranked[:, :-1] != ranked[:, 1:]  # the last of equal scores
    until = np.maximum.accumulate(np.where(ends, hits, 0), axis=1)
    gained = np.diff(until, axis=1, prepend=0)  # hits of a group of equal scores, at its end
    total = hits[:, -1]
    with np.errstate(invalid="ignore"):
        return np.asarray((gained * (hits / np.maximum(counted, 1))).sum(axis=1) / np.where(total, total, np.nan))


def _present(truth: np.ndarray) -> np.ndarray:
    present = (truth == 1).any(axis=0)
    if not present.any():
        raise InputError("no label has a positive row", "at least one positive")
    return np.asarray(present)


def _best(scores: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Return which are the k best of a row's known labels."""
    known = torch.from_numpy(truth >= 0)
    values = torch.from_numpy(scores).masked_fill(~known, -1.0)
    chosen = torch.zeros(values.shape, dtype=torch.bool).scatter_(1, values.topk(k, dim=1).indices, True)
    return (chosen & known).numpy()


def _counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count true positives, false positives and false negatives of every label."""
    positive = truth == 1
    hits = (predicted & positive).sum(axis=0)
    return hits, (predicted & (truth == 0)).sum(axis=0), positive.sum(axis=0) - hits


def _thresholded(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, present: np.ndarray, absent: Absent
) -> dict[str, float]:
    """Compute the scores of binary predictions from their counts; 0 / 0 is 0."""
    counted = present if absent == "ignore" else np.ones_like(present)

    def ratio(part: Any, whole: Any) -> Any:
        return part / np.maximum(whole, 1)

    def mean(part: np.ndarray, whole: np.ndarray) -> float:
        return float(ratio(part, whole)[counted].mean())

    cp, cr = mean(tp, tp + fp), mean(tp, tp + fn)
    hits, false, missed = tp.sum(), fp.sum(), fn.sum()
    return {
        "cp": cp,
        "cr": cr,
        "cf1": 2 * cp * cr / (cp + cr) if cp + cr > 0 else 0.0,
        "macro_f1": mean(2 * tp, 2 * tp + fp + fn),
        "op": float(ratio(hits, hits + false)),
        "orr": float(ratio(hits, hits + missed)),
        "of1": float(ratio(2 * hits, 2 * hits + false + missed)),
    }


def _calibration_error(scores: np.ndarray, truth: np.ndarray, bins: int) -> float:
    """Compute the expected calibration error in bins [a, b) of equal width; the last one has 1 too."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.from_numpy(scores).dtype).numpy()
    place = np.searchsorted(edges, scores, side="right") - 1
    place[place == bins] = bins - 1
    gaps = np.bincount(place, weights=scores, minlength=bins) - np.bincount(place, weights=truth, minlength=bins)
    return float(np.abs(gaps).sum() / len(scores))


def _checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities in [0, 1], float64 where they are given so and float32 otherwise, and labels 1, 0 and -1."""
    scores, truth = (_array(x) for x in (probabilities, labels))
    if scores.ndim != 2 or scores.shape != truth.shape or not scores.size:
        shapes = f"probabilities and labels have shapes {scores.shape} and {truth.shape}"
        raise InputError(shapes, "(rows, labels) both, at least one row")
    scores = scores if scores.dtype == np.float64 else scores.astype(np.float32)
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        summary = f"the probability in row {row}, column {column} is {float(scores[row, column]):g}"
        raise InputError(summary, "numbers in [0, 1]: logits must pass a sigmoid first")
    odd = ~((truth == 0) | (truth == 1) | (truth < 0))
    if odd.any():
        row, column = map(int, np.argwhere(odd)[0])
        raise InputError(f"label {truth[row, column]} in row {row}, column {column}", "1, 0, or negative if unknown")
    return scores, (truth > 0).astype(np.int8) - (truth < 0)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    return np.asarray(values)
