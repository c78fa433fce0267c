"""Rivals of subclass distillation, over subclasses or over classes."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from sextet_common.checks import NonNegative, Positive, check
from sextet_common.errors import InputError
from torch import Tensor

from subclass_kd.divergence import LOWEST, Soft, decoupled_divergence, divergence
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.losses.base import Batch, Common, Loss
from subclass_kd.losses.hard import Level


class DecoupledKDLoss(Loss):
    """Decoupled distillation over the subclasses: the target's part and the others' part, weighted separately.

    ``CE + T^2 (target_weight KL(b_q || b_p) + other_weight KL(q' || p'))``, where b is the probability of the true
    subclass against all others, and q', p' are the others among themselves.

    ``target_weight`` and ``other_weight`` are alpha and beta in the published code (Decoupled knowledge distillation,
    arXiv 2203.08679). With `Hierarchy.collapsed` the loss is the published one, over classes; with two classes its
    others' part is 0. The target of a row without a subclass label is the teacher's most probable subclass, of the
    class if that is known (not specified in the paper).

    Examples
    --------
    >>> import torch
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 2])
    >>> loss = DecoupledKDLoss(pets)(logits, logits, labels)
    >>> bool(torch.isclose(loss, torch.nn.functional.cross_entropy(logits, labels), atol=1e-5))
    True
    """

    possible: Bool[Tensor, "labels subclasses"]

    def __init__(
        self,
        hierarchy: Hierarchy,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        other_weight: float = 8.0,
        hard: Level = "subclass",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(hierarchy, hard, **common)
        if hierarchy.n_subclasses < 2:
            raise InputError("a hierarchy with one subclass", "at least two, the target and another one")
        check("temperature", temperature, Positive)
        check("target_weight", target_weight, NonNegative)
        check("other_weight", other_weight, NonNegative)
        self.temperature = float(temperature)
        self.target_weight, self.other_weight = float(target_weight), float(other_weight)
        self._shares(1.0, self.temperature**2)

        classes = self.sums.class_of_code[:, None]
        possible = (classes == self.sums.class_of) | (classes < 0)
        possible[hierarchy.n_classes + 1 :] = torch.eye(hierarchy.n_subclasses, dtype=torch.bool)
        self.register_buffer("possible", possible, persistent=False)

    def _soft(self, batch: Batch) -> Soft:
        targets = batch.labels
        if not batch.all_subclasses:
            possible = self.possible.index_select(0, batch.labels + (self.sums.n_classes + 1))
            targets = batch.teacher.masked_fill(~possible, -math.inf).argmax(dim=1)
        student, teacher = batch.student / self.temperature, batch.teacher / self.temperature
        return decoupled_divergence(student, teacher, targets, self.target_weight, self.other_weight)


class _OfLevel(Loss):
    """A loss whose soft term compares subclasses or classes."""

    def __init__(self, hierarchy: Hierarchy, temperature: float, hard: Level, level: Level, common: Common) -> None:
        super().__init__(hierarchy, hard, **common)
        check("temperature", temperature, Positive)
        check("level", level, Level)
        if (hierarchy.n_subclasses if level == "subclass" else hierarchy.n_classes) < 2:
            raise InputError(f"a hierarchy with one {level}", "at least two")
        self.temperature, self.level = float(temperature), level
        self.teacher_levels = ("subclass", "class") if level == "class" else ("subclass",)


class StandardizedKDLoss(_OfLevel):
    """Distillation of standardised logits: only their relations count, not their size (logit standardisation).

    ``hard_weight CE + soft_weight T^2 KL(softmax(z(t) / T) || softmax(z(s) / T))``, where z subtracts a row's mean and
    divides by its standard deviation. ``level`` is that of the logits t and s. The two logits of two classes become
    -0.7 and 0.7 whatever their difference, which teaches nothing: use subclasses there. Logits of -inf stay out of mean
    and standard deviation.

    References
    ----------
    Sun et al., Logit standardization in knowledge distillation, CVPR 2024 (arXiv 2403.01427); the default temperature
    and weights are those of the published code.

    Examples
    --------
    >>> import torch
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 2])
    >>> loss = StandardizedKDLoss(pets, hard_weight=0)(3 * logits + 1, logits, labels)
    >>> bool(loss < 1e-5)
    True
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        temperature: float = 2.0,
        hard_weight: float = 0.1,
        soft_weight: float = 9.0,
        hard: Level = "subclass",
        *,
        level: Level = "subclass",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(hierarchy, temperature, hard, level, common)
        check("hard_weight", hard_weight, NonNegative)
        check("soft_weight", soft_weight, NonNegative)
        self.hard_weight, self.soft_weight = float(hard_weight), float(soft_weight)
        self._shares(self.hard_weight, self.soft_weight * self.temperature**2)

    def _soft(self, batch: Batch) -> Soft:
        student, teacher = self.at_level(batch, self.level)
        return divergence(_standardized(student) / self.temperature, _standardized(teacher) / self.temperature)


