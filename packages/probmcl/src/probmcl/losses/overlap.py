"""The overlap of label sets, and which rows of a batch are each other's positives.

Labels are one row an image, of any dtype. 0 is absent and 1 present; a number in between is a soft label, one above 1
a count. A negative number is an unknown label: what it would decide is left out. Label values are not checked: a GPU
would have to wait for the host.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from sextet_common.checks import PositiveShare, Share, check
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.losses import shared_labels
from probmcl.losses.shared_labels import product, sums_of_known

Overlap = Literal["jaccard", "dice", "cosine", "overlap", "containment"]

_ROUNDING = 1e-6  # relative: n / sqrt(n n) may be rounded below 1
_SMALLEST = 1e-30


def label_overlap(
    labels: Shaped[Tensor, "batch labels"],
    other: Shaped[Tensor, "others labels"] | None = None,
    measure: Overlap = "jaccard",
    *,
    both_empty: float = 0.0,
    class_weight: Float[Tensor, " labels"] | None = None,
) -> Float[Tensor, "batch others"]:
    """Compute how much the label set of every row overlaps with that of every other row: float32, in [0, 1].

    With n labels in common, of a and b: Jaccard n / (a + b - n), Dice 2 n / (a + b), cosine n / sqrt(a b), the overlap
    coefficient n / min(a, b), and containment n / a, the share of the row's own labels, which alone is not symmetric.
    In this order (without containment) none is larger than the next, so one threshold means more positives with each.

    For soft labels and counts n, a and b are y . y', y . y and y' . y', so that equal rows overlap by 1 (with Jaccard
    this is Tanimoto's coefficient). Labels that one of two rows does not know (negative ones) count for neither; rows
    that know no label in common overlap by 0. ``class_weight`` multiplies what each label contributes to n, a and b.
    Two empty sets, 0/0, overlap by ``both_empty``; one empty set overlaps with nothing else. arXiv 2401.01448 speaks of
    an overlap index; which measures are offered is our choice.

    Examples
    --------
    >>> label_overlap(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]))
    tensor([[1.0000, 0.5000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    >>> label_overlap(torch.tensor([[1, 1, 0], [1, -1, 0]]))  # the second row does not know its second label
    tensor([[1., 1.],
            [1., 1.]])
    """
    check("measure", measure, Overlap)
    check("both_empty", both_empty, Share)
    other = labels if other is None else other
    if labels.ndim != 2 or other.ndim != 2 or labels.shape[1] != other.shape[1]:
        shapes = f"labels have shapes {tuple(labels.shape)} and {tuple(other.shape)}"
        raise InputError(shapes, "(batch, labels) and (others, labels)")
    with torch.autocast(labels.device.type, enabled=False):  # bfloat16 cannot represent counts above 256
        left = _scaled(labels, class_weight)
        right = left if other is labels else _scaled(other, class_weight)
        common = product(left, right)
        if right is left:
            a = b = common.diagonal().clone()
        else:
            a, b = ((rows * rows).sum(dim=1) for rows in (left, right))
        if not (may_be_unknown(labels) or may_be_unknown(other)):
            own, others = a[:, None], b[None, :]
            empty = (own == 0) & (others == 0)
        else:  # of each set, without what the other row does not know
            unknown, other_unknown = (labels < 0).float(), (other < 0).float()
            own, others = sums_of_known(left * left, other_unknown), sums_of_known(right * right, unknown).mT
            empty = (own <= _ROUNDING * a[:, None]) & (others <= _ROUNDING * b)
            empty &= _known_in_common(unknown, other_unknown)
        overlap = common.div_(_whole(measure, own, others, common).clamp_(min=_SMALLEST))  # a whole of 0 has no common
        overlap.clamp_(max=1.0)
        return overlap.masked_fill_(empty, both_empty) if both_empty > 0 else overlap


def _scaled(labels: Tensor, class_weight: Tensor | None) -> Tensor:
    values = labels.float()
    if may_be_unknown(labels):
        values = values.clamp(min=0.0)
    return values if class_weight is None else values * class_weight.to(values).sqrt()


def _whole(measure: Overlap, a: Tensor, b: Tensor, common: Tensor) -> Tensor:
    if measure == "jaccard":
        return a + b - common
    if measure == "dice":
        return (a + b) / 2
    if measure == "cosine":
        return (a * b).sqrt()
    return torch.minimum(a, b) if measure == "overlap" else a.repeat(1, common.shape[1] // a.shape[1])


def checked_class_weight(weight: Float[Tensor, " labels"] | None) -> Float[Tensor, " labels"] | None:
    """Return class weights, or raise InputError unless they are a vector of numbers >= 0."""
    if weight is not None and (weight.ndim != 1 or not bool((weight >= 0).all())):
        raise InputError(f"class_weight is {weight.tolist()}", "a weight >= 0 for each label")
    return weight


def may_be_unknown(labels: Tensor) -> bool:
    """Return whether there may be negative labels; certain on a CPU, where reading a value makes nothing wait."""
    if labels.dtype == torch.bool or (not labels.is_floating_point() and not labels.dtype.is_signed):
        return False
    return not shared_labels.readable(labels) or bool((labels < 0).any())


def known_in_common(
    labels: Shaped[Tensor, "batch labels"], other: Shaped[Tensor, "others labels"] | None
) -> Bool[Tensor, "batch others"] | None:
    """Return which rows know a label in common; None if all labels are known."""
    other = labels if other is None else other
    if not (may_be_unknown(labels) or may_be_unknown(other)):
        return None
    with torch.autocast(labels.device.type, enabled=False):
        return _known_in_common((labels < 0).float(), (other < 0).float())


def _known_in_common(unknown: Tensor, other_unknown: Tensor) -> Tensor:
    """Return where the labels that one of two rows does not know are fewer than all."""
    both = product(unknown, other_unknown)
    either = unknown.sum(dim=1)[:, None] + other_unknown.sum(dim=1) - both
    return either < unknown.shape[1]


def reaches(overlap: Float[Tensor, "batch others"], threshold: float) -> Bool[Tensor, "batch others"]:
    """Return where an overlap is the threshold or more, up to rounding."""
    return overlap >= threshold * (1 - _ROUNDING)


def positives(
    labels: Shaped[Tensor, "batch labels"],
    threshold: float,
    *,
    other: Shaped[Tensor, "others labels"] | None = None,
    measure: Overlap = "jaccard",
    class_weight: Float[Tensor, " labels"] | None = None,
) -> Bool[Tensor, "batch others"]:
    """Find each row's positives, A(i) of arXiv 2401.01448: the rows whose label overlap reaches the threshold.

    The threshold is in (0, 1]. Near 0 any common label suffices; at 1, with Jaccard, Dice or cosine, the sets must be
    equal. Without ``other`` a row is compared with the rest of its batch, and is not its own positive. Labels, measures
    and class weights are those of `label_overlap`.

    Examples
    --------
    >>> positives(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0]]), 0.6)
    tensor([[False, False,  True],
            [False, False, False],
            [ True, False, False]])
    """
    check("threshold", threshold, PositiveShare)
    chosen = reaches(label_overlap(labels, other, measure, class_weight=class_weight), threshold)
    if other is None:
        chosen = chosen & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return chosen


def positive_rate(labels: Shaped[Tensor, "batch labels"], threshold: float, measure: Overlap = "jaccard") -> float:
    """Compute the share of all pairs of different rows that are positives: what a threshold means on given data.

    It is 0 for fewer than two rows.

    Examples
    --------
    >>> positive_rate(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]), 0.6)
    0.16666666666666666
    """
    rows = len(labels)
    if rows < 2:
        return 0.0
    chosen = sum(int(positives(part, threshold, other=labels, measure=measure).sum()) for part in labels.split(1024))
    own = int((labels > 0).any(dim=1).sum())  # a row is its own positive unless it is empty
    return (chosen - own) / (rows * (rows - 1))
