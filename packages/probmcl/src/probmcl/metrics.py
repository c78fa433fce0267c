"""Scores of a multi-label classifier, with every convention chosen by name; torchmetrics computes them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sextet_common.checks import Bounds, Count, ShareBelowOne, check
from sextet_common.errors import InputError
from sextet_common.text import SHORT, terminal
from torch import Tensor

Absent = Literal["ignore", "zero"]
TopKRule = Literal["only", "and_threshold"]
Tuned = Literal["cf1", "of1"]

_THRESHOLDS = np.arange(1, 100) / 100


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
    k: int = 3,
    top_k_rule: TopKRule = "only",
    bins: int = 15,
) -> Scores:
    """Measure predicted probabilities against labels, zeros and ones.

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
    check("k", k, Annotated[int, Bounds(1, n_labels)])
    check("bins", bins, Count)
    from torchmetrics.functional import classification as tm  # slow to import: it brings torchvision

    present = truth.any(dim=0)
    used = int(present.sum())
    if not used:
        raise InputError("no label has a positive row", "at least one positive")
    ap = torch.full((n_labels,), torch.nan, dtype=torch.float64)
    for label in present.nonzero().flatten().tolist():
        ap[label] = tm.binary_average_precision(scores[:, label], truth[:, label], thresholds=None)
    predicted = scores > threshold
    best = torch.zeros_like(predicted).scatter(1, scores.topk(k, dim=1).indices, torch.ones_like(predicted))
    chosen_best = best if top_k_rule == "only" else best & predicted
    return Scores(
        mean_ap=float(ap[present].sum()) / (used if absent == "ignore" else n_labels),
        **_thresholded(predicted, truth, present, absent),
        top_k=_thresholded(chosen_best, truth, present, absent),
        k=k,
        top_k_rule=top_k_rule,
        calibration_error=float(tm.binary_calibration_error(scores.flatten(), truth.flatten(), n_bins=bins)),
        exact_match=float((predicted == truth.bool()).all(dim=1).double().mean()),
        per_label_ap=tuple(ap.tolist()),
        threshold=float(threshold),
        n_labels_used=used,
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
    present = truth.any(dim=0)
    if not present.any():
        raise InputError("no label has a positive row", "at least one positive")
    values = [_thresholded(scores > value, truth, present, "ignore")[score] for value in _THRESHOLDS]
    return float(_THRESHOLDS[int(np.argmax(values))])


def _thresholded(predicted: Tensor, truth: Tensor, present: Tensor, absent: Absent) -> dict[str, float]:
    """Compute the scores of binary predictions."""
    from torchmetrics.functional import classification as tm

    counted = present if absent == "ignore" else torch.ones_like(present)
    chosen, target = predicted.long(), truth.long()
    n_labels = truth.shape[1]

    def mean(function: Any) -> float:
        # torchmetrics' own macro average always counts absent labels.
        if n_labels == 1:
            return float(function("binary")(chosen[:, 0], target[:, 0]))
        each = function("multilabel")(chosen, target, num_labels=n_labels, average="none").double()
        return float(each[counted].mean())

    def overall(function: Any) -> float:
        return float(function("binary")(chosen.flatten(), target.flatten()))

    functions = {
        name: (lambda kind, name=name: getattr(tm, f"{kind}_{name}")) for name in ("precision", "recall", "f1_score")
    }
    cp, cr = mean(functions["precision"]), mean(functions["recall"])
    return {
        "cp": cp,
        "cr": cr,
        "cf1": 2 * cp * cr / (cp + cr) if cp + cr > 0 else 0.0,
        "macro_f1": mean(functions["f1_score"]),
        "op": overall(functions["precision"]),
        "orr": overall(functions["recall"]),
        "of1": overall(functions["f1_score"]),
    }


def _checked(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return both as tensors on the CPU, probabilities as float32 in [0, 1]: no metric must take them for logits."""
    # torch.tensor copies: torch warns about read-only arrays.
    scores, truth = (x.detach().cpu() if isinstance(x, Tensor) else torch.tensor(x) for x in (probabilities, labels))
    if scores.ndim != 2 or scores.shape != truth.shape or not scores.numel():
        shapes = f"probabilities and labels have shapes {tuple(scores.shape)} and {tuple(truth.shape)}"
        raise InputError(shapes, "(rows, labels) both, at least one row")
    scores = scores.float()
    wrong = (~((scores >= 0) & (scores <= 1))).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        summary = f"the probability in row {row}, column {column} is {float(scores[row, column]):g}"
        raise InputError(summary, "numbers in [0, 1]: logits must pass a sigmoid first")
    odd = ((truth != 0) & (truth != 1)).nonzero()
    if len(odd):
        row, column = odd[0].tolist()
        raise InputError(f"label {truth[row, column].item()} in row {row}, column {column}", "0 or 1")
    return scores, truth.long()
