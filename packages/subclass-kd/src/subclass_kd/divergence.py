"""Kullback-Leibler divergences between the softened predictions of teacher and student.

With t and s the subclass logits of teacher and student, q = softmax(t / T) and p = softmax(s / T), and with Q and P the
sums of q and p over the subclasses of each class, the divergence splits exactly::

    KL(q || p) = KL(Q || P)  +  sum_c Q_c KL(q(. | c) || p(. | c))

The first part is what classes convey, the second what subclasses convey beyond them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from subclass_kd.class_sum import ClassSum
from subclass_kd.hierarchy import Hierarchy

LOWEST = -1e30  # of a logit: finite, so that a probability of zero never meets an infinite logarithm


class Split(NamedTuple):
    """Both parts of the divergence between teacher and student, in nats, without the factor T^2."""

    between: Float[Tensor, " batch"]
    within: Float[Tensor, " batch"]


class Soft(NamedTuple):
    """A divergence as weights of the teacher and what they weight: the term of a row is the sum of products."""

    weights: Float[Tensor, "batch terms"]
    terms: Float[Tensor, "batch terms"]

    def rows(self) -> Float[Tensor, " batch"]:
        """Compute the divergence of each row. A value that rounding leaves below 0 is 0, with the same gradient."""
        return _not_negative((self.weights * self.terms).sum(dim=1))

    def total(self) -> Tensor:
        """Compute the sum over the rows."""
        return _not_negative(torch.dot(self.weights.reshape(-1), self.terms.reshape(-1)))


def _not_negative(value: Tensor) -> Tensor:
    return value - value.detach().clamp(max=0)


def divergence(student_logits: Float[Tensor, "batch outputs"], teacher_logits: Float[Tensor, "batch outputs"]) -> Soft:
    """Compute KL(softmax(teacher) || softmax(student)), in nats."""
    p, q = (functional.log_softmax(logits, dim=1) for logits in (student_logits, teacher_logits))
    return Soft(q.exp(), q - p)


def weighted_divergence(
    student: Float[Tensor, "batch subclasses"],
    teacher: Float[Tensor, "batch subclasses"],
    sums: ClassSum,
    between: float,
    within: float,
) -> Soft:
    """Compute the weighted sum of both parts of the divergence of softened logits.

    It is ``within`` times the whole divergence plus ``between - within`` times the divergence of the classes.
    """
    logs = [functional.log_softmax(logits, dim=1) for logits in (student, teacher)]
    p, q = (torch.cat([log, sums(log)], dim=1) for log in logs)
    shares = torch.full((q.shape[1],), within, dtype=q.dtype, device=q.device)
    shares[sums.n_subclasses :] = between - within
    return Soft(q.exp() * shares, q - p)


def split_divergence(
    student_logits: Float[Tensor, "batch subclasses"],
    teacher_logits: Float[Tensor, "batch subclasses"],
    hierarchy: Hierarchy | ClassSum,
    temperature: float = 1.0,
    *,
    normalize_groups: bool = False,
) -> Split:
    """Split KL(teacher || student) over the subclasses into a part between the classes and a part within them.

    The parts are ``KL(Q || P)`` and ``sum_c Q_c KL(q(. | c) || p(. | c))``. ``normalize_groups`` weights every subclass
    by 1 / the size of its class: see `Hierarchy.class_log_probs`.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> parts = split_divergence(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.5]]), pets)
    >>> q = torch.tensor([1.0, 0.0, 0.5]).softmax(0)
    >>> bool(torch.isclose(sum(parts), (q * (3 * q).log()).sum()))
    True
    """
    sums = hierarchy.class_sum(student_logits.device) if isinstance(hierarchy, Hierarchy) else hierarchy
    logs = []
    for logits in (teacher_logits, student_logits):
        softened = sums.softened(logits, temperature, normalize_groups=normalize_groups)
        subclasses = functional.log_softmax(softened, dim=1)
        logs.append((subclasses, sums(subclasses)))
    (q, class_q), (p, class_p) = logs
    classes = Soft(class_q.exp(), class_q - class_p)
    return Split(classes.rows(), Soft(q.exp(), q - p - classes.terms.index_select(1, sums.class_of)).rows())


def decoupled_divergence(
    student_logits: Float[Tensor, "batch outputs"],
    teacher_logits: Float[Tensor, "batch outputs"],
    targets: Int[Tensor, " batch"],
    target_weight: float,
    other_weight: float,
) -> Soft:
    """Weight the divergences of (target, rest) and of the other outputs among themselves (arXiv 2203.08679)."""
    column, logs = targets[:, None], []
    for logits in (student_logits, teacher_logits):
        log_probs = functional.log_softmax(logits, dim=1)
        others = functional.log_softmax(logits.scatter(1, column, LOWEST), dim=1)
        largest = others.detach().argmax(dim=1, keepdim=True)  # any gives the rest's probability, this one precisely
        rest = (log_probs - others).gather(1, largest)
        logs.append(torch.cat([log_probs.gather(1, column), rest, others], dim=1))
    p, q = logs
    shares = torch.full((q.shape[1],), other_weight, dtype=q.dtype, device=q.device)
    shares[:2] = target_weight
    return Soft(q.exp() * shares, q - p)
