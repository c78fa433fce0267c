"""What a multi-label classifier is measured with, every convention of it chosen by name. torchmetrics computes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sextet_common.errors import InputError
from torch import Tensor

Absent = Literal["ignore", "zero"]
TopKRule = Literal["only", "and_threshold"]
Tuned = Literal["cf1", "of1"]

_THRESHOLDS = np.arange(1, 100) / 100


@dataclasses.dataclass(frozen=True)
class Scores:
    """A classifier's scores on a data set. All of them are shares in [0, 1], not per cent.

    Parameters
    ----------
    mean_ap
        Mean over the labels of the average precision. It knows no threshold.
    cp, cr
        Per-class precision and recall: means over the labels.
    cf1
        Harmonic mean of `cp` and `cr`, as the tables of ML-GCN and its followers have it.
    macro_f1
        Mean over the labels of their F1, as scikit-learn's and torchmetrics' macro average: another number.
    op, orr, of1
        Overall precision, recall and F1: all labels of all rows counted together.
    top_k
        The same seven without `mean_ap`, where only the `k` best labels of a row may be positive.
    k, top_k_rule
        How many labels, and whether these must pass the threshold too ("and_threshold") or not ("only").
    calibration_error
        Expected calibration error over all (row, label) pairs, in bins of equal width.
    exact_match
        Share of rows whose labels are all right.
    per_label_ap
        Average precision of every label; NaN for one that is absent.
    threshold
        What a probability must exceed to be a positive.
    n_labels_used
        Labels with a positive row at least. The others are left out of means over labels, or count as 0: `absent`.
    absent
        "ignore" or "zero".
    """

    mean_ap: float
    cp: float
    cr: float
    cf1: float
    macro_f1: float
    op: float
    orr: float
    of1: float
    top_k: dict[str, float]
    k: int
    top_k_rule: TopKRule
    calibration_error: float
    exact_match: float
    per_label_ap: tuple[float, ...]
    threshold: float
    n_labels_used: int
    absent: Absent

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the average precision of an absent label is None."""
        plain = dataclasses.asdict(self)
        plain["per_label_ap"] = [None if np.isnan(value) else value for value in self.per_label_ap]
        return plain

    def table(self, label_names: tuple[str, ...] | None = None) -> str:
        """Return the scores as lines to print, in per cent.

        Parameters
        ----------
        label_names
            Names for the lines of single labels, which are left out without.

        Returns
        -------
        str
            The lines.
        """
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
            lines.append(f"AP {name}: {100 * value:.2f}" if not np.isnan(value) else f"AP {name}: no positive row")
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
    """Measure predicted probabilities against labels.

    Parameters
    ----------
    probabilities
        In [0, 1], shape (rows, labels): of the whole data set, for a mean over batches is another number.
    labels
        Zeros and ones, shape (rows, labels).
    threshold
        A label is predicted where its probability exceeds it. Published code takes 0.5 or 0.8; numbers at different
        thresholds are not comparable. Choose it on validation data: see `best_threshold`.
    absent
        What becomes of labels that no row has, whose average precision and recall are undefined: left out of every
        mean over labels ("ignore"), or counted as 0 ("zero").
    k
        For the top-k scores, at most the number of labels.
    top_k_rule
        "only": the k best labels of a row are its positives. "and_threshold": those of them above the threshold.
    bins
        Of the calibration error.

    Returns
    -------
    Scores
        The scores.

    Raises
    ------
    InputError
        Where a value is not a probability (logits must pass a sigmoid first), a label is not 0 or 1, shapes differ, no
        label has a positive row, or an option is outside what is accepted.

    References
    ----------
    CP, CR, CF1, OP, OR, OF1 as in arXiv 2401.01448's tables and those it compares with.

    Examples
    --------
    >>> scores = evaluate(np.array([[0.9, 0.2], [0.3, 0.8], [0.6, 0.7]]), np.array([[1, 0], [0, 1], [0, 1]]), k=1)
    >>> round(scores.mean_ap, 3), round(scores.cp, 3), round(scores.cr, 3), round(scores.of1, 3)
    (1.0, 0.75, 1.0, 0.857)
    """
    scores, truth = _checked(probabilities, labels)
    n_labels = truth.shape[1]
    if not 0 <= threshold < 1:
        raise InputError(f"the threshold of probabilities is {threshold}", "a number in [0, 1)")
    for name, chosen, known in (("absent", absent, Absent), ("top_k_rule", top_k_rule, TopKRule)):
        if chosen not in get_args(known):
            raise InputError(f"{name} is {chosen!r}", " or ".join(get_args(known)))
    if not 1 <= k <= n_labels:
        raise InputError(f"k is {k} of {n_labels} labels", f"a whole number from 1 to {n_labels}")
    if bins < 1:
        raise InputError(f"bins is {bins}", "a whole number >= 1")
    from torchmetrics.functional import classification as tm  # brings torchvision and more: not for every import

    present = truth.any(dim=0)
    used = int(present.sum())
    if not used:
        raise InputError("no label has a positive row", "one positive at least")
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
    """Find the threshold, of 0.01 to 0.99, at which a score is highest. For validation data, never for test data.

    Parameters
    ----------
    probabilities, labels
        As for `evaluate`.
    score
        "of1" or "cf1".

    Returns
    -------
    float
        The threshold; the lowest of several equal ones.

    Raises
    ------
    InputError
        As `evaluate`.

    Examples
    --------
    >>> best_threshold(np.array([[0.3], [0.2], [0.1]]), np.array([[1], [1], [0]]))
    0.1
    """
    if score not in get_args(Tuned):
        raise InputError(f"the score to tune for is {score!r}", " or ".join(get_args(Tuned)))
    scores, truth = _checked(probabilities, labels)
    present = truth.any(dim=0)
    if not present.any():
        raise InputError("no label has a positive row", "one positive at least")
    found = [_thresholded(scores > value, truth, present, "ignore")[score] for value in _THRESHOLDS]
    return float(_THRESHOLDS[int(np.argmax(found))])


def _thresholded(predicted: Tensor, truth: Tensor, present: Tensor, absent: Absent) -> dict[str, float]:
    """Compute the scores of predictions that are made already."""
    from torchmetrics.functional import classification as tm

    counted = present if absent == "ignore" else torch.ones_like(present)
    chosen, target = predicted.long(), truth.long()
    n_labels = truth.shape[1]

    def mean(function: Any) -> float:
        # From counts, since torchmetrics' macro average counts absent labels whatever one would like.
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
    """Bring both to tensors on the CPU, probabilities float32, so that no metric takes them for logits."""
    # A copy of an array: torch warns of those that are read-only.
    scores, truth = (x.detach().cpu() if isinstance(x, Tensor) else torch.tensor(x) for x in (probabilities, labels))
    if scores.ndim != 2 or scores.shape != truth.shape or not scores.numel():
        given = f"probabilities and labels have shapes {tuple(scores.shape)} and {tuple(truth.shape)}"
        raise InputError(given, "(rows, labels) both, one row at least")
    scores = scores.float()
    wrong = (~((scores >= 0) & (scores <= 1))).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        given = f"the probability in row {row}, column {column} is {float(scores[row, column]):g}"
        raise InputError(given, "numbers in [0, 1]: logits must pass a sigmoid first")
    odd = ((truth != 0) & (truth != 1)).nonzero()
    if len(odd):
        row, column = odd[0].tolist()
        raise InputError(f"label {truth[row, column].item()} in row {row}, column {column}", "0 or 1")
    return scores, truth.long()
