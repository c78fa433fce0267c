"""A custom objective, trained by `distill` beside the library's: correlations instead of divergences.

    python examples/own_objective.py

The soft term is 1 minus the correlation of the subclass probabilities of teacher and student, as in "Knowledge
distillation from a stronger teacher" (arXiv 2205.10536), here over the rows only.
"""

from __future__ import annotations

from subclass_kd import SubclassKDLoss, TrainConfig, build, distill, evaluate, load, train_teacher
from torch import Tensor, nn


class Correlation(nn.Module):
    """Cross-entropy with the subclass labels plus 1 minus the correlation of the predictions."""

    needs_teacher = True

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
        """Compute the loss of a batch."""
        assert teacher is not None
        p, q = ((logits / self.temperature).softmax(dim=1) for logits in (student, teacher))
        p, q = p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True)
        distance = 1 - nn.functional.cosine_similarity(p, q, dim=1)
        return nn.functional.cross_entropy(student, labels) + 2 * distance.mean()


data = load("digits:half").scarce(0.3)
config = TrainConfig(epochs=15)
teacher = train_teacher(build("convnet-deep", data.input_shape, 10, width=12), data, config)
print(f"teacher: F1 {100 * evaluate(teacher, data).f1:.1f} %")
for objective in (SubclassKDLoss(data.hierarchy), Correlation()):
    student = distill(teacher, build("convnet", data.input_shape, 10, width=3), data, objective, config)
    print(f"{type(objective).__name__}: F1 {100 * evaluate(student, data).f1:.1f} %")
