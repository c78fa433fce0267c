"""How losses are reduced."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
LabelReduction = Literal["mean", "batchmean", "sum", "none"]


def reduce(loss: Tensor, reduction: LabelReduction) -> Tensor:
    """Reduce a loss; "batchmean" divides the sum by the number of rows."""
    if reduction == "mean":
        return loss.mean()
    if reduction == "none":
        return loss
    return loss.sum() / len(loss) if reduction == "batchmean" else loss.sum()


def reduce_known(loss: Tensor, known: Tensor, reduction: LabelReduction) -> Tensor:
    """Reduce the loss of known labels; means divide by the number of these, or of rows that have one."""
    loss = loss.masked_fill(~known, 0.0)
    if reduction == "none":
        return loss
    count = known if reduction == "mean" else known.any(dim=1)
    return loss.sum() / count.sum().clamp(min=1) if reduction != "sum" else loss.sum()
