"""How much two label sets overlap, and which rows of a batch are each other's positives."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from sextet_common.errors import InputError
from torch import Tensor

Overlap = Literal["jaccard", "dice", "cosine", "overlap", "containment"]


def label_overlap(
    labels: Shaped[Tensor, "batch labels"],
    other: Shaped[Tensor, "others labels"] | None = None,
    measure: Overlap = "jaccard",
    *,
    both_empty: float = 0.0,
) -> Float[Tensor, "batch others"]:
    """Compute how much the label set of every row overlaps with that of every other row.

    With n labels in common, of a and b: Jaccard n / (a + b - n), Dice 2 n / (a + b), cosine n / sqrt(a b), the overlap
    coefficient n / min(a, b), and containment n / a, which is the one that is not symmetric: the share of the row's own
    labels. In this order (containment aside) the first is never larger than the next, so one threshold means more
    positives with each.

    Parameters
    ----------
    labels
        Zeros and ones of any dtype, shape (batch, labels). The values are not looked at: a GPU would have to wait.
    other
        The other rows, shape (others, labels); the same where omitted.
    measure
        One of the five.
    both_empty
        What two empty sets overlap, 0/0. One empty set overlaps with nothing else.

    Returns
    -------
    Tensor
        Shape (batch, others), float32, in [0, 1].

    Raises
    ------
    InputError
        For an unknown measure, tables that do not fit each other, or both_empty outside [0, 1].

    References
    ----------
    arXiv 2401.01448 speaks of an overlap index; which ones are offered is *ours*.

    Examples
    --------
    >>> label_overlap(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]))
    tensor([[1.0000, 0.5000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    if measure not in get_args(Overlap):
        raise InputError(f"the measure of label overlap is {measure!r}", ", ".join(get_args(Overlap)))
    if not 0 <= both_empty <= 1:
        raise InputError(f"both_empty is {both_empty}", "a number in [0, 1]")
    other = labels if other is None else other
    if labels.ndim != 2 or other.ndim != 2 or labels.shape[1] != other.shape[1]:
        given = f"labels have shapes {tuple(labels.shape)} and {tuple(other.shape)}"
        raise InputError(given, "(batch, labels) and (others, labels)")
    with torch.autocast(labels.device.type, enabled=False):  # counts above 256 do not fit into bfloat16
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
        overlap = common / whole.clamp(min=0.5)  # where it is 0, nothing is in common either
        empty = (a == 0) & (b == 0)
        return overlap.clamp(max=1.0).masked_fill(empty, both_empty)


def positives(
    labels: Shaped[Tensor, "batch labels"],
    threshold: float,
    *,
    other: Shaped[Tensor, "others labels"] | None = None,
    measure: Overlap = "jaccard",
) -> Bool[Tensor, "batch others"]:
    """Tell which rows are each row's positives: those whose labels overlap by the threshold or more.

    Parameters
    ----------
    labels
        Zeros and ones, shape (batch, labels).
    threshold
        The least overlap of a positive, in (0, 1]. Near 0 any label in common suffices; at 1, with Jaccard, Dice or
        cosine, the sets must be equal.
    other
        The other rows, shape (others, labels). Without them a row is compared with the rest of its batch, and is not
        its own positive.
    measure
        As in `label_overlap`.

    Returns
    -------
    Tensor
        Shape (batch, others), boolean.

    Raises
    ------
    InputError
        For a threshold outside (0, 1], and as in `label_overlap`.

    References
    ----------
    A(i) of arXiv 2401.01448.

    Examples
    --------
    >>> positives(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0]]), 0.6)
    tensor([[False, False,  True],
            [False, False, False],
            [ True, False, False]])
    """
    least = checked_threshold(threshold) * (1 - 1e-6)  # n / sqrt(n n) may round
    chosen = label_overlap(labels, other, measure) >= least
    if other is None:
        chosen = chosen & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return chosen


def positive_rate(labels: Shaped[Tensor, "batch labels"], threshold: float, measure: Overlap = "jaccard") -> float:
    """Compute which share of all pairs of rows are positives: what a threshold means on given data.

    Parameters
    ----------
    labels
        Zeros and ones, shape (rows, labels).
    threshold, measure
        As in `positives`.

    Returns
    -------
    float
        In [0, 1]; 0 for fewer than two rows.

    Raises
    ------
    InputError
        As `positives`.

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


def checked_threshold(threshold: float) -> float:
    """Return a threshold of overlap, or raise InputError where it is outside (0, 1]."""
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold of overlap is {threshold}", "a number in (0, 1]")
    return threshold