class DISTLoss(_OfLevel):
    """Distillation of correlations instead of probabilities, from a teacher much stronger than the student (DIST).

    ``CE + T^2 (inter_weight (1 - r_rows) + intra_weight (1 - r_columns))``, where r is Pearson's correlation of the
    softened probabilities of teacher and student: of a row over the outputs, averaged over the rows, and of an output
    over the rows of the batch, averaged over the outputs. ``level`` is that of the outputs. Of two classes, a row's
    correlation is 1 as soon as both prefer the same class.

    References
    ----------
    Huang et al., Knowledge distillation from a stronger teacher, NeurIPS 2022 (arXiv 2205.10536). The defaults and
    sample weights, which weight the rows in the correlations of columns too, are our choices.

    Examples
    --------
    >>> import torch
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 2])
    >>> loss = DISTLoss(pets)(logits, logits, labels)
    >>> bool(torch.isclose(loss, torch.nn.functional.cross_entropy(logits, labels), atol=1e-5))
    True
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        temperature: float = 1.0,
        inter_weight: float = 2.0,
        intra_weight: float = 2.0,
        hard: Level = "subclass",
        *,
        level: Level = "subclass",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(hierarchy, temperature, hard, level, common)
        check("inter_weight", inter_weight, NonNegative)
        check("intra_weight", intra_weight, NonNegative)
        self.inter_weight, self.intra_weight = float(inter_weight), float(intra_weight)
        self._shares(1.0, self.temperature**2)

    def _soft(self, batch: Batch) -> Soft:
        p, q = ((logits / self.temperature).softmax(dim=1) for logits in self.at_level(batch, self.level))
        inter = 1 - _correlation(p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True), 1)
        weights = torch.ones_like(inter) if batch.sample_weights is None else batch.sample_weights.to(p.dtype)
        root = (weights / weights.sum().clamp(min=1e-30)).sqrt()[:, None]  # of a row's share
        p, q = (root * (x - (root.square() * x).sum(dim=0)) for x in (p, q))
        intra = 1 - _correlation(p, q, 0).mean()
        rows = self.inter_weight * inter + self.intra_weight * intra
        return Soft(torch.ones_like(rows)[:, None], rows[:, None])


def _standardized(logits: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch outputs"]:
    finite = logits > LOWEST
    count = finite.sum(dim=1, keepdim=True)
    mean = torch.where(finite, logits, 0).sum(dim=1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(finite, logits - mean, 0)
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / (count - 1).clamp(min=1).sqrt()
    return torch.where(finite, centred / (1e-7 + deviation), LOWEST)


def _correlation(a: Float[Tensor, "rows columns"], b: Float[Tensor, "rows columns"], dim: int) -> Float[Tensor, " n"]:
    """Compute the cosine of centred vectors; the small number is that of the published code."""
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    correlation: Tensor = (a * b).sum(dim=dim) / (norms + 1e-8)
    return correlation
