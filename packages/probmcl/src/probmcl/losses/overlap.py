"""The overlap of label sets, and which rows of a batch are each other's positives."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from sextet_common.checks import PositiveShare, Share, check
from sextet_common.errors import InputError
from torch import Tensor

Overlap = Literal["jaccard", "dice", "cosine", "overlap", "containment"]

_ROUNDING = 1e-6  # relative: n / sqrt(n n) may be rounded below 1


def label_overlap(
    labels: Shaped[Tensor, "batch labels"],
    other: Shaped[Tensor, "others labels"] | None = None,
    measure: Overlap = "jaccard",
    *,
    both_empty: float = 0.0,
) -> Float[Tensor, "batch others"]:
    """Compute how much the label set of every row overlaps with that of every other row: float32, in [0, 1].

    With n labels in common, of a and b: Jaccard n / (a + b - n), Dice 2 n / (a + b), cosine n / sqrt(a b), the overlap
    coefficient n / min(a, b), and containment n / a, the share of the row's own labels, which alone is not symmetric.
    In this order (without containment) none is larger than the next, so one threshold means more positives with each.

    Labels are zeros and ones of any dtype. Their values are not checked: a GPU would have to wait. Two empty sets, 0/0,
    overlap by ``both_empty``; one empty set overlaps with nothing else. arXiv 2401.01448 speaks of an overlap index;
    which measures are offered is our choice.

    Examples
    --------
    >>> label_overlap(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]))
    tensor([[1.0000, 0.5000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    check("measure", measure, Overlap)
    check("both_empty", both_empty, Share)
    other = labels if other is None else other
    if labels.ndim != 2 or other.ndim != 2 or labels.shape[1] != other.shape[1]:
        shapes = f"labels have shapes {tuple(labels.shape)} and {tuple(other.shape)}"
        raise InputError(shapes, "(batch, labels) and (others, labels)")
    with torch.autocast(labels.device.type, enabled=False):  # bfloat16 cannot represent counts above 256
        left, right = labels.float(), other.float()
        common = left @ right.mT
        a, b = left.sum(dim=1)[:, None], right.sum(dim=1)[None, :]
        if measure == "jaccard":
            whole = a + b - common
        elif measure == "dice":
            whole = (a + b) / 2
        elif measure == "cosine":
            whole = (a * b).sqrt()
        elif measure == "overlap":
            whole = torch.minimum(a, b)
        else:
            whole = a.expand_as(common)
        overlap = common / whole.clamp(min=0.5)  # a whole of 0 has nothing in common either
        empty = (a == 0) & (b == 0)
        return overlap.clamp(max=1.0).masked_fill(empty, both_empty)


def reaches(overlap: Float[Tensor, "batch others"], threshold: float) -> Bool[Tensor, "batch others"]:
    """Return where an overlap is the threshold or more, up to rounding."""
    return overlap >= threshold * (1 - _ROUNDING)


def positives(
    labels: Shaped[Tensor, "batch labels"],
    threshold: float,
    *,
    other: Shaped[Tensor, "others labels"] | None = None,
    measure: Overlap = "jaccard",
) -> Bool[Tensor, "batch others"]:
    """Find each row's positives, A(i) of arXiv 2401.01448: the rows whose label overlap reaches the threshold.

    The threshold is in (0, 1]. Near 0 any common label suffices; at 1, with Jaccard, Dice or cosine, the sets must be
    equal. Without ``other`` a row is compared with the rest of its batch, and is not its own positive. Labels and
    measures are those of `label_overlap`.

    Examples
    --------
    >>> positives(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0]]), 0.6)
    tensor([[False, False,  True],
            [False, False, False],
            [ True, False, False]])
    """
    check("threshold", threshold, PositiveShare)
    chosen = reaches(label_overlap(labels, other, measure), threshold)
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
    own = int((labels.sum(dim=1) > 0).sum())  # a row is its own positive unless it is empty
    return (chosen - own) / (rows * (rows - 1))
