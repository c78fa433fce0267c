from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, zscore
from sextet_common.errors import InputError
from subclass_kd import (
    ClassKDLoss,
    CrossEntropy,
    DecoupledKDLoss,
    DISTLoss,
    Hierarchy,
    StandardizedKDLoss,
    SubclassKDLoss,
    split_divergence,
)
from torch import Tensor, distributions as td

H = Hierarchy(np.array([0, 1, 0, 2, 1, 0]), tuple("abcdef"), ("x", "y", "z"))
LABELS = torch.tensor([0, 3, 4, 5])


def logits(seed: int, columns: int = 6, rows: int = 4) -> Tensor:
    return 3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    return td.kl_divergence(td.Categorical(logits=teacher), td.Categorical(logits=student))


def sums(probabilities: Tensor) -> Tensor:
    return torch.stack([probabilities[:, torch.from_numpy(H.class_of == c)].sum(dim=1) for c in range(3)], dim=1)


@pytest.mark.parametrize("hard", ["subclass", "class"])
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (1.0, 1.0), (3.0, 0.4)])
def test_the_subclass_loss_is_its_formula_over_torchs_divergence(hard: Any, temperature: float, alpha: float) -> None:
    student, teacher = logits(0), logits(1)
    probabilities = student.softmax(dim=1)
    own = probabilities[torch.arange(4), LABELS]
    classes = sums(probabilities)[torch.arange(4), torch.tensor(H.class_of)[LABELS]]
    first = -(own if hard == "subclass" else classes).log()
    expected = (1 - alpha) * first + alpha * temperature**2 * divergence(teacher / temperature, student / temperature)
    loss = SubclassKDLoss(H, temperature, alpha, hard, reduction="none")
    torch.testing.assert_close(loss(student, teacher, LABELS), expected)
    whole = SubclassKDLoss(H, temperature, alpha, hard)
    torch.testing.assert_close(whole(student, teacher, LABELS), expected.mean())
    torch.testing.assert_close(CrossEntropy(H, hard, reduction="sum")(student, None, LABELS), first.sum())


@pytest.mark.parametrize("temperature", [1.0, 3.0, 50.0])
def test_the_divergence_splits_exactly_into_classes_and_within(temperature: float) -> None:
    student, teacher = logits(2), logits(3)
    q, p = ((x / temperature).softmax(dim=1) for x in (teacher, student))
    big_q, big_p = sums(q), sums(p)
    between = (big_q * (big_q / big_p).log()).sum(dim=1)
    within = torch.zeros(4, dtype=torch.float64)
    for c in range(3):
        mine = torch.from_numpy(H.class_of == c)
        inner = td.kl_divergence(td.Categorical(probs=q[:, mine]), td.Categorical(probs=p[:, mine]))
        within += big_q[:, c] * inner
    parts = split_divergence(student, teacher, H, temperature)
    torch.testing.assert_close(parts.between, between)
    torch.testing.assert_close(parts.within, within)
    torch.testing.assert_close(sum(parts), divergence(teacher / temperature, student / temperature))
    loss = SubclassKDLoss(H, temperature, 1.0, class_weight=0.3, within_weight=2.0, reduction="none")
    expected = temperature**2 * (0.3 * between + 2 * within)
    torch.testing.assert_close(loss(student, teacher, LABELS), expected)


@pytest.mark.parametrize("weights", [{}, {"class_weight": 0.3, "within_weight": 2.0}])
def test_normalised_groups_weight_subclasses_by_their_class_s_size(weights: dict[str, float]) -> None:
    student, teacher = logits(18), logits(19)
    sizes = torch.tensor([3.0, 2, 3, 1, 2, 3], dtype=torch.float64)
    q, p = ((x / 2).exp() / sizes for x in (teacher, student))
    q, p = q / q.sum(dim=1, keepdim=True), p / p.sum(dim=1, keepdim=True)
    between = (sums(q) * (sums(q) / sums(p)).log()).sum(dim=1)
    within = (q * (q / p).log()).sum(dim=1) - between
    expected = weights.get("class_weight", 1) * between + weights.get("within_weight", 1) * within
    loss = SubclassKDLoss(H, 2.0, 1.0, normalize_groups=True, reduction="none", **weights)
    torch.testing.assert_close(loss(student, teacher, LABELS), 4 * expected)
    classes = ClassKDLoss(H, 2.0, 1.0, soften="subclasses", normalize_groups=True, reduction="none")
    torch.testing.assert_close(classes(student, teacher, LABELS), 4 * between)


