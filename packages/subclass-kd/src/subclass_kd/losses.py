"""What a student learns from: its labels, a teacher's classes, or a teacher's subclasses, all behind one interface.

With t and s the logits of teacher and student over the subclasses, q = softmax(t / T), p = softmax(s / T), and Q, P the
sums of q and p over the subclasses of a class, the divergence between them splits exactly::

    KL(q || p) = KL(Q || P)  +  sum_c Q_c KL(q(. | c) || p(. | c))

The first part is what classes can tell, the second what subclasses tell beyond them. Every soft term is multiplied by
T^2, so that its gradient keeps its size as T grows. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from jaxtyping import Float, Int
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from subclass_kd.hierarchy import Hierarchy

Level = Literal["subclass", "class"]
Reduction = Literal["mean", "sum", "none"]


class Objective(Protocol):
    """What a student is trained with: any callable of this form, such as a module of one's own."""

    needs_teacher: bool
    """Whether the teacher's logits are looked at."""

    def __call__(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Return the loss of a batch, a scalar."""
        ...


class _Base(nn.Module):
    """What all objectives share: a hierarchy, a hard term at one of two levels, a reduction."""

    needs_teacher = True

    def __init__(self, hierarchy: Hierarchy, hard: Level, reduction: Reduction) -> None:
        super().__init__()
        for name, chosen, known in (("hard", hard, Level), ("reduction", reduction, Reduction)):
            if chosen not in get_args(known):
                raise InputError(f"{name} is {chosen!r}", " or ".join(get_args(known)))
        self.hierarchy, self.hard, self.reduction = hierarchy, hard, reduction

    def _hard(self, student: Tensor, labels: Tensor) -> Tensor:
        """Compute each row's cross-entropy with its subclass, or with its class."""
        if self.hard == "subclass":
            return functional.cross_entropy(student, labels, reduction="none")
        classes = self.hierarchy.class_labels(labels)
        return functional.cross_entropy(self.hierarchy.class_logits(student), classes, reduction="none")

    def _checked(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Bring both logits to float32 at least; the teacher's carry no gradient."""
        expected = f"(batch, {self.hierarchy.n_subclasses})"
        if student.ndim != 2 or student.shape[1] != self.hierarchy.n_subclasses:
            raise InputError(f"the student's logits have shape {tuple(student.shape)}", expected)
        if labels.shape != student.shape[:1]:
            raise InputError(f"labels have shape {tuple(labels.shape)}", f"({len(student)},)")
        if self.needs_teacher and teacher is None:
            raise InputError(f"{type(self).__name__} is given no teacher's logits", expected)
        if teacher is not None and teacher.shape != student.shape:
            given = f"the teacher's logits have shape {tuple(teacher.shape)}"
            raise InputError(given, f"{tuple(student.shape)}, as the student's")
        wide = student if student.dtype == torch.float64 else student.float()
        return wide, wide if teacher is None else teacher.detach().to(wide.dtype)

    def _reduced(self, loss: Tensor) -> Tensor:
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()


class CrossEntropy(_Base):
    """No teacher: cross-entropy with the subclass labels, or with the classes alone.

    Parameters
    ----------
    hierarchy
        The subclasses' classes.
    hard
        "subclass", or "class": -log of the sum of the class's subclass probabilities.
    reduction
        "mean", "sum" or "none".

    Raises
    ------
    InputError
        For an unknown option.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> CrossEntropy(pets, hard="class")(torch.zeros(1, 3), None, torch.tensor([0]))
    tensor(0.4055)
    """

    needs_teacher = False

    def __init__(self, hierarchy: Hierarchy, hard: Level = "subclass", *, reduction: Reduction = "mean") -> None:
        super().__init__(hierarchy, hard, reduction)

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Compute the loss; the teacher's logits may be None."""
        with torch.autocast(student_logits.device.type, enabled=False):
            student, _ = self._checked(student_logits, teacher_logits, subclass_labels)
            return self._reduced(self._hard(student, subclass_labels))


class Split(NamedTuple):
    """The divergence between teacher and student in its two parts; their sum is the whole. In nats, without T^2."""

    between: Float[Tensor, " batch"]
    within: Float[Tensor, " batch"]


def split_divergence(
    student_logits: Float[Tensor, "batch subclasses"],
    teacher_logits: Float[Tensor, "batch subclasses"],
    hierarchy: Hierarchy,
    temperature: float = 1.0,
    *,
    normalize_groups: bool = False,
) -> Split:
    """Split KL(teacher || student) over the subclasses into a part of the classes and a part within them.

    Parameters
    ----------
    student_logits, teacher_logits
        Shape (batch, subclasses).
    hierarchy
        The subclasses' classes.
    temperature
        Divides both logits.
    normalize_groups
        Weigh every subclass by 1 / the size of its class: see `Hierarchy.class_log_probs`.

    Returns
    -------
    Split
        ``KL(Q || P)`` and ``sum_c Q_c KL(q(. | c) || p(. | c))``, shape (batch,) each.

    Raises
    ------
    InputError
        Where logits do not fit the hierarchy, or the temperature is not positive.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> parts = split_divergence(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.5]]), pets)
    >>> whole = torch.tensor([1.0, 0.0, 0.5]).softmax(0)
    >>> bool(torch.isclose(sum(parts), (whole * (3 * whole).log()).sum()))
    True
    """
    logs = []
    for logits in (teacher_logits, student_logits):
        softened = hierarchy.softened(logits, temperature, normalize_groups=normalize_groups)
        subclasses = functional.log_softmax(softened, dim=1)
        logs.append((subclasses, hierarchy.class_logits(subclasses)))
    (q, big_q), (p, big_p) = logs
    between = (big_q.exp() * (big_q - big_p)).sum(dim=1)
    class_of = torch.tensor(hierarchy.class_of, device=q.device)
    inner = (q - big_q[:, class_of]) - (p - big_p[:, class_of])
    return Split(between, (q.exp() * inner).sum(dim=1))


class SubclassKDLoss(_Base):
    """Subclass knowledge distillation: the teacher's softened subclass probabilities beside the hard labels.

    ``(1 - alpha) CE + alpha T^2 (class_weight KL(Q || P) + within_weight sum_c Q_c KL(q(.|c) || p(.|c)))``; with both
    weights 1, the default, the divergence over all subclasses. With one subclass a class it is `ClassKDLoss`.

    Parameters
    ----------
    hierarchy
        The subclasses' classes.
    temperature
        Divides the logits of the soft term.
    alpha
        The share of the soft term, in [0, 1].
    hard
        The hard term's level: "subclass" or "class".
    class_weight, within_weight
        Weights of the two parts.
    normalize_groups
        Weigh every subclass by 1 / the size of its class, for classes of unlike numbers of subclasses.
    reduction
        "mean", "sum" or "none".

    Raises
    ------
    InputError
        For an option outside what is accepted.

    References
    ----------
    arXiv 2207.08063. The factor T^2, the hard term's level and the defaults were not at hand: they are *ours*.

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
        self.temperature, self.alpha = _temperature(temperature), _share(alpha)
        self.class_weight = _weight("class_weight", class_weight)
        self.within_weight = _weight("within_weight", within_weight)
        self.normalize_groups = normalize_groups

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Compute the loss."""
        with torch.autocast(student_logits.device.type, enabled=False):
            student, teacher = self._checked(student_logits, teacher_logits, subclass_labels)
            if self.class_weight == self.within_weight == 1:
                soft = _divergence(*(
                    self.hierarchy.softened(logits, self.temperature, normalize_groups=self.normalize_groups)
                    for logits in (student, teacher)
                ))  # fmt: skip
            else:
                parts = split_divergence(
                    student, teacher, self.hierarchy, self.temperature, normalize_groups=self.normalize_groups
                )
                soft = self.class_weight * parts.between + self.within_weight * parts.within
            hard = self._hard(student, subclass_labels)
            return self._reduced((1 - self.alpha) * hard + self.alpha * self.temperature**2 * soft)


class ClassKDLoss(_Base):
    """Conventional distillation: the teacher's softened class probabilities beside the hard labels.

    Parameters
    ----------
    hierarchy
        The subclasses' classes.
    temperature
        Divides the class logits.
    alpha
        The share of the soft term, in [0, 1].
    hard
        The hard term's level: "class" or "subclass".
    soften
        "logits" softens the classes' logits, which is what conventional distillation does; "subclasses" sums softened
        subclasses instead, which tells something about their number, and is the class part of `SubclassKDLoss`.
    normalize_groups
        With "subclasses": weigh every subclass by 1 / the size of its class.
    reduction
        "mean", "sum" or "none".

    Raises
    ------
    InputError
        For an option outside what is accepted.

    References
    ----------
    Distilling the knowledge in a neural network, arXiv 1503.02531.

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
        soften: Literal["logits", "subclasses"] = "logits",
        normalize_groups: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(hierarchy, hard, reduction)
        self.temperature, self.alpha = _temperature(temperature), _share(alpha)
        if soften not in ("logits", "subclasses"):
            raise InputError(f"soften is {soften!r}", "logits or subclasses")
        if normalize_groups and soften == "logits":
            raise InputError("normalize_groups with softened class logits", "soften='subclasses' with it")
        self.soften, self.normalize_groups = soften, normalize_groups

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Compute the loss."""
        with torch.autocast(student_logits.device.type, enabled=False):
            student, teacher = self._checked(student_logits, teacher_logits, subclass_labels)
            if self.soften == "logits":
                soft = _divergence(*(self.hierarchy.class_logits(x) / self.temperature for x in (student, teacher)))
            else:
                soft = split_divergence(
                    student, teacher, self.hierarchy, self.temperature, normalize_groups=self.normalize_groups
                ).between
            hard = self._hard(student, subclass_labels)
            return self._reduced((1 - self.alpha) * hard + self.alpha * self.temperature**2 * soft)


class DecoupledKDLoss(_Base):
    """Decoupled distillation over the subclasses: the target's part and the others' part, each with its own weight.

    ``CE + T^2 (target_weight KL(b_q || b_p) + other_weight KL(q' || p'))`` with b the probability of the subclass that
    is true against all others, and q', p' the others among themselves.

    Parameters
    ----------
    hierarchy
        The subclasses' classes. With `Hierarchy.collapsed` it is the rival as published, over classes; of two classes
        nothing is left in the others' part.
    temperature
        Divides the logits.
    target_weight, other_weight
        alpha and beta of the published code.
    hard
        The hard term's level.
    reduction
        "mean", "sum" or "none".

    Raises
    ------
    InputError
        For an option outside what is accepted, or a single subclass.

    References
    ----------
    Decoupled knowledge distillation, arXiv 2203.08679.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    >>> same = DecoupledKDLoss(pets)(logits, logits, labels)
    >>> bool(torch.isclose(same, CrossEntropy(pets)(logits, None, labels), atol=1e-5))
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
            raise InputError("one subclass", "two at least, of which one is the target")
        self.temperature = _temperature(temperature)
        self.target_weight = _weight("target_weight", target_weight)
        self.other_weight = _weight("other_weight", other_weight)

    def forward(
        self,
        student_logits: Float[Tensor, "batch subclasses"],
        teacher_logits: Float[Tensor, "batch subclasses"] | None,
        subclass_labels: Int[Tensor, " batch"],
    ) -> Tensor:
        """Compute the loss."""
        with torch.autocast(student_logits.device.type, enabled=False):
            student, teacher = self._checked(student_logits, teacher_logits, subclass_labels)
            target = functional.one_hot(subclass_labels.long(), self.hierarchy.n_subclasses).bool()
            pairs, others = [], []
            for logits in (student, teacher):
                softened = logits / self.temperature
                rest = softened.masked_fill(target, -math.inf)
                own = softened.masked_fill(~target, -math.inf).amax(dim=1)
                pairs.append(torch.stack([own, torch.logsumexp(rest, dim=1)], dim=1))
                others.append(softened.masked_fill(target, torch.finfo(softened.dtype).min))
            soft = self.target_weight * _divergence(*pairs) + self.other_weight * _divergence(*others)
            return self._reduced(self._hard(student, subclass_labels) + self.temperature**2 * soft)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute KL(softmax(teacher) || softmax(student)) of each row."""
    p, q = (functional.log_softmax(logits, dim=1) for logits in (student, teacher))
    return functional.kl_div(p, q, reduction="none", log_target=True).sum(dim=1)


def _temperature(value: float) -> float:
    if not value > 0 or not math.isfinite(value):
        raise InputError(f"the temperature is {value}", "a positive number")
    return float(value)


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"alpha is {value}", "a number in [0, 1]")
    return float(value)


def _weight(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is {value}", "a number >= 0")
    return float(value)
