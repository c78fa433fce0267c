"""Losses under torch.compile, torch.export, torch.func, and on a device from which nothing can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from subclass_kd import (
    ClassKDLoss,
    ClassSum,
    CrossEntropy,
    DecoupledKDLoss,
    DISTLoss,
    Hierarchy,
    LearnedSubclassLoss,
    StandardizedKDLoss,
    SubclassKDLoss,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # torch's own

H = Hierarchy(np.array([0, 1, 0, 2, 1, 0]), tuple("abcdef"), ("x", "y", "z"))
LOSSES: dict[str, Any] = {
    "skd": SubclassKDLoss(H),
    "skd, split, class": SubclassKDLoss(H, 3.0, 0.5, "class", within_weight=0.5, normalize_groups=True),
    "kd": ClassKDLoss(H),
    "kd of subclasses": ClassKDLoss(H, soften="subclasses", normalize_groups=True),
    "dkd": DecoupledKDLoss(H),
    "standardised": StandardizedKDLoss(H),
    "dist": DISTLoss(H, level="class"),
    "alone": CrossEntropy(H, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1, ignore_index=-100),
    "learned": LearnedSubclassLoss(H),
}
LABELS = torch.tensor([0, -1, -3, 5, 2], dtype=torch.int8)
every_loss = pytest.mark.parametrize("name", LOSSES)


def draw(seed: int) -> Tensor:
    return 2 * torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = draw(0), draw(1)


def slope(loss: Any, student: Tensor = STUDENT, labels: Tensor = LABELS) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    value = loss(leaf, TEACHER, labels)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@every_loss
def test_a_compiled_loss_is_one_graph_with_the_same_gradient(name: str) -> None:
    torch.compiler.reset()
    loss = LOSSES[name]
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for one, other in zip(slope(compiled), slope(loss), strict=True):
        torch.testing.assert_close(one, other)
    gradient = torch.compile(lambda x: torch.func.grad(loss)(x, TEACHER, LABELS), fullgraph=True, backend="eager")
    torch.testing.assert_close(gradient(STUDENT), slope(loss)[1])


@every_loss
def test_an_exported_loss_takes_batches_of_any_size(name: str) -> None:
    loss = LOSSES[name]
    rows = torch.export.Dim("rows")
    exported = torch.export.export(loss, (STUDENT, TEACHER, LABELS), dynamic_shapes=({0: rows},) * 3).module()
    for count in (5, 3):
        batch = STUDENT[:count], TEACHER[:count], LABELS[:count]
        torch.testing.assert_close(exported(*batch), loss(*batch))


def test_an_exported_loss_of_each_row_takes_batches_of_any_size() -> None:
    loss, rows = SubclassKDLoss(H, reduction="none"), torch.export.Dim("rows")
    exported = torch.export.export(loss, (STUDENT, TEACHER, LABELS), dynamic_shapes=({0: rows},) * 3).module()
    batch = STUDENT[:3], TEACHER[:3], LABELS[:3]
    torch.testing.assert_close(exported(*batch), loss(*batch))


@every_loss
def test_functional_gradients_and_vmap_are_those_of_a_loop(name: str) -> None:
    loss, students = LOSSES[name], torch.stack([STUDENT, draw(2), draw(3)])
    labels = torch.stack([LABELS, LABELS.flip(0), torch.full_like(LABELS, -1)])
    gradient = torch.func.grad(loss)
    torch.testing.assert_close(gradient(STUDENT, TEACHER, LABELS), slope(loss)[1])
    alone = [slope(loss, one, own) for one, own in zip(students, labels, strict=True)]
    for function, part in ((loss, 0), (gradient, 1)):
        together = torch.vmap(function, (0, None, 0))(students, TEACHER, labels)
        torch.testing.assert_close(together, torch.stack([each[part] for each in alone]), rtol=1e-4, atol=1e-5)
    per_row = torch.vmap(lambda s, t, y: loss(s[None], t[None], y[None]))(STUDENT, TEACHER, LABELS)
    rows = [loss(STUDENT[i : i + 1], TEACHER[i : i + 1], LABELS[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(per_row, torch.stack(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, in forward mode
@every_loss
def test_second_derivatives_and_forward_mode_agree_with_finite_differences(name: str) -> None:
    student = STUDENT[:3].double().requires_grad_()
    function = lambda x: LOSSES[name](x, TEACHER[:3], LABELS[:3])  # noqa: E731
    assert torch.autograd.gradcheck(function, (student,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (student,))


class OnDevice(TorchDispatchMode):
    """Refuses every operation with a tensor of more than one number on another device than "meta"."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta or not tensor.ndim, func
        return result


@every_loss
def test_a_call_reads_nothing_from_the_device_and_copies_nothing_to_it(name: str) -> None:
    """On "meta" no value can be read, and a tensor that is made on the host at each call would be seen."""
    loss = type(LOSSES[name])(H).to("meta")
    student = torch.empty(5, 6, device="meta", requires_grad=True)
    teacher, labels = torch.empty(5, 6, device="meta"), torch.empty(5, dtype=torch.long, device="meta")
    with OnDevice():
        loss(student, teacher, labels).backward()
    assert student.grad is not None and student.grad.shape == (5, 6)


def test_the_sum_over_subclasses_is_a_module_like_any_other() -> None:
    sums = ClassSum(H)
    assert not sums.state_dict() and {name for name, _ in sums.named_buffers()} >= {"class_of", "members", "padding"}
    expected = H.class_logits(STUDENT)
    for module in (
        torch.compile(sums, fullgraph=True, backend="eager"),
        torch.export.export(sums, (STUDENT,)).module(),
    ):
        assert torch.equal(module(STUDENT), expected)
    assert torch.equal(torch.vmap(sums)(torch.stack([STUDENT] * 2))[1], expected)
    codes = torch.arange(-4, 6)
    assert sums.class_labels(codes.to(torch.int8)).tolist() == [2, 1, 0, -1, 0, 1, 0, 2, 1, 0]
    sums, student = sums.to("meta"), STUDENT.to("meta")
    with OnDevice():
        assert sums.log_probs(student, 2.0, normalize_groups=True).shape == (5, 3)
