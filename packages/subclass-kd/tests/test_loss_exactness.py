"""Every loss against its formula in long double, in all combinations of its settings and of states of labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from subclass_kd import (
    ClassKDLoss,
    CrossEntropy,
    DecoupledKDLoss,
    DISTLoss,
    Hierarchy,
    StandardizedKDLoss,
    SubclassKDLoss,
)
from torch import Tensor, nn

UNEQUAL = Hierarchy(np.array([0, 1, 0, 2, 1, 0]), tuple("abcdef"), ("x", "y", "z"))
EQUAL = Hierarchy(np.arange(6) % 2, tuple("abcdef"), ("x", "y"))
SINGLE = Hierarchy(np.array([2, 0, 1]), tuple("abc"), ("x", "y", "z"))
Long = Any  # an array of np.longdouble


def log_softmax(x: Long) -> Long:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def class_logits(x: Long, hierarchy: Hierarchy) -> Long:
    columns = []
    for label in range(hierarchy.n_classes):
        mine = x[:, hierarchy.class_of == label]
        top = mine.max(axis=1)
        columns.append(top + np.log(np.exp(mine - top[:, None]).sum(axis=1)))
    return np.stack(columns, axis=1)


def divergence(teacher: Long, student: Long) -> Long:
    q, p = log_softmax(teacher), log_softmax(student)
    return (np.exp(q) * (q - p)).sum(axis=1)


def hard_rows(student: Long, labels: list[int], hierarchy: Hierarchy, level: str) -> tuple[Long, Long]:
    own, classes = log_softmax(student), log_softmax(class_logits(student, hierarchy))
    rows, known = np.zeros(len(labels), dtype=np.longdouble), np.zeros(len(labels), dtype=np.longdouble)
    for row, label in enumerate(labels):
        if label >= 0:
            rows[row] = -(own[row, label] if level == "subclass" else classes[row, hierarchy.class_of[label]])
        elif label < -1:
            rows[row] = -classes[row, -2 - label]
        known[row] = label != -1
    return rows, known


def reduced(hard: Long, known: Long, soft: Long, shares: tuple[float, float], reduction: str) -> Long:
    if reduction == "sum":
        return shares[0] * hard.sum() + shares[1] * soft.sum()
    rows = shares[0] * hard * len(hard) / max(known.sum(), 1) + shares[1] * soft
    return rows if reduction == "none" else rows.mean()


def soft_subclasses(student: Long, teacher: Long, h: Hierarchy, temperature: float, **options: Any) -> Long:
    size = np.log(h.sizes[h.class_of].astype(np.longdouble)) * options["normalize_groups"]
    s, t = student / temperature - size, teacher / temperature - size
    between = divergence(class_logits(t, h), class_logits(s, h))
    return options["class_weight"] * between + options["within_weight"] * (divergence(t, s) - between)


def soft_classes(student: Long, teacher: Long, h: Hierarchy, temperature: float, **options: Any) -> Long:
    if options["soften"] == "logits":
        return divergence(class_logits(teacher, h) / temperature, class_logits(student, h) / temperature)
    options = {"class_weight": 1, "within_weight": 0, "normalize_groups": options["normalize_groups"]}
    return soft_subclasses(student, teacher, h, temperature, **options)


def soft_decoupled(student: Long, teacher: Long, targets: list[int], temperature: float, a: float, b: float) -> Long:
    rows = []
    for s, t, target in zip(student / temperature, teacher / temperature, targets, strict=True):
        others = [m for m in range(len(s)) if m != target]
        pairs = [np.array([[x[target], class_logits(x[None, others], Hierarchy(np.zeros(len(others), int)))[0, 0]]])
                 for x in (t, s)]  # fmt: skip
        rows.append(a * divergence(*pairs)[0] + b * divergence(t[None, others], s[None, others])[0])
    return np.array(rows)


def variants() -> Iterator[tuple[type[nn.Module], dict[str, Any]]]:
    def product(**choices: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
        yield from (dict(zip(choices, each, strict=True)) for each in itertools.product(*choices.values()))

    both: dict[str, tuple[Any, ...]] = {"temperature": (0.5, 1.0, 4.0, 20.0), "alpha": (0.0, 0.3, 1.0)}
    for options in product(**both, class_weight=(1.0, 0.3), within_weight=(1.0, 2.0), normalize_groups=(False, True)):
        yield SubclassKDLoss, options
    for soften, groups in (("logits", False), ("subclasses", False), ("subclasses", True)):
        for options in product(**both):
            yield ClassKDLoss, {**options, "soften": soften, "normalize_groups": groups}
    for options in product(temperature=(1.0, 4.0, 20.0), target_weight=(1.0, 0.5), other_weight=(8.0, 0.0)):
        yield DecoupledKDLoss, options
    yield CrossEntropy, {}


def labels_of(hierarchy: Hierarchy) -> dict[str, list[int]]:
    last = hierarchy.n_subclasses - 1
    return {
        "subclasses": [0, last, 1, 2, last],
        "mixed": [0, -1, -1 - hierarchy.n_classes, last, -2],
        "none": [-1] * 5,
    }


def expected(kind: Any, options: dict[str, Any], h: Hierarchy, hard: str, s: Long, t: Long, labels: list[int]) -> Any:
    first, known = hard_rows(s, labels, h, hard)
    if kind is CrossEntropy:
        return first, known, 0 * first, (1, 0)
    temperature = np.longdouble(options["temperature"])
    if kind is DecoupledKDLoss:
        allowed = [
            [m for m in range(h.n_subclasses) if label == -1 or h.class_of[m] == -2 - label] if label < 0 else [label]
            for label in labels
        ]
        targets = [max(mine, key=lambda m: row[m]) for mine, row in zip(allowed, t, strict=True)]
        soft = soft_decoupled(s, t, targets, temperature, options["target_weight"], options["other_weight"])
        return first, known, soft, (1, temperature**2)
    rest = {name: value for name, value in options.items() if name not in ("temperature", "alpha")}
    soft = (soft_subclasses if kind is SubclassKDLoss else soft_classes)(s, t, h, temperature, **rest)
    alpha = np.longdouble(options["alpha"])
    return first, known, soft, (1 - alpha, alpha * temperature**2)


@pytest.mark.parametrize("hierarchy", [UNEQUAL, EQUAL, SINGLE], ids=["unequal", "equal", "single"])
def test_every_combination_agrees_with_its_formula_in_long_double(hierarchy: Hierarchy) -> None:
    random = np.random.default_rng(0)
    count, worst = 0, 0.0
    draws = [(scale * random.normal(size=(2, 5, hierarchy.n_subclasses))) for scale in (1.0, 20.0)]
    for (kind, options), hard in itertools.product(variants(), ("subclass", "class")):
        losses = {name: kind(hierarchy, hard=hard, reduction=name, **options) for name in ("mean", "sum", "none")}
        for (student, teacher), labels in itertools.product(draws, labels_of(hierarchy).values()):
            s, t = student.astype(np.longdouble), teacher.astype(np.longdouble)
            *terms, shares = expected(kind, options, hierarchy, hard, s, t, labels)
            for reduction, loss in losses.items():
                value = loss(torch.from_numpy(student), torch.from_numpy(teacher), torch.tensor(labels))
                exact = reduced(*terms, shares, reduction)
                scale = 1 + np.abs(exact) + shares[1]  # the factor T^2 multiplies the rounding of logarithms too
                worst = max(worst, float(np.max(np.abs(value.numpy() - exact) / scale)))
                count += 1
    assert count == 5220 and worst < 1e-14


def test_weights_and_smoothing_are_those_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 6, generator=random, dtype=torch.float64)
    labels, classes = torch.tensor([0, 1, 2, 3, 4, 5, 0]), torch.tensor([0, 1, 0, 2, 1, 0, 0])
    weight = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)
    own = weight[torch.from_numpy(UNEQUAL.class_of.copy())]
    for smoothing, reduction in itertools.product((0.0, 0.2), ("mean", "sum", "none")):
        for w, v in ((weight, own), (None, None)):
            options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
            found = [CrossEntropy(UNEQUAL, level, weight=w, **options) for level in ("subclass", "class")]
            theirs = [
                nn.functional.cross_entropy(logits, labels, v, **options),
                nn.functional.cross_entropy(UNEQUAL.class_logits(logits), classes, w, **options),
            ]
            if reduction == "none" and w is not None:  # ours are scaled so that their mean is the weighted mean
                theirs = [rows * 7 / own[labels].sum() for rows in theirs]
            for loss, value in zip(found, theirs, strict=True):
                torch.testing.assert_close(loss(logits, None, labels), value, rtol=1e-13, atol=1e-14)
            if reduction != "none":  # a class-only label is the class's, at either level
                only = CrossEntropy(UNEQUAL, "subclass", weight=w, **options)(logits, None, UNEQUAL.class_only(classes))
                torch.testing.assert_close(only, theirs[1], rtol=1e-13, atol=1e-14)


LOSSES: dict[str, Any] = {
    "skd": SubclassKDLoss(UNEQUAL, 20.0),
    "skd split": SubclassKDLoss(UNEQUAL, 20.0, class_weight=0.3, within_weight=2.0),
    "kd": ClassKDLoss(UNEQUAL, 20.0),
    "kd subclasses": ClassKDLoss(UNEQUAL, 20.0, soften="subclasses"),
    "dkd": DecoupledKDLoss(UNEQUAL, 20.0),
    "standardised": StandardizedKDLoss(UNEQUAL, 20.0),
    "dist": DISTLoss(UNEQUAL, 20.0),
    "alone": CrossEntropy(UNEQUAL),
}


def draw(rows: int, seed: int) -> Tensor:
    return 3 * torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "dist"])
def test_a_sample_weight_of_two_repeats_a_row_and_ignored_rows_are_absent(name: str) -> None:
    loss, student, teacher = LOSSES[name], draw(6, 0).double(), draw(6, 1).double()
    labels, weights = torch.tensor([0, -1, -3, 5, 2, -4]), torch.tensor([2.0, 2.0, 1.0, 1.0, 0.0, 1.0])
    rows = [0, 0, 1, 1, 2, 3, 5]
    repeated = loss(student[rows], teacher[rows], labels[rows])
    torch.testing.assert_close(loss(student, teacher, labels, weights), repeated)
    ignoring = type(loss)(UNEQUAL, ignore_index=-100)
    kept = [0, 1, 3, 5]
    expected = ignoring(student[kept], teacher[kept], labels[kept])
    marked = torch.where(torch.isin(torch.arange(6), torch.tensor(kept)), labels, -100)
    torch.testing.assert_close(ignoring(student, teacher, marked), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_any_whole_type_and_empty_batches_work(name: str) -> None:
    loss, student, teacher = LOSSES[name], draw(5, 2), draw(5, 3)
    labels = torch.tensor([0, -1, -3, 5, 2])
    for kind in (torch.int8, torch.int16, torch.int32):
        assert torch.equal(loss(student, teacher, labels.to(kind)), loss(student, teacher, labels))
    layer = nn.Linear(2, 6)
    value = loss(layer(torch.zeros(0, 2)), teacher[:0], labels[:0])
    value.backward()
    assert value.item() == 0 and all(not p.grad.any() for p in layer.parameters() if p.grad is not None)
    assert layer.weight.grad is not None


@pytest.mark.parametrize("name", LOSSES)
def test_no_divergence_is_negative_for_nearly_equal_logits(name: str) -> None:
    """At T = 20 rounding is far above the divergence; the gradient is still that of the formula."""
    loss, base = LOSSES[name], draw(400, 4)
    student = (base + 1e-3 * draw(400, 5)).requires_grad_()
    none = torch.full((400,), -1)
    rows = type(loss)(UNEQUAL, **{**OPTIONS.get(name, {}), "reduction": "none"})(student, base, none)
    mean = loss(student, base, none)
    assert rows.min().item() >= 0 and mean.item() >= 0
    if name in ("skd", "kd", "kd subclasses", "skd split", "dkd"):
        (slope,) = torch.autograd.grad(mean, student)
        (exact,) = torch.autograd.grad(loss(wide := student.detach().double().requires_grad_(), base, none), wide)
        assert float((slope - exact).norm() / exact.norm()) < 2e-2


OPTIONS: dict[str, dict[str, Any]] = {
    "skd split": {"temperature": 20.0, "class_weight": 0.3, "within_weight": 2.0},
    "kd subclasses": {"temperature": 20.0, "soften": "subclasses"},
    **{name: {"temperature": 20.0} for name in ("skd", "kd", "dkd", "standardised", "dist")},
}


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_minus_infinity_are_outputs_that_are_absent(name: str) -> None:
    loss, labels = LOSSES[name], torch.tensor([0, -1, -2, 5, 2])
    student, teacher = draw(5, 6), draw(5, 7)
    student[:, 4] = teacher[:, 4] = -torch.inf
    fewer = Hierarchy(np.array([0, 1, 0, 2, 0]), tuple("abcdf"), ("x", "y", "z"))
    kept, renumbered = [0, 1, 2, 3, 5], torch.tensor([0, -1, -2, 4, 2])
    other = type(loss)(fewer, **OPTIONS.get(name, {}))
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, labels)
    (slope,) = torch.autograd.grad(value, leaf)
    if name != "dist":  # a mean over the columns counts the absent one
        torch.testing.assert_close(value, other(student[:, kept], teacher[:, kept], renumbered))
    assert bool(slope.isfinite().all()) and not slope[:, 4].any()