@pytest.mark.parametrize("hard", ["subclass", "class"])
@pytest.mark.parametrize("kind", [ClassKDLoss, DecoupledKDLoss])
def test_the_hard_term_of_the_other_objectives_is_at_the_chosen_level(kind: Any, hard: Any) -> None:
    student = logits(20)
    share = 1.0 if kind is DecoupledKDLoss else 0.4
    options = {} if kind is DecoupledKDLoss else {"alpha": 0.6}
    equal = kind(H, 2.0, hard=hard, reduction="none", **options)(student, student, LABELS)
    torch.testing.assert_close(equal, share * CrossEntropy(H, hard, reduction="none")(student, None, LABELS))


def test_with_one_subclass_a_class_subclass_distillation_is_conventional() -> None:
    plain = H.collapsed()
    student, teacher = logits(4, 3), logits(5, 3)
    labels = torch.tensor([0, 1, 2, 0])
    for options in ({"temperature": 4.0, "alpha": 0.7}, {"temperature": 1.0, "alpha": 0.2}):
        subclass = SubclassKDLoss(plain, **options)(student, teacher, labels)
        for soften in ("logits", "subclasses"):
            conventional = ClassKDLoss(plain, **options, soften=soften)(student, teacher, labels)
            assert float((subclass - conventional).abs()) < 1e-7


def test_conventional_distillation_takes_a_teacher_of_the_classes_alone() -> None:
    student, teacher = logits(6), logits(7)
    for loss in (ClassKDLoss(H), StandardizedKDLoss(H, level="class"), DISTLoss(H, level="class")):
        torch.testing.assert_close(loss(student, H.class_logits(teacher), LABELS), loss(student, teacher, LABELS))
    for refused in (ClassKDLoss(H, soften="subclasses"), SubclassKDLoss(H), DISTLoss(H), DecoupledKDLoss(H)):
        with pytest.raises(InputError, match=r"the teacher's logits have shape \(4, 3\)"):
            refused(student, H.class_logits(teacher), LABELS)
    with pytest.raises(InputError, match=r"expected: \(4, 6\), the shape of the student's, or \(4, 3\)"):
        ClassKDLoss(H)(student, teacher[:, :2], LABELS)


def test_standardised_distillation_is_the_divergence_of_standard_scores() -> None:
    student, teacher = logits(27), logits(28)
    scores = [torch.from_numpy(zscore(x.numpy(), axis=1, ddof=1)) / 2 for x in (teacher, student)]
    hard = CrossEntropy(H, reduction="none")(student, None, LABELS)
    loss = StandardizedKDLoss(H, 2.0, 0.3, 5.0, reduction="none")(student, teacher, LABELS)
    torch.testing.assert_close(loss, 0.3 * hard + 5 * 4 * divergence(*scores), rtol=1e-6, atol=0)
    masked = [torch.cat([x, torch.full((4, 2), -torch.inf)], dim=1) for x in (student, teacher)]
    wide = Hierarchy(np.array([0, 1, 0, 2, 1, 0, 0, 1]), tuple("abcdefgh"), ("x", "y", "z"))
    torch.testing.assert_close(StandardizedKDLoss(wide, 2.0, 0.3, 5.0)(*masked, LABELS), loss.mean())


def test_two_standardised_logits_teach_nothing() -> None:
    two = Hierarchy(np.array([0, 1, 0]), tuple("abc"), ("x", "y"))
    student = logits(29, 3).requires_grad_()
    value = StandardizedKDLoss(two, hard_weight=0, level="class")(student, logits(30, 3), LABELS % 3)
    (slope,) = torch.autograd.grad(value, student)
    assert float(slope.abs().max()) < 1e-5


def test_dist_is_its_two_correlations() -> None:
    student, teacher = logits(31), logits(32)
    p, q = ((x / 3).softmax(dim=1).numpy() for x in (student, teacher))
    rows = torch.tensor([pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)])
    columns = np.mean([pearsonr(a, b).statistic for a, b in zip(p.T, q.T, strict=True)])
    hard = CrossEntropy(H, reduction="none")(student, None, LABELS)
    expected = hard + 9 * (0.5 * (1 - rows) + 1.5 * (1 - columns))
    loss = DISTLoss(H, 3.0, 0.5, 1.5, reduction="none")
    # The published code adds 1e-8 to a product of two norms, which are about 0.03 here.
    torch.testing.assert_close(loss(student, teacher, LABELS), expected, rtol=1e-4, atol=0)
    # An integer sample weight repeats the row.
    repeated = [torch.cat([x, x[:1]]) for x in (student, teacher, LABELS)]
    weights = torch.tensor([2.0, 1.0, 1.0, 1.0])
    mean = DISTLoss(H, 3.0, 0.5, 1.5)
    torch.testing.assert_close(mean(student, teacher, LABELS, weights), mean(*repeated))


