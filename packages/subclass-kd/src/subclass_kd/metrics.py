"""Scores of a classifier with few classes, computed by torchmetrics."""

from __future__ import annotations

import dataclasses
import math

from jaxtyping import Float, Int
from sextet_common.errors import InputError
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a classifier, in [0, 1].

    ``f1``, ``precision``, ``recall`` and ``auroc`` are those of class 1 (the positive one) if there are two classes,
    else means over the classes. ``auroc`` is NaN if only one class is present.
    """

    f1: float
    accuracy: float
    auroc: float
    precision: float
    recall: float


def score(
    probabilities: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], *, threshold: float | None = None
) -> Scores:
    """Score class probabilities.

    Each row of probabilities sums to 1. The likeliest class is predicted, but with a threshold, which needs two
    classes, class 1 whenever its probability exceeds it.

    Examples
    --------
    >>> import torch
    >>> round(score(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 1, 1])).accuracy, 4)
    0.6667
    """
    _check(probabilities, labels, threshold)
    from torchmetrics.functional import classification as tm  # slow to import

    labels, n_classes = labels.long(), probabilities.shape[1]
    one_class = len(labels.unique()) < 2
    predicted = probabilities.argmax(dim=1)
    if n_classes == 2:
        positive = probabilities[:, 1].clamp(0, 1)
        if threshold is not None:
            predicted = (positive > threshold).long()
        return Scores(
            f1=float(tm.binary_f1_score(predicted, labels)),
            accuracy=float(tm.binary_accuracy(predicted, labels)),
            auroc=math.nan if one_class else float(tm.binary_auroc(positive, labels)),
            precision=float(tm.binary_precision(predicted, labels)),
            recall=float(tm.binary_recall(predicted, labels)),
        )
    return Scores(
        f1=float(tm.multiclass_f1_score(predicted, labels, n_classes, average="macro")),
        accuracy=float((predicted == labels).double().mean()),
        auroc=math.nan if one_class else float(tm.multiclass_auroc(probabilities, labels, n_classes, average="macro")),
        precision=float(tm.multiclass_precision(predicted, labels, n_classes, average="macro")),
        recall=float(tm.multiclass_recall(predicted, labels, n_classes, average="macro")),
    )


def _check(probabilities: Tensor, labels: Tensor, threshold: float | None) -> None:
    shapes = tuple(probabilities.shape), tuple(labels.shape)
    if len(shapes[0]) != 2 or shapes[0][1] < 2 or shapes[1] != shapes[0][:1] or not len(labels):
        given = f"probabilities and labels have shapes {shapes[0]} and {shapes[1]}"
        raise InputError(given, "(images, classes) with at least two classes, and (images,)")
    if not bool(((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all()):
        raise InputError("a probability is outside [0, 1]", "probabilities, not logits")
    n_classes = shapes[0][1]
    if not bool(((labels >= 0) & (labels < n_classes)).all()):
        wrong = labels[(labels < 0) | (labels >= n_classes)][0]
        raise InputError(f"label {int(wrong)}", f"0 to {n_classes - 1}")
    if threshold is not None and (n_classes > 2 or not 0 <= threshold < 1):
        raise InputError(f"threshold {threshold} for {n_classes} classes", "a number in [0, 1), for two classes")
