"""The objectives: a student learns from its labels, from a teacher's classes, or from a teacher's subclasses."""

from __future__ import annotations

from typing import Literal, Unpack

from sextet_common.checks import NonNegative, Positive, Share, check
from sextet_common.errors import InputError
from torch import Tensor

from subclass_kd.divergence import Soft, divergence, weighted_divergence
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.losses import closed
from subclass_kd.losses.base import Batch, Common, Loss
from subclass_kd.losses.hard import Level

Softening = Literal["logits", "subclasses"]


class CrossEntropy(Loss):
    """No teacher: cross-entropy with the subclass labels or with the class labels.

    ``hard="class"`` takes -log of the sum of the probabilities of the class's subclasses.

    Examples
    --------
    >>> import torch
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> CrossEntropy(pets, hard="class")(torch.zeros(1, 3), None, torch.tensor([0]))
    tensor(0.4055)
    """

    needs_teacher = False

    def __init__(self, hierarchy: Hierarchy, hard: Level = "subclass", **common: Unpack[Common]) -> None:
        super().__init__(hierarchy, hard, **common)


class SubclassKDLoss(Loss):
    """Subclass knowledge distillation: hard labels and the teacher's softened subclass probabilities.

    ``(1 - alpha) CE + alpha T^2 (class_weight KL(Q || P) + within_weight sum_c Q_c KL(q(.|c) || p(.|c)))``, which is
    the divergence over all subclasses when both weights are 1, the default (see `split_divergence`). With one subclass
    per class it equals `ClassKDLoss`.

    The temperature T divides the logits of the soft term, alpha is in [0, 1], and ``hard`` is the level of the CE.
    ``normalize_groups`` weights every subclass by 1 / the size of its class, for classes of different sizes.

    References
    ----------
    arXiv 2207.08063. Not specified in its abstract, and the paper's full text was not available to us: the factor T^2,
    the level of the hard term and the defaults are our choices.

    Examples
    --------
    >>> import torch
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> loss = SubclassKDLoss(pets, temperature=4, alpha=0.5)
    >>> logits = torch.randn(2, 3)
    >>> hard = CrossEntropy(pets)(logits, None, torch.tensor([0, 2]))
    >>> bool(torch.isclose(loss(logits, logits, torch.tensor([0, 2])), 0.5 * hard))
    True
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        temperature: float = 4.0,
        alpha: float = 0.9,
        hard: Level = "subclass",
        *,
        class_weight: float = 1.0,
        within_weight: float = 1.0,
        normalize_groups: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(hierarchy, hard, **common)
        check("temperature", temperature, Positive)
        check("alpha", alpha, Share)
        check("class_weight", class_weight, NonNegative)
        check("within_weight", within_weight, NonNegative)
        self.temperature, self.alpha = float(temperature), float(alpha)
        self._shares(1 - self.alpha, self.alpha * self.temperature**2)
        self.class_weight, self.within_weight = float(class_weight), float(within_weight)
        self.normalize_groups = normalize_groups

    def _soft(self, batch: Batch) -> Soft:
        student, teacher = (
            self.sums.softened(logits, self.temperature, normalize_groups=self.normalize_groups)
            for logits in (batch.student, batch.teacher)
        )
        if self.class_weight == self.within_weight == 1:
            return divergence(student, teacher)
        return weighted_divergence(student, teacher, self.sums, self.class_weight, self.within_weight)

    def _closed_soft(self, both: Tensor) -> closed.Closed | None:
        if self.class_weight == self.within_weight == 1 and not self.normalize_groups:
            return closed.divergence(both, self.temperature, self._soft_share)
        both = self.sums.softened(both, self.temperature, normalize_groups=self.normalize_groups)
        weights = self.class_weight, self.within_weight
        return closed.weighted_divergence(both, self.sums, *weights, self.temperature, self._soft_share)


class ClassKDLoss(Loss):
    """Conventional distillation (arXiv 1503.02531): hard labels and the teacher's softened class probabilities.

    ``soften="logits"`` softens the class logits, as conventional distillation does. ``"subclasses"`` sums softened
    subclasses instead, which reveals something about their number; it is the class part of `SubclassKDLoss`, and
    ``normalize_groups`` then weights every subclass by 1 / the size of its class. The other parameters are those of
    `SubclassKDLoss`. With softened class logits the teacher may have outputs for the classes alone, (batch, classes).

    Examples
    --------
    >>> import torch
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> teacher, student = torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[-1.0, 2.0, 0.0]])  # the same classes
    >>> ClassKDLoss(pets, alpha=1.0)(student, teacher, torch.tensor([0])).abs() < 1e-6
    tensor(True)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        temperature: float = 4.0,
        alpha: float = 0.9,
        hard: Level = "class",
        *,
        soften: Softening = "logits",
        normalize_groups: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(hierarchy, hard, **common)
        check("temperature", temperature, Positive)
        check("alpha", alpha, Share)
        check("soften", soften, Softening)
        if normalize_groups and soften == "logits":
            raise InputError("normalize_groups with soften='logits'", "soften='subclasses'")
        self.temperature, self.alpha = float(temperature), float(alpha)
        self._shares(1 - self.alpha, self.alpha * self.temperature**2)
        self.soften, self.normalize_groups = soften, normalize_groups
        self._soft_level = "class" if soften == "logits" else "subclass"
        self.teacher_levels = ("subclass", "class") if soften == "logits" else ("subclass",)

    def _soft(self, batch: Batch) -> Soft:
        if self.soften == "logits":
            student, teacher = self.at_level(batch, "class")
            return divergence(student / self.temperature, teacher / self.temperature)
        return divergence(
            *(
                self.sums(self.sums.softened(logits, self.temperature, normalize_groups=self.normalize_groups))
                for logits in (batch.student, batch.teacher)
            )
        )

    def _closed_soft(self, both: Tensor) -> closed.Closed | None:
        if self.soften == "subclasses":
            both = self.sums.softened(both, self.temperature, normalize_groups=self.normalize_groups)
            return closed.weighted_divergence(both, self.sums, 1.0, 0.0, self.temperature, self._soft_share)
        return closed.divergence(both, self.temperature, self._soft_share)
