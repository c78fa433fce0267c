from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from sklearn import metrics as sk
from subclass_kd import score


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_are_scikit_learn_s(n_classes: int) -> None:
    random = np.random.default_rng(n_classes)
    probabilities = random.dirichlet(np.ones(n_classes), 200)
    labels = np.where(random.random(200) < 0.5, probabilities.argmax(axis=1), random.integers(n_classes, size=200))
    scores = score(torch.tensor(probabilities), torch.tensor(labels))
    chosen, average = probabilities.argmax(axis=1), "binary" if n_classes == 2 else "macro"
    assert scores.f1 == pytest.approx(sk.f1_score(labels, chosen, average=average))
    assert scores.precision == pytest.approx(sk.precision_score(labels, chosen, average=average))
    assert scores.recall == pytest.approx(sk.recall_score(labels, chosen, average=average))
    assert scores.accuracy == pytest.approx((chosen == labels).mean())
    auroc = (
        sk.roc_auc_score(labels, probabilities[:, 1])
        if n_classes == 2
        else sk.roc_auc_score(labels, probabilities, multi_class="ovr")
    )
    assert scores.auroc == pytest.approx(auroc, abs=1e-6)


def test_a_threshold_moves_precision_and_recall() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    labels = torch.tensor([0, 1, 0, 1])
    assert score(probabilities, labels, threshold=0.2).recall == 1.0
    assert score(probabilities, labels, threshold=0.7).precision == 1.0
    assert score(probabilities, labels).f1 == pytest.approx(0.5)


def test_the_probability_must_exceed_the_threshold_and_may_exceed_one_by_rounding() -> None:
    probabilities, labels = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.0, 1 + 5e-6]]), torch.tensor([0, 0, 1])
    assert score(probabilities, labels, threshold=0.5).accuracy == 1.0
    assert score(probabilities, labels, threshold=0.25).accuracy == pytest.approx(2 / 3)
    assert score(probabilities, labels, threshold=0.0).recall == 1.0


def test_with_one_class_present_the_auroc_is_nan() -> None:
    scores = score(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([1, 1]))
    assert math.isnan(scores.auroc) and scores.recall == 0.5
    assert math.isnan(score(torch.full((2, 3), 1 / 3), torch.tensor([1, 1])).auroc)


@pytest.mark.parametrize(
    ("probabilities", "labels", "threshold", "message"),
    [
        (torch.zeros(2), torch.tensor([0, 1]), None, r"shapes \(2,\) and \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), None, r"shapes \(0, 2\)"),
        (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), None, "outside"),
        (torch.tensor([[0.5, math.nan]]), torch.tensor([0]), None, "outside"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), None, "label 2; expected: 0 to 1"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([-1]), None, "label -1"),
        (torch.tensor([[1.0]]), torch.tensor([0]), None, "at least two classes"),
        (torch.tensor([[-1e-9, 1.0]]), torch.tensor([0]), None, "outside"),
        (torch.tensor([[0.0, 1.0001]]), torch.tensor([0]), None, "outside"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0]), -0.1, r"threshold -0\.1"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0]), 1.0, r"threshold 1\.0"),
        (torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([0]), 0.5, "3 classes"),
    ],
)
def test_invalid_probabilities_and_labels_are_refused(
    probabilities: torch.Tensor, labels: torch.Tensor, threshold: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score(probabilities, labels, threshold=threshold)
