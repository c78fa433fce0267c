"""Pairs, references and indices given by hand, labels that are unknown, and positives per label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from probmcl import MultiLabelSupConLoss, ProbabilisticContrastiveLoss
from sextet_common.errors import InputError
from torch import Tensor

LABELS = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]])


def rows(seed: int, batch: int) -> Tensor:
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines(a: Tensor, b: Tensor) -> list[list[float]]:
    return [[float(torch.cosine_similarity(x, y, dim=0)) for y in b] for x in a]


def literal(
    similarity: list[list[float]], positives: list[dict[int, float]], compared: list[set[int]], t: float
) -> list[float | None]:
    """The loss of every anchor from the weights of its positives and the set of what it is compared with."""
    losses: list[float | None] = []
    for i, mine in enumerate(positives):
        if not mine:
            losses.append(None)
            continue
        denominator = math.log(sum(math.exp(similarity[i][n] / t) for n in compared[i]))
        losses.append(denominator - sum(w * similarity[i][j] / t for j, w in mine.items()) / sum(mine.values()))
    return losses


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


@pytest.mark.parametrize("weighted", [False, True])
def test_given_pairs_are_the_positives_and_negative_ones_are_not_compared(weighted: bool) -> None:
    x = rows(0, 5)
    pairs = torch.tensor(
        [[0, 2, 0, 0, -1], [0.5, 0, 0, 0, 0], [0, 0, 0, 0.2, 0.7], [0, 0, 0, 9, 0], [0, -1, 0.3, 0, 0]]
    )
    if not weighted:
        pairs = pairs > 0
    weights = pairs.float()
    positives = [{j: float(weights[i, j]) for j in range(5) if weights[i, j] > 0 and i != j} for i in range(5)]
    compared = [{j for j in range(5) if j != i and float(weights[i, j]) >= 0} for i in range(5)]
    loss = MultiLabelSupConLoss(0.3)
    assert float(loss(x, pairs=pairs)) == pytest.approx(mean(literal(cosines(x, x), positives, compared, 0.3)))
    # With labels as well, the pairs are positives in addition.
    labels = LABELS[:5]
    both = MultiLabelSupConLoss(0.3, threshold=1.0).comparison(x, labels, pairs=pairs)
    equal = (labels[:, None] == labels).all(dim=2) & ~torch.eye(5, dtype=torch.bool)
    expected = torch.maximum(equal.float(), weights.clamp(min=0)).fill_diagonal_(0).masked_fill(weights < 0, 0)
    torch.testing.assert_close(both.share.float(), expected)


def test_indices_are_those_of_pytorch_metric_learning() -> None:
    x, y = rows(0, 5), rows(1, 4)
    a, p, b, n = (torch.tensor(v) for v in ([0, 0, 2], [1, 3, 0], [0, 2, 2, 4], [2, 1, 3, 0]))
    positives: list[dict[int, float]] = [{1: 1, 3: 1}, {}, {0: 1}, {}, {}]
    compared = [{1, 3, 2}, set(), {0, 1, 3}, set(), {0}]
    for reference in (None, y):
        similarity = cosines(x, x if reference is None else reference)
        given: dict[str, Any] = {} if reference is None else {"ref_emb": reference}
        expected = mean(literal(similarity, positives, compared, 0.3))
        assert float(MultiLabelSupConLoss(0.3)(x, LABELS[:5], (a, p, b, n), **given)) == pytest.approx(expected)
    triplets = (torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0]), torch.tensor([2, 4, 1]))
    compared = [{1, 3, 2, 4}, set(), {0, 1}, set(), set()]
    expected = mean(literal(cosines(x, x), positives, compared, 0.3))
    assert float(MultiLabelSupConLoss(0.3)(x, indices_tuple=triplets)) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_single_labels_give_the_loss_of_pytorch_metric_learning() -> None:
    peer = pytest.importorskip("pytorch_metric_learning.losses").SupConLoss(temperature=0.2)
    miner = pytest.importorskip("pytorch_metric_learning.miners").MultiSimilarityMiner()
    classes, others = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0]), torch.tensor([2, 0, 1, 1, 0])
    labels, ref_labels = (torch.nn.functional.one_hot(c, 3) for c in (classes, others))
    x, y, loss = rows(0, 8), rows(1, 5), MultiLabelSupConLoss(0.2)
    assert float(loss(x, labels)) == pytest.approx(float(peer(x, classes)))
    expected = float(peer(x, classes, ref_emb=y, ref_labels=others))
    assert float(loss(x, labels, ref_emb=y, ref_labels=ref_labels)) == pytest.approx(expected)
    mined = miner(x, classes)
    assert float(loss(x, labels, mined)) == pytest.approx(float(peer(x, classes, mined)))
    mined = miner(x, classes, ref_emb=y, ref_labels=others)
    expected = float(peer(x, classes, mined, ref_emb=y, ref_labels=others))
    assert float(loss(x, labels, mined, y, ref_labels)) == pytest.approx(expected)


@pytest.mark.parametrize("positives", ["threshold", "per_label"])
def test_references_that_contain_the_batch_give_the_loss_of_the_batch(draw, positives: Any) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    place = torch.argsort(order)
    x, f = rows(0, 6), draw(0, 6, 3, 4)
    cases: list[tuple[Any, Any, Any]] = [(MultiLabelSupConLoss(positives=positives), x, x[order])]
    cases += [
        (ProbabilisticContrastiveLoss(similarity=kind, positives=positives), f, f.select(order))
        for kind in ("label", "mixture", "aligned")
    ]
    for loss, batch, reference in cases:
        found = loss(batch, LABELS, ref_emb=reference, ref_labels=LABELS[order], self_index=place)
        torch.testing.assert_close(found, loss(batch, LABELS))
        with_itself = loss(batch, LABELS, ref_emb=reference, ref_labels=LABELS[order])
        assert abs(float(with_itself) - float(found)) > 0.01


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0]])
@pytest.mark.parametrize("referred", [False, True])
def test_per_label_an_anchor_contributes_once_for_each_of_its_labels(weights: Any, referred: bool) -> None:
    x, y = rows(0, 6), rows(1, 4)
    labels, others = LABELS.double(), LABELS[[1, 3, 0, 2]].double()
    labels[1, 1] = labels[4, 2] = -1
    labels[2, 2], others[0, 0] = 0.4, 0.6
    to, table = (y, others) if referred else (x, labels)
    similarity, total, count = cosines(x, to), 0.0, 0.0
    for i, row in enumerate(labels.tolist()):
        known = [
            j for j, other in enumerate(table.tolist())
            if (referred or j != i) and any(a >= 0 and b >= 0 for a, b in zip(row, other, strict=True))
        ]  # fmt: skip
        for k, value in enumerate(row):
            mine = {j: float(table[j, k]) for j in known if table[j, k] > 0}
            if value > 0 and mine:
                weight = value * (1.0 if weights is None else weights[k])
                (one,) = literal([similarity[i]], [mine], [set(known)], 0.3)
                assert one is not None
                total, count = total + weight * one, count + weight
    loss = MultiLabelSupConLoss(0.3, positives="per_label", class_weight=weights and torch.tensor(weights))
    given = {"ref_emb": y, "ref_labels": others} if referred else {}
    assert float(loss(x, labels, **given)) == pytest.approx(total / count, rel=1e-6)
    loss.reduction = "sum"
    assert float(loss(x, labels, **given)) == pytest.approx(total, rel=1e-6)


def test_rows_that_know_no_label_in_common_are_not_compared() -> None:
    x = rows(0, 5)
    labels = torch.tensor([[1, -1, 0], [1, 0, -1], [-1, 1, -1], [0, 1, 1], [-1, -1, -1]])
    known = [{1, 3}, {0, 2, 3}, {1, 3}, {0, 1, 2}, set()]
    positives: list[dict[int, float]] = [{1: 1}, {0: 1}, {3: 1}, {2: 1}, {}]
    loss = MultiLabelSupConLoss(0.3)
    assert float(loss(x, labels)) == pytest.approx(mean(literal(cosines(x, x), positives, known, 0.3)))


def test_an_unlabelled_row_has_its_pairs_as_positives_and_all_others_as_negatives() -> None:
    x, labels = rows(0, 6), torch.tensor([[1, 0], [0, 1], [-1, -1]]).repeat(2, 1)  # two views
    pairs = torch.eye(6).roll(3, dims=1) > 0
    compared = [{1, 3, 4}, {0, 3, 4}, {0, 1, 3, 4, 5}, {0, 1, 4}, {0, 1, 3}, {0, 1, 2, 3, 4}]
    positives: list[dict[int, float]] = [{(i + 3) % 6: 1} for i in range(6)]
    expected = mean(literal(cosines(x, x), positives, compared, 0.3))
    assert float(MultiLabelSupConLoss(0.3)(x, labels, pairs=pairs)) == pytest.approx(expected)


def test_an_unlabelled_image_takes_no_part_in_the_comparison_by_label(draw) -> None:
    f, labels = draw(0, 6, 2, 4), torch.tensor([[1, 0], [0, 1], [-1, -1]]).repeat(2, 1)
    pairs = torch.eye(6).roll(3, dims=1) * (labels < 0).all(dim=1, keepdim=True)
    labelled = torch.tensor([0, 1, 3, 4])
    expected = ProbabilisticContrastiveLoss()(f.select(labelled), labels[labelled])
    torch.testing.assert_close(ProbabilisticContrastiveLoss()(f, labels, pairs=pairs), expected)
    assert float(expected) > 0


def test_a_gpus_path_without_reading_values_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(0, 6)
    labels = LABELS.clone()
    labels[3, 0] = -1
    cases = [MultiLabelSupConLoss(positives=kind) for kind in ("threshold", "per_label")]
    expected = [(loss(x, LABELS), loss(x, labels)) for loss in cases]
    monkeypatch.setattr("probmcl.losses.shared_labels.readable", lambda tensor: False)
    for loss, (dense, partial) in zip(cases, expected, strict=True):
        torch.testing.assert_close(loss(x, LABELS), dense)
        torch.testing.assert_close(loss(x, labels), partial)


def test_class_weights_change_the_overlap_of_the_threshold() -> None:
    x, weights = rows(0, 6), torch.tensor([0.1, 1.0, 1.0])
    shared = (LABELS[:, None] * LABELS * weights).sum(dim=2)
    union = ((LABELS[:, None] + LABELS).clamp(max=1) * weights).sum(dim=2)
    expected = (shared / union.clamp(min=1e-9) >= 0.5) & ~torch.eye(6, dtype=torch.bool)
    found = MultiLabelSupConLoss(class_weight=weights).comparison(x, LABELS)
    assert torch.equal(found.share > 0, expected) and not torch.equal(
        expected, MultiLabelSupConLoss().comparison(x, LABELS).share > 0
    )


def test_the_old_names_of_the_references_work_and_warn() -> None:
    x, y, loss = rows(0, 6), rows(1, 3), MultiLabelSupConLoss()
    expected = loss(x, LABELS, ref_emb=y, ref_labels=LABELS[:3])
    for given, named in (
        ((), {"reference": y, "reference_labels": LABELS[:3]}),
        ((y, LABELS[:3]), {}),
        ((y,), {"reference_labels": LABELS[:3]}),
    ):
        with pytest.warns(DeprecationWarning, match="use ref_emb and ref_labels"):
            torch.testing.assert_close(loss(x, LABELS, *given, **named), expected)


def test_diagnostics_are_what_they_say(draw) -> None:
    f = draw(0, 6, 3, 4)
    for loss in (ProbabilisticContrastiveLoss(), ProbabilisticContrastiveLoss(similarity="mixture")):
        found = loss.comparison(f, LABELS)
        values = {name: float(value) for name, value in found.diagnostics().items()}
        compared = found.logits[found.compared].numpy()
        assert values["logit_spread"] == pytest.approx(compared.std())
        probability, uniform, weight = [], [], []
        for logits, among, share in zip(found.logits, found.compared, found.share, strict=True):
            if bool((share > 0).any()):
                chances = logits[among].softmax(dim=0)
                probability.append(float(chances[(share > 0)[among]].mean()))
                uniform.append(1 / int(among.sum()))
                weight.append(math.log(int(among.sum())))
        assert values["positive_probability"] == pytest.approx(np.mean(probability))
        assert values["uniform_probability"] == pytest.approx(np.mean(uniform))
        assert values["uniform_contrastive"] == pytest.approx(np.mean(weight))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there are no labels; expected: labels, pairs or indices_tuple"),
        ({"pairs": torch.ones(6, 5)}, r"pairs have shape \(6, 5\); expected: \(6, 6\)"),
        ({"pairs": torch.ones(6, 6), "indices_tuple": (torch.zeros(1).long(),) * 3}, "both indices_tuple and pairs"),
        ({"indices_tuple": (torch.zeros(1).long(),) * 2}, "indices_tuple has 2 tensors"),
        ({"labels": LABELS, "self_index": torch.arange(6)}, "self_index is given without references"),
        (
            {"labels": LABELS, "ref_emb": torch.ones(2, 4), "ref_labels": LABELS[:2], "self_index": torch.arange(5)},
            r"self_index is torch.int64 of shape \(5,\)",
        ),
        ({"labels": LABELS, "ref_labels": LABELS}, "only one of ref_emb and ref_labels"),
        ({"labels": LABELS, "ref_emb": torch.ones(2, 4), "ref_labels": LABELS}, r"ref_labels have shape \(6, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultiLabelSupConLoss()(rows(0, 6), **options)


def test_options_that_exclude_each_other_are_refused(draw) -> None:
    with pytest.raises(InputError, match="weight 'overlap' with positives per label"):
        MultiLabelSupConLoss(weight="overlap", positives="per_label")
    with pytest.raises(InputError, match="no labels with the similarity 'label'"):
        ProbabilisticContrastiveLoss()(draw(0, 6, 3, 4), pairs=torch.ones(6, 6))
