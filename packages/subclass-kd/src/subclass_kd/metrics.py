"""What a classifier of a few classes is measured with; torchmetrics computes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtyping import Float, Int
from sextet_common.errors import InputError
from torch import Tensor

_MACRO: Literal["macro"] = "macro"


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a classifier, shares in [0, 1].

    Parameters
    ----------
    f1, precision, recall
        Of class 1 where there are two classes (the positive one), else means over the classes.
    accuracy
        Share of images whose class is right.
    auroc
        Area under the ROC curve, of class 1 or a mean over the classes; NaN where only one class is there.
    """

    f1: float
    accuracy: float
    auroc: float
    precision: float
    recall: float


def score(
    probabilities: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], *, threshold: float | None = None
) -> Scores:
    """Measure class probabilities.

    Parameters
    ----------
    probabilities
        Shape (images, classes), rows that sum to 1.
    labels
        Classes, shape (images,).
    threshold
        Of two classes: what the probability of class 1 must exceed; the likelier class where not given.

    Returns
    -------
    Scores
        The scores.

    Raises
    ------
    InputError
        Where shapes do not fit, values are no probabilities, or a label is out of range.

    Examples
    --------
    >>> import torch
    >>> round(score(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 1, 1])).accuracy, 4)
    0.6667
    """
    if (
        probabilities.ndim != 2
        or probabilities.shape[1] < 2
        or labels.shape != probabilities.shape[:1]
        or not len(labels)
    ):
        given = f"probabilities and labels have shapes {tuple(probabilities.shape)} and {tuple(labels.shape)}"
        raise InputError(given, "(images, classes) of two classes at least, and (images,)")
    if not bool(((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all()):
        raise InputError("a probability is outside [0, 1]", "probabilities, not logits")
    n_classes = probabilities.shape[1]
    if not bool(((labels >= 0) & (labels < n_classes)).all()):
        raise InputError(f"a label is {int(labels.max())}", f"0 to {n_classes - 1}")
    if threshold is not None and (n_classes > 2 or not 0 <= threshold < 1):
        raise InputError(f"a threshold of {threshold} for {n_classes} classes", "a number in [0, 1), for two classes")
    from torchmetrics.functional import classification as tm  # brings torchvision and more: not for every import

    labels, several = labels.long(), len(labels.unique()) > 1
    if n_classes == 2:
        positive = probabilities[:, 1].clamp(0, 1)
        chosen = (positive > threshold).long() if threshold is not None else probabilities.argmax(dim=1)
        return Scores(
            f1=float(tm.binary_f1_score(chosen, labels)),
            accuracy=float(tm.binary_accuracy(chosen, labels)),
            auroc=float(tm.binary_auroc(positive, labels)) if several else float("nan"),
            precision=float(tm.binary_precision(chosen, labels)),
            recall=float(tm.binary_recall(chosen, labels)),
        )
    chosen = probabilities.argmax(dim=1)
    count, macro = n_classes, _MACRO
    return Scores(
        f1=float(tm.multiclass_f1_score(chosen, labels, count, average=macro)),
        accuracy=float((chosen == labels).double().mean()),
        auroc=float(tm.multiclass_auroc(probabilities, labels, count, average=macro)) if several else float("nan"),
        precision=float(tm.multiclass_precision(chosen, labels, count, average=macro)),
        recall=float(tm.multiclass_recall(chosen, labels, count, average=macro)),
    )
