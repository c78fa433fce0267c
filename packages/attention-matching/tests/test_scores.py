"""DD-Ranking's two scores with accuracies as fractions, and the trainings behind them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from attention_matching.evaluation import scores
from attention_matching.evaluation.accuracy import Evaluation
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.evaluate import evaluate, evaluate_random_real, evaluate_whole
from attention_matching.evaluation.scores import (
    RobustScores,
    augmentation_robust_score,
    label_robust_score,
    robust_scores,
)
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import random_real
from hypothesis import given, strategies as st
from sextet_common import data
from sextet_common.errors import InputError

DIFFERENCES = st.floats(-1, 1)
WEIGHTS = st.floats(0, 1)


def squashed(value: float) -> float:
    """Return the squash of the paper, written down anew: (exp(x) - exp(-1)) / (exp(1) - exp(-1))."""
    return (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def test_the_label_robust_score_is_the_papers_formula() -> None:
    # Whole set 0.85, distilled 0.55, random 0.30: alpha = 0.5 * 0.25 - 0.5 * 0.30 = -0.025.
    assert label_robust_score(0.30, 0.25) == pytest.approx(squashed(-0.025), abs=1e-12)
    assert label_robust_score(0.30, 0.25) == pytest.approx(0.25844, abs=1e-5)
    assert label_robust_score(0.30, 0.25, weight=0.8) == pytest.approx(squashed(0.8 * 0.25 - 0.2 * 0.3), abs=1e-12)


def test_the_augmentation_robust_score_is_the_papers_formula() -> None:
    assert augmentation_robust_score(0.25, 0.15) == pytest.approx(squashed(0.2), abs=1e-12)
    assert augmentation_robust_score(0.25, 0.15, weight=0.0) == pytest.approx(squashed(0.15), abs=1e-12)
    assert augmentation_robust_score(0.0, 0.0) == pytest.approx(0.26894, abs=1e-5)


def test_the_ends_of_the_scale_are_0_and_1() -> None:
    assert label_robust_score(1.0, -1.0) == 0 and label_robust_score(-1.0, 1.0) == pytest.approx(1, abs=1e-12)
    assert augmentation_robust_score(-1.0, -1.0) == 0
    assert augmentation_robust_score(1.0, 1.0) == pytest.approx(1, abs=1e-12)


@given(DIFFERENCES, DIFFERENCES, WEIGHTS)
def test_both_scores_are_in_0_to_1(first: float, second: float, weight: float) -> None:
    # Rounding of the weighted sum and of exp: a few ulp beyond 1 at the very end.
    assert 0 <= label_robust_score(first, second, weight) <= 1 + 1e-12
    assert 0 <= augmentation_robust_score(first, second, weight) <= 1 + 1e-12


@given(DIFFERENCES, DIFFERENCES, DIFFERENCES, WEIGHTS)
def test_more_recovery_to_do_never_helps_and_more_improvement_never_hurts(
    a: float, b: float, other: float, weight: float
) -> None:
    low, high = sorted((a, b))
    assert label_robust_score(high, other, weight) <= label_robust_score(low, other, weight) + 1e-12
    assert label_robust_score(other, low, weight) <= label_robust_score(other, high, weight) + 1e-12
    assert augmentation_robust_score(low, other, weight) <= augmentation_robust_score(high, other, weight) + 1e-12
    assert augmentation_robust_score(other, low, weight) <= augmentation_robust_score(other, high, weight) + 1e-12


@pytest.mark.parametrize("score", [label_robust_score, augmentation_robust_score])
def test_percent_and_weights_out_of_range_are_refused(score: object) -> None:
    for wrong in (30.0, -1.5, math.nan):
        for arguments in ((wrong, 0.2), (0.2, wrong)):
            with pytest.raises(InputError, match=r"is .*; expected: a difference of two accuracies as fractions"):
                score(*arguments)
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=r"weight must be a number in \[0, 1\], got "):
            score(0.1, 0.1, weight)


def test_the_scores_are_made_of_the_means() -> None:
    def of(*values: float) -> Evaluation:
        return Evaluation(values)

    result = RobustScores(of(0.8, 0.9), of(0.6), of(0.3, 0.4), of(0.5), of(0.2), hard=of(0.45), weight=0.25)
    # Recovery 0.85 - 0.45, improvement 0.6 - 0.35; without augmentation 0.5 - 0.2.
    assert result.label_robust == pytest.approx(squashed(0.25 * 0.25 - 0.75 * 0.40), abs=1e-12)
    assert result.augmentation_robust == pytest.approx(squashed(0.25 * 0.25 + 0.75 * 0.30), abs=1e-12)


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


QUICK = EvaluateConfig(networks=2, epochs=4, width=4)


def test_the_trainings_are_the_evaluations_with_and_without_augmentation(digits: data.ImageSet, tmp_path: Path) -> None:
    training = random_real(digits, 2, seed=7)
    result = robust_scores(training, digits, QUICK, whole_epochs=1, out=tmp_path)
    plain = dataclasses.replace(QUICK, augment=())
    assert result.distilled == result.hard == evaluate(training, digits, QUICK)
    assert result.distilled_plain == evaluate(training, digits, plain)
    assert result.random == evaluate_random_real(digits, 2, QUICK)
    assert result.random_plain == evaluate_random_real(digits, 2, plain)
    assert result.whole == evaluate_whole(digits, dataclasses.replace(QUICK, epochs=1))
    assert {path.name for path in tmp_path.iterdir()} == {
        "whole", "distilled", "random", "distilled-plain", "random-plain",
    }  # fmt: skip
    assert robust_scores(training, digits, QUICK, whole_epochs=1, out=tmp_path) == result


def test_with_soft_labels_recovery_is_measured_with_hard_ones(
    digits: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def recorded(name: str, value: float):
        def call(*arguments, **named) -> Evaluation:
            config = next(each for each in arguments if isinstance(each, EvaluateConfig))
            calls.append((name, config.labels, config.augment, config.epochs, named))
            return Evaluation((value if config.labels == "soft" else value / 2,))

        return call

    monkeypatch.setattr(scores, "evaluate", recorded("distilled", 0.6))
    monkeypatch.setattr(scores, "evaluate_random_real", recorded("random", 0.4))
    monkeypatch.setattr(scores, "evaluate_whole", recorded("whole", 1.6))
    chosen = random_real(digits, 1)
    soft = dataclasses.replace(chosen, soft_labels=torch.eye(10))

    def teacher(given: DistilledSet) -> DistilledSet:
        return given

    result = robust_scores(soft, digits, EvaluateConfig(labels="soft", epochs=9), whole_epochs=3, label=teacher)
    assert sorted(call[:4] for call in calls if call[2] is None) == [
        ("distilled", "hard", None, 9), ("distilled", "soft", None, 9), ("random", "soft", None, 9),
        ("whole", "hard", None, 3),
    ]  # fmt: skip
    assert sorted(call[:4] for call in calls if call[2] == ()) == [
        ("distilled", "soft", (), 9), ("random", "soft", (), 9),
    ]  # fmt: skip
    for name, *_, named in calls:
        assert name == "distilled" or named["preprocessing"] is soft.preprocessing
        assert name != "random" or named["label"] is teacher
    assert result.label_robust == pytest.approx(squashed(0.5 * (0.6 - 0.4) - 0.5 * (0.8 - 0.3)), abs=1e-12)


def test_a_set_with_unequal_classes_is_refused(digits: data.ImageSet) -> None:
    prepared = Preprocessing.fit(digits)
    uneven = DistilledSet(torch.zeros(11, 1, 8, 8), torch.tensor([*range(10), 3]), digits.classes, prepared)
    with pytest.raises(InputError, match="1 to 2 images per class; expected: the same number of every class"):
        robust_scores(uneven, digits, QUICK)
    with pytest.raises(InputError, match=r"weight must be .*, got 2"):
        robust_scores(random_real(digits, 1), digits, QUICK, weight=2)


def test_scores_of_labels_of_views_are_refused_since_one_needs_no_augmentation() -> None:
    digits = data.load("digits")
    with pytest.raises(InputError, match="labels 'views' without augmentation; expected: labels hard or soft"):
        robust_scores(random_real(digits, 1), digits, EvaluateConfig(labels="views"))
