"""What all objectives share: the interface, checks, states of labels and reductions.

Soft terms carry a factor T^2, so that their gradients keep their size as the temperature T grows. Logits are converted
to at least float32, teacher logits are detached, and no objective waits for the device.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Literal, NamedTuple, Protocol, TypedDict

import torch
from jaxtyping import Float, Int
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor, nn

from subclass_kd.class_sum import ClassSum
from subclass_kd.divergence import LOWEST, Soft
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.losses import closed
from subclass_kd.losses.hard import HardTerm, Level

Reduction = Literal["mean", "sum", "none"]


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


class Batch(NamedTuple):
    """What soft terms are computed from."""

    student: Float[Tensor, "batch subclasses"]
    teacher: Float[Tensor, "batch outputs"]
    student_classes: Float[Tensor, "batch classes"] | None
    """The student's class logits, if they were computed."""
    labels: Int[Tensor, " batch"]
    all_subclasses: bool
    """Whether every label is known to be a subclass; False if the host cannot tell without waiting."""
    sample_weights: Float[Tensor, " batch"] | None


class Common(TypedDict, total=False):
    """Options of all losses."""

    reduction: Reduction
    weight: Float[Tensor, " classes"] | None
    label_smoothing: float
    ignore_index: int | None


class Loss(nn.Module):
    """Checks, the hard term and the reduction; subclasses define the soft term.

    A label is a subclass, -(2 + c) if only the class c is known, or -1 if unlabelled, of any type of whole numbers. The
    hard term is averaged over the labelled rows, the soft term over all. The reduction "none" scales rows so that their
    mean is that of "mean"; "sum" adds up the terms of all rows. A loss of no rows is 0.

    Parameters
    ----------
    weight, label_smoothing
        Class weights, shape (classes,), and label smoothing of the hard term, as in
        `torch.nn.functional.cross_entropy`.
    ignore_index
        A label of rows that take part in neither term, such as padding.
    """

    needs_teacher = True
    teacher_levels: tuple[Level, ...] = ("subclass",)
    """What a teacher may have outputs for."""
    ignore_index: int | None = None
    _soft_level: Level = "subclass"
    _hard_share, _soft_share = 1.0, 0.0

    def __init__(
        self,
        hierarchy: Hierarchy,
        hard: Level,
        *,
        reduction: Reduction = "mean",
        weight: Float[Tensor, " classes"] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        check("hard", hard, Level)
        check("reduction", reduction, Reduction)
        check("ignore_index", ignore_index, int | None)
        self.hierarchy, self.hard, self.reduction = hierarchy, hard, reduction
        self.sums = ClassSum(hierarchy)
        self.hard_term = HardTerm(self.sums, hard, weight, label_smoothing)
        self._simple = reduction == "mean" and weight is None and not label_smoothing
        # A run's record has the options that are set, so that runs of earlier releases resume.
        if weight is not None:
            self.weight = str(torch.as_tensor(weight).tolist())
        if label_smoothing:
            self.label_smoothing = self.hard_term.label_smoothing
        if ignore_index is not None:
            self.ignore_index = ignore_index

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch outputs"] | None,
        subclass_labels: Int[Tensor, " batch"],
        sample_weights: Float[Tensor, " batch"] | None = None,
    ) -> Tensor:
        """Compute the loss; a scalar, or shape (batch,) with the reduction "none".

        ``sample_weights`` weight the rows in both terms; means divide by the sum of weights.
        """
        self._check(student_logits, teacher_logits, subclass_labels, sample_weights)
        device = student_logits.device.type
        mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            labels = subclass_labels.long()
            if self.ignore_index is not None:
                kept = labels != self.ignore_index
                sample_weights = kept.float() if sample_weights is None else sample_weights * kept
                labels = torch.where(kept, labels, -1)
            all_subclasses = self._all_subclasses(labels)
            simple = self._simple and all_subclasses and sample_weights is None
            if simple and closed.usable(student_logits):
                known = self._known(student_logits, teacher_logits, labels)
                if known is not None:
                    return closed.attached(
                        known, student_logits, lambda logits: self._loss(logits, teacher_logits, labels, None, True)
                    )
            return self._loss(student_logits, teacher_logits, labels, sample_weights, all_subclasses)

    def _known(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> closed.Closed | None:
        """Compute the loss and its gradient in closed form, if there is one and it is finite."""
        with torch.no_grad():
            s = student if student.dtype == torch.float64 else student.float()
            t = None if teacher is None else teacher.to(s.dtype)
            both, classes = s, None
            if t is not None and t.shape == s.shape and self.needs_teacher:
                both = torch.cat([s, t])
            if "class" in (self.hard, self._soft_level):
                classes = closed.class_logits(both, self.sums)
                if t is not None and t.shape != s.shape:
                    classes = torch.cat([classes, t])
            terms: dict[Level, list[closed.Closed]] = {"subclass": [], "class": []}
            if self.needs_teacher:
                soft = self._closed_soft(both if classes is None or self._soft_level == "subclass" else classes)
                if soft is None:
                    return None
                terms[self._soft_level].append(soft)
            if self.hard == "class" and classes is not None:
                targets = self.sums.class_of.index_select(0, labels)
                terms["class"].append(closed.cross_entropy(classes[: len(s)], targets, self._hard_share))
            else:
                terms["subclass"].append(closed.cross_entropy(s, labels, self._hard_share))
            if terms["class"] and classes is not None:
                summed = closed.total(terms["class"])
                terms["subclass"].append(closed.through_classes(summed, s, classes[: len(s)], self.sums))
            result = closed.total(terms["subclass"])
            return result if math.isfinite(result.value) else None  # not with logits of -inf

    def _closed_soft(self, both: Tensor) -> closed.Closed | None:
        """Compute the soft term, times its share, and its gradient in closed form; None if there is none.

        ``both`` holds the logits of the student's rows and of the teacher's, of subclasses or of classes.
        """
        return None

    def _loss(
        self, logits: Tensor, teacher: Tensor | None, labels: Tensor, weights: Tensor | None, all_subclasses: bool
    ) -> Tensor:
        student = at_least_float32(logits)
        student_classes = self.sums(student) if self.hard == "class" or not all_subclasses else None
        soft = None
        if teacher is not None and self.needs_teacher:
            with torch.no_grad():
                teacher = at_least_float32(teacher).to(student.dtype)
            soft = self._soft(Batch(student, teacher, student_classes, labels, all_subclasses, weights))
        if self._simple and all_subclasses and weights is None:
            classes = self.sums.class_of.index_select(0, labels) if self.hard == "class" else None
            hard = self.hard_term.mean(student, student_classes, labels, classes)
            if soft is None:
                return self._hard_share * hard
            return torch.add(self._soft_share / len(labels) * soft.total(), hard, alpha=self._hard_share)
        return self._reduced(student, student_classes, labels, soft, weights)

    def _reduced(
        self, student: Tensor, student_classes: Tensor | None, labels: Tensor, soft: Soft | None, weights: Tensor | None
    ) -> Tensor:
        codes = labels + (self.sums.n_classes + 1)
        classes = self.sums.class_of_code.index_select(0, codes)
        student_classes = self.sums(student) if student_classes is None else student_classes
        hard = self._hard_share * self.hard_term.rows(student, student_classes, labels, classes)
        hard_weights = self.hard_term.label_weight.index_select(0, codes).to(student.dtype)
        soft_rows = torch.zeros_like(hard) if soft is None else self._soft_share * soft.rows()
        if weights is not None:
            weights = weights.detach().to(student.dtype)
            hard, hard_weights, soft_rows = hard * weights, hard_weights * weights, soft_rows * weights
        if self.reduction == "sum":
            return hard.sum() + soft_rows.sum()
        # Without labelled rows, or rows of a weight, a term is 0.
        labelled = hard_weights.sum().clamp(min=1e-30)
        all_rows = (torch.ones_like(hard) if weights is None else weights).sum().clamp(min=1e-30)
        if self.reduction == "mean":
            return hard.sum() / labelled + soft_rows.sum() / all_rows
        return hard.shape[0] * (hard / labelled + soft_rows / all_rows)

    def _shares(self, hard: float, soft: float) -> None:
        """Set the factors of both terms."""
        self._hard_share, self._soft_share = hard, soft

    def _soft(self, batch: Batch) -> Soft:
        """Compute the soft term."""
        raise NotImplementedError

    def at_level(self, batch: Batch, level: Level) -> tuple[Tensor, Tensor]:
        """Return the logits of student and teacher for subclasses or classes."""
        if level == "subclass":
            return batch.student, batch.teacher
        student = self.sums(batch.student) if batch.student_classes is None else batch.student_classes
        of_classes = batch.teacher.shape[1] != self.sums.n_subclasses
        return student, batch.teacher if of_classes else self.sums(batch.teacher)

    def _all_subclasses(self, labels: Tensor) -> bool:
        """Return whether no label is negative, if the host can tell without waiting; refuse labels out of range."""
        if labels.device.type != "cpu" or torch.compiler.is_compiling() or not labels.numel():
            return False
        try:
            lowest, highest = (int(end) for end in torch.aminmax(labels))
        except RuntimeError:  # inside vmap
            return False
        if lowest < -1 - self.sums.n_classes or highest >= self.sums.n_subclasses:
            self.hierarchy.class_labels(labels.detach())
        return lowest >= 0

    def _check(self, student: Tensor, teacher: Tensor | None, labels: Tensor, weights: Tensor | None) -> None:
        expected = f"(batch, {self.sums.n_subclasses})"
        if student.ndim != 2 or student.shape[1] != self.sums.n_subclasses:
            raise InputError(f"the student's logits have shape {tuple(student.shape)}", expected)
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise InputError(f"labels have dtype {labels.dtype}", "whole numbers")
        for name, rows in (("labels", labels), ("sample weights", weights)):
            if rows is not None and rows.shape != student.shape[:1]:
                raise InputError(f"{name} have shape {tuple(rows.shape)}", f"({len(student)},)")
        if self.needs_teacher and teacher is None:
            raise InputError(f"{type(self).__name__} needs the teacher's logits, got None", expected)
        if teacher is None or teacher.shape == student.shape:
            return
        if "class" not in self.teacher_levels or teacher.shape != (len(student), self.sums.n_classes):
            given = f"the teacher's logits have shape {tuple(teacher.shape)}"
            also = f", or {(len(student), self.sums.n_classes)}" if "class" in self.teacher_levels else ""
            raise InputError(given, f"{tuple(student.shape)}, the shape of the student's{also}")


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits in float32 or float64, none below `LOWEST`."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.clamp(min=LOWEST)
