"""Losses with their gradients in closed form, for eager training on a CPU, where autograd takes most of the time.

Arguments named ``both`` hold the student's rows and then the teacher's, so that both share every operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from subclass_kd.class_sum import ClassSum


class Closed(NamedTuple):
    """A loss and its gradient."""

    value: float
    gradient: Float[Tensor, "batch outputs"]


def usable(student: Tensor) -> bool:
    """Return whether a gradient alone will do: not while a graph is recorded or a transform is active."""
    return (
        student.requires_grad
        and torch.is_grad_enabled()
        and student.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def attached(closed: Closed, student: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the value as a tensor with this gradient; second derivatives are those of `loss`."""
    value: Tensor = _Attached.apply(student, closed.value, closed.gradient, loss)
    return value


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, value: float, gradient: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(student, gradient)
        ctx.loss = loss
        return torch.tensor(value, dtype=gradient.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        student, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = torch.autograd.grad(ctx.loss(student), student, slopes[0], create_graph=True)
            return gradient, None, None, None
        return (gradient * slopes[0]).to(student.dtype), None, None, None


def class_logits(logits: Float[Tensor, "rows subclasses"], sums: ClassSum) -> Float[Tensor, "rows classes"]:
    """Compute what `ClassSum` does; without a graph these operations are faster than torch.logsumexp."""
    grouped = logits.index_select(1, sums.members).view(logits.shape[0], *sums.shape)
    if sums.padded:
        grouped = grouped.masked_fill_(sums.padding, -math.inf)
    largest = grouped.amax(dim=2, keepdim=True)
    return grouped.sub_(largest).exp_().sum(dim=2).log_().add_(largest.squeeze(2))


def cross_entropy(logits: Float[Tensor, "batch outputs"], targets: Int[Tensor, " batch"], share: float) -> Closed:
    """Compute ``share`` times the mean cross-entropy."""
    factor = share / logits.shape[0]
    log_probs = functional.log_softmax(logits, dim=1)
    value = factor * -float(log_probs.gather(1, targets[:, None]).sum())
    gradient = log_probs.exp_().mul_(factor)
    return Closed(value, gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -factor)))


def divergence(both: Float[Tensor, "rows outputs"], temperature: float, share: float) -> Closed:
    """Compute ``share`` times the mean divergence of softened logits."""
    rows = both.shape[0] // 2
    log_probs = functional.log_softmax(both / temperature, dim=1)
    ratio = log_probs[rows:] - log_probs[:rows]
    probs = log_probs.exp_()
    q = probs[rows:]
    value = share / rows * max(0.0, float(torch.dot(q.view(-1), ratio.view(-1))))
    return Closed(value, probs[:rows].sub_(q).mul_(share / (rows * temperature)))


def weighted_divergence(
    both: Float[Tensor, "rows subclasses"],
    sums: ClassSum,
    between: float,
    within: float,
    temperature: float,
    share: float,
) -> Closed:
    """Compute ``share`` times the mean of the weighted parts of the divergence; ``both`` are softened."""
    rows = both.shape[0] // 2
    logs = functional.log_softmax(both, dim=1)
    class_logs = class_logits(logs, sums)
    inside = (logs[:rows] - class_logs[:rows].index_select(1, sums.class_of)).exp_()  # probabilities within the class
    value, gradients = 0.0, []
    for log_probs, weight in ((logs, within), (class_logs, between - within)):
        ratio = log_probs[rows:] - log_probs[:rows]
        probs = log_probs.exp_()
        q = probs[rows:]
        value += weight * float(torch.dot(q.view(-1), ratio.view(-1)))
        gradients.append(probs[:rows].sub_(q).mul_(share / (rows * temperature) * weight))
    gradient = gradients[0].addcmul_(gradients[1].index_select(1, sums.class_of), inside)
    return Closed(share / rows * max(0.0, value), gradient)


def through_classes(closed: Closed, student: Tensor, class_logits: Tensor, sums: ClassSum) -> Closed:
    """Return a loss of class logits as one of subclass logits."""
    inside = (student - class_logits.index_select(1, sums.class_of)).exp_()
    return Closed(closed.value, inside.mul_(closed.gradient.index_select(1, sums.class_of)))


def total(terms: list[Closed]) -> Closed:
    """Add up losses."""
    gradient = terms[0].gradient
    for term in terms[1:]:
        gradient = gradient.add_(term.gradient)
    return Closed(sum(term.value for term in terms), gradient)
