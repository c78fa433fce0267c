"""Kullback-Leibler divergences between the softened predictions of teacher and student.

With t and s the subclass logits of teacher and student, q = softmax(t / T) and p = softmax(s / T), and with Q and P the
sums of q and p over the subclasses of each class, the divergence splits exactly::

    KL(q || p) = KL(Q || P)  +  sum_c Q_c KL(q(. | c) || p(. | c))

The first part is what classes convey, the second what subclasses convey beyond them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from subclass_kd.hierarchy import Hierarchy


class Split(NamedTuple):
    """Both parts of the divergence between teacher and student, in nats, without the factor T^2."""

    between: Float[Tensor, " batch"]
    within: Float[Tensor, " batch"]


def divergence(
    student_logits: Float[Tensor, "batch outputs"], teacher_logits: Float[Tensor, "batch outputs"]
) -> Float[Tensor, " batch"]:
    """Compute KL(softmax(teacher) || softmax(student)) of each row, in nats."""
    p, q = (functional.log_softmax(logits, dim=1) for logits in (student_logits, teacher_logits))
    return functional.kl_div(p, q, reduction="none", log_target=True).sum(dim=1)


def split_divergence(
    student_logits: Float[Tensor, "batch subclasses"],
    teacher_logits: Float[Tensor, "batch subclasses"],
    hierarchy: Hierarchy,
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
    logs = []
    for logits in (teacher_logits, student_logits):
        softened = hierarchy.softened(logits, temperature, normalize_groups=normalize_groups)
        subclasses = functional.log_softmax(softened, dim=1)
        logs.append((subclasses, hierarchy.class_logits(subclasses)))
    (q, class_q), (p, class_p) = logs
    between = (class_q.exp() * (class_q - class_p)).sum(dim=1)
    class_of = torch.tensor(hierarchy.class_of, device=q.device)
    log_ratio = (q - class_q[:, class_of]) - (p - class_p[:, class_of])
    return Split(between, (q.exp() * log_ratio).sum(dim=1))


def decoupled_divergence(
    student_logits: Float[Tensor, "batch outputs"],
    teacher_logits: Float[Tensor, "batch outputs"],
    labels: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the divergences of (label, rest) and of the other outputs among themselves (arXiv 2203.08679)."""
    target = functional.one_hot(labels.long(), student_logits.shape[1]).bool()
    pairs, others = [], []
    for logits in (student_logits, teacher_logits):
        rest = logits.masked_fill(target, -math.inf)
        own = logits.masked_fill(~target, -math.inf).amax(dim=1)
        pairs.append(torch.stack([own, torch.logsumexp(rest, dim=1)], dim=1))
        others.append(logits.masked_fill(target, torch.finfo(logits.dtype).min))
    return divergence(*pairs), divergence(*others)