def test_conventional_distillation_softens_class_logits() -> None:
    student, teacher = logits(6), logits(7)
    classes = [
        torch.stack([x[:, torch.from_numpy(H.class_of == c)].logsumexp(dim=1) for c in range(3)], 1)
        for x in (teacher, student)
    ]
    expected = 16 * divergence(classes[0] / 4, classes[1] / 4)
    torch.testing.assert_close(ClassKDLoss(H, 4.0, 1.0, reduction="none")(student, teacher, LABELS), expected)
    other = ClassKDLoss(H, 4.0, 1.0, soften="subclasses", reduction="none")(student, teacher, LABELS)
    torch.testing.assert_close(other, 16 * split_divergence(student, teacher, H, 4.0).between)
    assert float((other - expected).abs().max()) > 1e-2


def test_decoupled_distillation_is_its_two_parts() -> None:
    student, teacher = logits(8), logits(9)
    expected = []
    for row, label in enumerate(LABELS.tolist()):
        rest = [m for m in range(6) if m != label]
        q, p = ((x[row] / 2).softmax(dim=0) for x in (teacher, student))
        pair_q, pair_p = (torch.stack([x[label], x[rest].sum()]) for x in (q, p))
        target = (pair_q * (pair_q / pair_p).log()).sum()
        others = td.kl_divergence(td.Categorical(probs=q[rest]), td.Categorical(probs=p[rest]))
        hard = -student[row].softmax(dim=0)[label].log()
        expected.append(hard + 4 * (1.5 * target + 3 * others))
    losses = DecoupledKDLoss(H, 2.0, 1.5, 3.0, reduction="none")(student, teacher, LABELS)
    torch.testing.assert_close(losses, torch.stack(expected))


def test_the_soft_gradient_keeps_its_size_as_the_temperature_grows() -> None:
    student, teacher = logits(10).requires_grad_(), logits(11)
    sizes = []
    for temperature in (50.0, 100.0, 200.0):
        (slope,) = torch.autograd.grad(SubclassKDLoss(H, temperature, 1.0)(student, teacher, LABELS), student)
        sizes.append(float(slope.norm()))
    # In the limit the gradient is that of the centred logits' squared difference: (s - t) / subclasses, over the batch.
    centred = [x - x.mean(dim=1, keepdim=True) for x in (student.detach(), teacher)]
    assert sizes[-1] == pytest.approx(float((centred[0] - centred[1]).norm()) / 6 / 4, rel=0.05)
    assert max(sizes) / min(sizes) < 1.15


OBJECTIVES = [
    SubclassKDLoss(H, 3.0, 0.5),
    SubclassKDLoss(H, 3.0, 0.5, "class", within_weight=0.5, normalize_groups=True),
    ClassKDLoss(H, 3.0, 0.5),
    ClassKDLoss(H, 3.0, 0.5, soften="subclasses", normalize_groups=True),
    DecoupledKDLoss(H, 3.0),
    CrossEntropy(H),
    CrossEntropy(H, "class"),
    StandardizedKDLoss(H, 3.0),
    StandardizedKDLoss(H, level="class"),
    DISTLoss(H, 3.0),
    DISTLoss(H, level="class"),
    SubclassKDLoss(H, weight=torch.tensor([1.0, 0.5, 2.0]), label_smoothing=0.1, ignore_index=-100),
]


MIXED = torch.tensor([0, -1, -4, -2, 5, -1])  # subclasses 0 and 5, classes 2 and 0, and two unlabelled rows


@pytest.mark.parametrize("hard", ["subclass", "class"])
@pytest.mark.parametrize("kind", [SubclassKDLoss, ClassKDLoss])
def test_the_hard_term_is_averaged_over_labelled_rows_and_the_soft_term_over_all(kind: Any, hard: Any) -> None:
    student, teacher = logits(21, rows=6), logits(22, rows=6)
    probabilities = student.softmax(dim=1)
    own = [probabilities[0, 0], sums(probabilities)[2, 2], sums(probabilities)[3, 0], probabilities[4, 5]]
    if hard == "class":
        own[0], own[3] = sums(probabilities)[0, 0], sums(probabilities)[4, 0]
    first = -torch.stack(own).log()
    soft = kind(H, 2.0, 1.0, reduction="none")(student, teacher, torch.zeros(6, dtype=torch.long))
    loss = kind(H, 2.0, 0.3, hard)(student, teacher, MIXED)
    torch.testing.assert_close(loss, 0.7 * first.mean() + 0.3 * soft.mean())
    rows = torch.zeros(6, dtype=torch.float64).index_put((torch.tensor([0, 2, 3, 4]),), 0.7 * first * 6 / 4)
    each = kind(H, 2.0, 0.3, hard, reduction="none")(student, teacher, MIXED)
    torch.testing.assert_close(each, rows + 0.3 * soft)
    torch.testing.assert_close(each.mean(), loss)
    total = kind(H, 2.0, 0.3, hard, reduction="sum")(student, teacher, MIXED)
    torch.testing.assert_close(total, 0.7 * first.sum() + 0.3 * soft.sum())


