"""A teacher's objective that makes it find subclasses of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from sextet_common.checks import NonNegative, Positive, check
from torch import Tensor, nn
from torch.nn import functional

from subclass_kd.hierarchy import Hierarchy
from subclass_kd.losses.base import at_least_float32
from subclass_kd.losses.objectives import CrossEntropy


class LearnedSubclassLoss(nn.Module):
    """Cross-entropy of the classes, and an auxiliary loss that spreads the images over the subclasses.

    With v_i for the logits of image i, less their mean and of unit length, the auxiliary loss of a batch of n is
    ``mean_i log(mean_j exp(v_i . v_j / T)) - 1 / T``: lowest where images differ most in their logits.

    References
    ----------
    Subclass distillation, arXiv 2002.03936. The defaults are ours: on the digits a weight of 1 with T = 0.1 spoils the
    teacher.

    Examples
    --------
    >>> import numpy as np
    >>> halves = Hierarchy(np.array([0, 0, 1, 1]))
    >>> logits = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]])
    >>> same, apart = (LearnedSubclassLoss(halves)(x, None, torch.tensor([0, 0])) for x in (logits[[0, 0]], logits))
    >>> bool(apart < same)
    True
    """

    needs_teacher = False

    def __init__(self, hierarchy: Hierarchy, weight: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__()
        check("weight", weight, NonNegative)
        check("temperature", temperature, Positive)
        self.weight, self.temperature = float(weight), float(temperature)
        self.classes = CrossEntropy(hierarchy, "class")

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Compute the loss of a batch, a scalar; only the classes of the labels count."""
        hard: Tensor = self.classes(student_logits, None, subclass_labels)
        return hard + self.weight * self._spread(at_least_float32(student_logits))

    def _spread(self, logits: Tensor) -> Tensor:
        rows = functional.normalize(logits - logits.mean(dim=1, keepdim=True), dim=1)
        similarity = rows @ rows.mT / self.temperature
        count = rows.new_ones(rows.shape[0]).sum().clamp(min=1)  # a tensor: an exported loss takes batches of any size
        return torch.logsumexp(similarity, dim=1).sum() / count - count.log() - 1 / self.temperature
