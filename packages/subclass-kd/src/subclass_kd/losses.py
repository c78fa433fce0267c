"""Objectives: a student learns from its labels, from a teacher's classes, or from a teacher's subclasses.

Soft terms carry a factor T^2, so that their gradients keep their size as the temperature T grows. Logits are converted
to at least float32, teacher logits are detached, and no objective waits for the device.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from sextet_common.checks import NonNegative, Positive, Share, check
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from subclass_kd.divergence import decoupled_divergence, divergence, split_divergence
from subclass_kd.hierarchy import Hierarchy

Level = Literal["subclass", "class"]
Reduction = Literal["mean", "sum", "none"]
Softening = Literal["logits", "subclasses"]


class Objective(Protocol):
    """What a student is trained with: any callable of this form, such as a custom module."""

    needs_teacher: bool
    """Whether the objective uses the teacher's logits."""

    def __call__(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Return the loss of a batch, a scalar."""
        ...


class _Base(nn.Module):
    """Checks, the hard term and the reduction; subclasses define the loss of each row."""

    needs_teacher = True

    def __init__(self, hierarchy: Hierarchy, hard: Level, reduction: Reduction) -> None:
        super().__init__()
        check("hard", hard, Level)
        check("reduction", reduction, Reduction)
        self.hierarchy, self.hard, self.reduction = hierarchy, hard, reduction

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Compute the loss; a scalar, or shape (batch,) with the reduction "none"."""
        self._check(student_logits, teacher_logits, subclass_labels)
        with torch.autocast(student_logits.device.type, enabled=False):
            student = student_logits if student_logits.dtype == torch.float64 else student_logits.float()
            teacher = student if teacher_logits is None else teacher_logits.detach().to(student.dtype)
            loss = self._rows(student, teacher, subclass_labels)
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def _rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each row."""
        raise NotImplementedError

    def _hard_term(self, student: Tensor, labels: Tensor) -> Tensor:
        """Compute the cross-entropy of each row with its subclass or with its class."""
        if self.hard == "subclass":
            return functional.cross_entropy(student, labels, reduction="none")
        classes = self.hierarchy.class_labels(labels)
        return functional.cross_entropy(self.hierarchy.class_logits(student), classes, reduction="none")

    def _check(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> None:
        expected = f"(batch, {self.hierarchy.n_subclasses})"
        if student.ndim != 2 or student.shape[1] != self.hierarchy.n_subclasses:
            raise InputError(f"the student's logits have shape {tuple(student.shape)}", expected)
        if labels.shape != student.shape[:1]:
            raise InputError(f"labels have shape {tuple(labels.shape)}", f"({len(student)},)")
        if self.needs_teacher and teacher is None:
            raise InputError(f"{type(self).__name__} needs the teacher's logits, got None", expected)
        if teacher is not None and teacher.shape != student.shape:
            given = f"the teacher's logits have shape {tuple(teacher.shape)}"
            raise InputError(given, f"{tuple(student.shape)}, the shape of the student's")


class CrossEntropy(_Base):
    """No teacher: cross-entropy with the subclass labels or with the class labels.

    ``hard="class"`` takes -log of the sum of the probabilities of the class's subclasses.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> CrossEntropy(pets, hard="class")(torch.zeros(1, 3), None, torch.tensor([0]))
    tensor(0.4055)
    """

    needs_teacher = False

    def __init__(self, hierarchy: Hierarchy, hard: Level = "subclass", *, reduction: Reduction = "mean") -> None:
        super().__init__(hierarchy, hard, reduction)

    def _rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return self._hard_term(student, labels)


class SubclassKDLoss(_Base):
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
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(hierarchy, hard, reduction)
        check("temperature", temperature, Positive)
        check("alpha", alpha, Share)
        check("class_weight", class_weight, NonNegative)
        check("within_weight", within_weight, NonNegative)
        self.temperature, self.alpha = float(temperature), float(alpha)
        self.class_weight, self.within_weight = float(class_weight), float(within_weight)
        self.normalize_groups = normalize_groups

    def _rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        temperature, options = self.temperature, {"normalize_groups": self.normalize_groups}
        if self.class_weight == self.within_weight == 1:
            soft = divergence(*(self.hierarchy.softened(x, temperature, **options) for x in (student, teacher)))
        else:
            parts = split_divergence(student, teacher, self.hierarchy, temperature, **options)
            soft = self.class_weight * parts.between + self.within_weight * parts.within
        return (1 - self.alpha) * self._hard_term(student, labels) + self.alpha * temperature**2 * soft


class ClassKDLoss(_Base):
    """Conventional distillation (arXiv 1503.02531): hard labels and the teacher's softened class probabilities.

    ``soften="logits"`` softens the class logits, as conventional distillation does. ``"subclasses"`` sums softened
    subclasses instead, which reveals something about their number; it is the class part of `SubclassKDLoss`, and
    ``normalize_groups`` then weights every subclass by 1 / the size of its class. The other parameters are those of
    `SubclassKDLoss`.

    Examples
    --------
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
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(hierarchy, hard, reduction)
        check("temperature", temperature, Positive)
        check("alpha", alpha, Share)
        check("soften", soften, Softening)
        if normalize_groups and soften == "logits":
            raise InputError("normalize_groups with soften='logits'", "soften='subclasses'")
        self.temperature, self.alpha = float(temperature), float(alpha)
        self.soften, self.normalize_groups = soften, normalize_groups

    def _rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        hierarchy, temperature = self.hierarchy, self.temperature
        if self.soften == "logits":
            soft = divergence(*(hierarchy.class_logits(logits) / temperature for logits in (student, teacher)))
        else:
            groups = self.normalize_groups
            soft = split_divergence(student, teacher, hierarchy, temperature, normalize_groups=groups).between
        return (1 - self.alpha) * self._hard_term(student, labels) + self.alpha * temperature**2 * soft


class DecoupledKDLoss(_Base):
    """Decoupled distillation over the subclasses: the target's part and the others' part, weighted separately.

    ``CE + T^2 (target_weight KL(b_q || b_p) + other_weight KL(q' || p'))``, where b is the probability of the true
    subclass against all others, and q', p' are the others among themselves.

    ``target_weight`` and ``other_weight`` are alpha and beta in the published code (Decoupled knowledge distillation,
    arXiv 2203.08679). With `Hierarchy.collapsed` the loss is the published one, over classes; with two classes its
    others' part is 0.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    >>> loss = DecoupledKDLoss(pets)(logits, logits, labels)
    >>> bool(torch.isclose(loss, CrossEntropy(pets)(logits, None, labels), atol=1e-5))
    True
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        other_weight: float = 8.0,
        hard: Level = "subclass",
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(hierarchy, hard, reduction)
        if hierarchy.n_subclasses < 2:
            raise InputError("a hierarchy with one subclass", "at least two, the target and another one")
        check("temperature", temperature, Positive)
        check("target_weight", target_weight, NonNegative)
        check("other_weight", other_weight, NonNegative)
        self.temperature = float(temperature)
        self.target_weight, self.other_weight = float(target_weight), float(other_weight)

    def _rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        target, others = decoupled_divergence(student / self.temperature, teacher / self.temperature, labels)
        soft = self.target_weight * target + self.other_weight * others
        return self._hard_term(student, labels) + self.temperature**2 * soft
