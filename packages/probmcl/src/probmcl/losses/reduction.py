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