def test_a_batch_without_labels_has_no_hard_term() -> None:
    student, teacher = logits(23).requires_grad_(), logits(24)
    none = torch.full((4,), -1)
    for objective in OBJECTIVES:
        value = objective(student, teacher, none)
        (slope,) = torch.autograd.grad(value, student, allow_unused=True)
        if isinstance(objective, CrossEntropy):
            assert value.item() == 0 and not slope.any()
    soft = SubclassKDLoss(H, 3.0, 1.0)(student, teacher, LABELS)
    torch.testing.assert_close(SubclassKDLoss(H, 3.0, 0.25)(student, teacher, none), 0.25 * soft)


def test_decoupled_distillation_takes_the_teachers_subclass_where_there_is_no_label() -> None:
    student, teacher = logits(25), logits(26)
    loss = DecoupledKDLoss(H, 2.0, reduction="none")
    best, of_x = teacher.argmax(dim=1), torch.tensor([0, 2, 5])[teacher[:, [0, 2, 5]].argmax(dim=1)]
    assert not torch.equal(best, of_x)
    for labels, target in ((torch.full((4,), -1), best), (torch.full((4,), -2), of_x)):
        hard = CrossEntropy(H, reduction="none")
        soft = loss(student, teacher, target) - hard(student, None, target)
        torch.testing.assert_close(loss(student, teacher, labels), hard(student, None, labels) + soft)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_agree_with_finite_differences(objective: Any) -> None:
    student, teacher = logits(12).requires_grad_(), logits(13)
    assert torch.autograd.gradcheck(lambda s: objective(s, teacher, LABELS), (student,))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_in_closed_form_are_those_of_autograd_and_have_derivatives(objective: Any) -> None:
    """A transform, or a graph of gradients, goes through autograd; a plain backward pass need not."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        student, teacher = logits(33).to(dtype).requires_grad_(), logits(34).to(dtype)
        value = objective(student, teacher, LABELS)
        (slope,) = torch.autograd.grad(2 * value, student)
        expected, exact = torch.func.grad_and_value(lambda s, t=teacher: objective(s, t, LABELS))(student.detach())
        torch.testing.assert_close(slope, 2 * expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(value, exact, rtol=tolerance, atol=tolerance)
    student = logits(33)[:2].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda s: objective(s, logits(34)[:2], LABELS[:2]), (student,))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_huge_logits_and_half_precision_stay_finite(objective: Any) -> None:
    student = (1e4 * logits(14).float()).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = objective(student, 1e4 * logits(15).float(), LABELS)
    (slope,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32 and bool(value.isfinite()) and bool(slope.isfinite().all())
    half = objective(logits(14).bfloat16(), logits(15).bfloat16(), LABELS)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_teacher_gets_no_gradient(objective: Any) -> None:
    teacher = logits(16).requires_grad_()
    objective(logits(17).requires_grad_(), teacher, LABELS).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubclassKDLoss(H, 0.0), "temperature must be a number > 0, got 0.0"),
        (lambda: ClassKDLoss(H, -1.0), "temperature must be a number > 0, got -1.0"),
        (lambda: SubclassKDLoss(H, 1.0, 1.5), r"alpha must be a number in \[0, 1\], got 1.5"),
        (lambda: SubclassKDLoss(H, hard="both"), "hard must be subclass or class, got 'both'"),
        (lambda: SubclassKDLoss(H, class_weight=-1), "class_weight must be a number >= 0, got -1"),
        (lambda: CrossEntropy(H, reduction="max"), "reduction must be mean, sum or none, got 'max'"),
        (lambda: ClassKDLoss(H, soften="both"), "soften must be logits or subclasses, got 'both'"),
        (lambda: ClassKDLoss(H, normalize_groups=True), "normalize_groups with soften='logits'"),
        (lambda: DecoupledKDLoss(Hierarchy.from_dict({"a": ["b"]})), "a hierarchy with one subclass"),
        (lambda: SubclassKDLoss(H)(logits(0), logits(0, 5), LABELS), r"the teacher's logits have shape \(4, 5\)"),
        (lambda: SubclassKDLoss(H)(logits(0), None, LABELS), "needs the teacher's logits, got None"),
        (lambda: SubclassKDLoss(H)(logits(0, 5), logits(0), LABELS), r"the student's logits have shape \(4, 5\)"),
        (lambda: CrossEntropy(H)(logits(0), None, LABELS[:3]), r"labels have shape \(3,\)"),
        (lambda: CrossEntropy(H, "class")(logits(0), None, LABELS + 2), "subclass label"),
    ],
)
def test_invalid_options_and_shapes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
