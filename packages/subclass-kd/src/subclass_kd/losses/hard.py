"""The hard term: cross-entropy with labels of any state."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from sextet_common.checks import ShareBelowOne, check
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from subclass_kd.class_sum import ClassSum

Level = Literal["subclass", "class"]


class HardTerm(nn.Module):
    """Cross-entropy with the subclass or, with `level` "class" and where only the class is known, with the class.

    Class weights and label smoothing are those of `torch.nn.functional.cross_entropy`; a subclass has its class's
    weight. Unlabelled rows have no loss and no weight.
    """

    class_weight: Tensor | None  # (classes,)
    subclass_weight: Tensor | None  # (subclasses,)
    label_weight: Tensor  # (classes + 1 + subclasses,): of every label, from the lowest

    def __init__(self, sums: ClassSum, level: Level, weight: Tensor | None, label_smoothing: float) -> None:
        super().__init__()
        check("label_smoothing", label_smoothing, ShareBelowOne)
        self.level, self.label_smoothing = level, float(label_smoothing)
        known = sums.class_of_code >= 0
        label_weight = known.float()
        if weight is not None:
            weight = _checked(weight, sums.n_classes)
            label_weight = weight[sums.class_of_code] * known
        self.register_buffer("class_weight", weight, persistent=False)
        self.register_buffer("subclass_weight", None if weight is None else weight[sums.class_of], persistent=False)
        self.register_buffer("label_weight", label_weight, persistent=False)

    def rows(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        class_logits: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"],
        classes: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Compute the loss of each row, with its class's weight; ``classes`` of unlabelled rows are -1."""
        if self.level == "class":
            return self._cross_entropy(class_logits, classes, self.class_weight)
        own = self._cross_entropy(subclass_logits, labels.clamp(min=-1), self.subclass_weight)
        return own + self._cross_entropy(class_logits, torch.where(labels < -1, classes, -1), self.class_weight)

    def mean(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        class_logits: Float[Tensor, "batch classes"] | None,
        labels: Int[Tensor, " batch"],
        classes: Int[Tensor, " batch"] | None,
    ) -> Tensor:
        """Compute the mean over rows that all have a subclass, without class weights."""
        if class_logits is not None and classes is not None:
            return self._cross_entropy(class_logits, classes, None, "mean")
        return self._cross_entropy(subclass_logits, labels, None, "mean")

    def _cross_entropy(self, logits: Tensor, targets: Tensor, weight: Tensor | None, reduction: str = "none") -> Tensor:
        return functional.cross_entropy(
            logits, targets, None if weight is None else weight.to(logits.dtype), ignore_index=-1, reduction=reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip


def _checked(weight: Tensor, classes: int) -> Tensor:
    weight = torch.as_tensor(weight).detach().cpu()
    weight = weight if weight.dtype == torch.float64 else weight.float()
    if weight.shape != (classes,) or not bool((weight.isfinite() & (weight >= 0)).all()):
        given = f"weight has shape {tuple(weight.shape)} and values {weight.flatten()[:10].tolist()}"
        raise InputError(given, f"a finite number >= 0 for each of {classes} classes")
    return weight
