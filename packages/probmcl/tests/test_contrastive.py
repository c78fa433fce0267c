from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from probmcl import (
    MemoryQueue,
    MixtureParameters,
    MultiLabelSupConLoss,
    ProbabilisticContrastiveLoss,
    mixture_similarity,
)
from probmcl.losses.overlap import Overlap
from sextet_common.errors import InputError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LABELS = torch.tensor(
    [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
)


def overlap(a: list[int], b: list[int], measure: Overlap) -> float:
    n, x, y = sum(p * q for p, q in zip(a, b, strict=True)), sum(a), sum(b)
    if not x or not y:
        return 0.0
    return n / (x + y - n) if measure == "jaccard" else n / min(x, y)


def literal(
    similarity: Tensor, a: Tensor, b: Tensor | None, temperature: float, threshold: float, measure: Overlap, weight: str
) -> list[float | None]:
    """The loss of every anchor by loops, None where it has no positives."""
    losses: list[float | None] = []
    others = (a if b is None else b).tolist()
    for i, anchor in enumerate(a.tolist()):
        compared = [j for j in range(len(others)) if b is not None or j != i]
        values = {j: overlap(anchor, others[j], measure) for j in compared}
        positive = [j for j in compared if values[j] >= threshold]
        if not positive:
            losses.append(None)
            continue
        denominator = sum(math.exp(float(similarity[i, n]) / temperature) for n in compared)
        shares = [values[j] if weight == "overlap" else 1.0 for j in positive]
        terms = [-math.log(math.exp(float(similarity[i, j]) / temperature) / denominator) for j in positive]
        losses.append(sum(s * t for s, t in zip(shares, terms, strict=True)) / sum(shares))
    return losses


@pytest.mark.parametrize("measure", ["jaccard", "overlap"])
@pytest.mark.parametrize("threshold", [1e-6, 0.5, 1.0])
@pytest.mark.parametrize("weight", ["none", "overlap"])
@pytest.mark.parametrize("referred", [False, True])
def test_both_losses_are_the_literal_loops(
    draw, measure: Overlap, threshold: float, weight: Any, referred: bool
) -> None:
    f, g = draw(0, 7, 3, 2), draw(1, 3, 3, 2)
    embeddings, references = torch.randn(7, 5).double(), torch.randn(3, 5).double()
    options: dict[str, Any] = {"threshold": threshold, "measure": measure, "weight": weight}
    other = LABELS[:3] if referred else None
    cases = (
        (
            ProbabilisticContrastiveLoss(0.7, similarity="mixture", per_dimension=False, **options),
            f,
            g,
            mixture_similarity(f, g if referred else None),
            0.7,
        ),
        (
            MultiLabelSupConLoss(0.3, **options),
            embeddings,
            references,
            torch.tensor(
                [
                    [float(torch.cosine_similarity(x, y, dim=0)) for y in (references if referred else embeddings)]
                    for x in embeddings
                ]
            ),
            0.3,
        ),
    )
    for loss, rows, to, similarity, temperature in cases:
        expected = literal(similarity, LABELS, other, temperature, threshold, measure, weight)
        valid = [value for value in expected if value is not None]
        given = (rows, LABELS, None, to, other) if referred else (rows, LABELS)
        assert float(loss(*given)) == pytest.approx(np.mean(valid) if valid else 0, rel=1e-6)
        loss.reduction = "sum"
        assert float(loss(*given)) == pytest.approx(sum(valid), rel=1e-6)
        loss.reduction = "none"
        np.testing.assert_allclose(loss(*given).numpy(), [value or 0.0 for value in expected], rtol=2e-6)


def losses() -> list[tuple[Any, Any]]:
    random = torch.Generator().manual_seed(0)
    leaves = [torch.randn(7, 2, generator=random), torch.randn(7, 2, 3, generator=random), torch.zeros(7, 2)]
    mixtures = MixtureParameters(*(tensor.requires_grad_() for tensor in leaves))
    rows = torch.randn(7, 4, generator=random).requires_grad_()
    return [(ProbabilisticContrastiveLoss(similarity="mixture"), mixtures), (MultiLabelSupConLoss(), rows)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("labels", ["different", "empty", "one row"])
def test_without_any_positive_the_loss_is_zero_and_so_are_its_gradients(which: int, labels: str) -> None:
    loss, rows = losses()[which]
    table = {"different": torch.eye(7), "empty": torch.zeros(7, 3), "one row": torch.ones(1, 3)}[labels]
    if labels == "one row":
        rows = rows.select(slice(0, 1)) if which == 0 else rows[:1]
    value = loss(rows, table)
    leaves = list(rows) if which == 0 else [rows]
    for slope in torch.autograd.grad(value, leaves):
        assert bool((slope == 0).all())
    assert float(value.detach()) == 0


@pytest.mark.parametrize("which", [0, 1])
def test_the_mean_over_one_anchor_with_positives_is_its_loss(which: int) -> None:
    loss, rows = losses()[which]
    labels = torch.cat([torch.eye(2, 4), torch.zeros(5, 4)])
    reference = (rows.select(slice(1, 4)) if which == 0 else rows[1:4], torch.eye(3, 4)[[0, 2, 2]])
    mean = float(loss(rows, labels, None, *reference).detach())
    loss.reduction = "none"
    each = loss(rows, labels, None, *reference).tolist()
    assert each[0] > 0 and each[1:] == [0] * 6 and mean == pytest.approx(each[0])


@pytest.mark.parametrize("which", [0, 1])
def test_where_all_are_positives_of_each_other_the_loss_is_finite_and_at_least_its_bound(which: int) -> None:
    loss, rows = losses()[which]
    value = loss(rows, torch.ones(7, 3))
    assert math.log(6) - 1e-6 <= float(value.detach()) < math.inf  # the entropy of six equal positives


def test_equal_rows_give_the_logarithm_of_the_others_count() -> None:
    equal = MixtureParameters(torch.zeros(5, 1), torch.ones(5, 1, 3), torch.zeros(5, 1))
    labels = torch.tensor([[1, 0]] * 3 + [[0, 1]] * 2)
    assert float(ProbabilisticContrastiveLoss(similarity="mixture")(equal, labels)) == pytest.approx(math.log(4))
    assert float(MultiLabelSupConLoss()(torch.ones(5, 3), labels)) == pytest.approx(math.log(4))


@pytest.mark.parametrize("similarity", ["mixture", "cosine", "angular", "aligned"])
@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
def test_gradients_of_the_probabilistic_loss_agree_with_finite_differences(draw, similarity, covariance) -> None:
    leaves = tuple(tensor.requires_grad_() for tensor in draw(4, 4, 2, 2, covariance))
    loss = ProbabilisticContrastiveLoss(similarity=similarity)
    assert torch.autograd.gradcheck(lambda *t: loss(MixtureParameters(*t), LABELS[:4]), leaves, atol=1e-6)


def test_gradients_of_the_supervised_loss_agree_with_finite_differences() -> None:
    rows, references = (torch.randn(n, 3, dtype=torch.float64).requires_grad_() for n in (4, 3))
    loss = MultiLabelSupConLoss(threshold=0.3, weight="overlap")
    assert torch.autograd.gradcheck(lambda a, b: loss(a, LABELS[:4], None, b, LABELS[:3]), (rows, references))
    assert torch.autograd.gradcheck(lambda a: loss(a, LABELS[:4]), (rows,))


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: reading a value, or a result whose size depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select")), name
        chosen = args[1] if name.startswith("aten::index.") else ()
        assert not any(index is not None and index.dtype == torch.bool for index in chosen), name
        return func(*args, **(kwargs or {}))


def test_the_supervised_loss_never_makes_the_host_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probmcl.losses.shared_labels.readable", lambda tensor: False)  # as on a GPU
    loss, rows = losses()[1]
    queue = MemoryQueue(5, 4, 4)
    with NoWaiting():
        queue.add(rows, LABELS)
        value = loss(rows, LABELS) + loss(rows, LABELS, None, queue.embeddings, queue.labels, present=queue.present)
        value.backward()
    for waits in (lambda: rows[rows > 0], lambda: rows.nonzero(), lambda: rows.sum().item()):
        with pytest.raises(AssertionError, match="aten"), NoWaiting():
            waits()


@pytest.mark.parametrize("which", [0, 1])
def test_autocast_changes_nothing(which: int) -> None:
    loss, rows = losses()[which]
    plain = loss(rows, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(loss(rows, LABELS).detach()) == pytest.approx(float(plain.detach()), rel=1e-6)


def test_half_precision_embeddings_are_computed_in_float32() -> None:
    rows = torch.randn(7, 4)
    value = MultiLabelSupConLoss()(rows.bfloat16(), LABELS)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(MultiLabelSupConLoss()(rows.bfloat16().float(), LABELS)), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a number > 0, got 0"),
        ({"threshold": 0.0}, r"threshold must be a number in \(0, 1\], got 0"),
        ({"measure": "hamming"}, "measure must be jaccard, dice, cosine, overlap or containment, got 'hamming'"),
        ({"weight": "idf"}, "weight must be none or overlap, got 'idf'"),
        ({"reduction": "max"}, "reduction must be mean, sum or none, got 'max'"),
    ],
)
def test_options_outside_what_is_accepted_are_refused(options: dict[str, Any], message: str) -> None:
    for kind in (ProbabilisticContrastiveLoss, MultiLabelSupConLoss):
        with pytest.raises(InputError, match=message):
            kind(**options)


def test_rows_that_do_not_fit_are_refused(draw) -> None:
    rows, loss = torch.randn(7, 4), MultiLabelSupConLoss()
    with pytest.raises(InputError, match=r"labels have shape \(6, 4\); expected: \(7, labels\)"):
        loss(rows, LABELS[:6])
    with pytest.raises(InputError, match="both of them or none"):
        loss(rows, LABELS, None, rows)
    with pytest.raises(InputError, match="one truth value for each reference"):
        loss(rows, LABELS, None, rows, LABELS, present=torch.ones(3, dtype=torch.bool))
    with pytest.raises(InputError, match=r"the references have shape \(7, 3\)"):
        loss(rows, LABELS, None, rows[:, :3], LABELS)
    with pytest.raises(InputError, match="one truth value for each reference"):
        loss(rows, LABELS, present=torch.ones(7, dtype=torch.bool))
    with pytest.raises(InputError, match=r"embeddings are torch.int64 of shape \(7, 4\)"):
        loss(rows.long(), LABELS)
    with pytest.raises(InputError, match=r"embeddings are torch.float32 of shape \(7,\)"):
        loss(rows[:, 0], LABELS)
    with pytest.raises(InputError, match="both of them or none"):
        ProbabilisticContrastiveLoss()(draw(0, 7, 2, 2), LABELS, None, draw(0, 7, 2, 2))
    with pytest.raises(InputError, match="'euclid'"):
        ProbabilisticContrastiveLoss(similarity="euclid")
