from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sextet_common.errors import InputError
from subclass_kd.bits import label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.hierarchy import Hierarchy

H = Hierarchy(np.array([0, 1, 0, 2, 1, 0]), tuple("abcdef"), ("x", "y", "z"))
PAIRS = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})


def test_label_bits_are_scipys_entropies() -> None:
    labels = np.random.default_rng(0).choice(6, size=500, p=[0.1, 0.3, 0.05, 0.2, 0.15, 0.2])
    counts = np.bincount(labels, minlength=6)
    classes = np.bincount(H.class_of[labels], minlength=3)
    found = label_bits(labels, H)
    assert found.value == pytest.approx(entropy(counts, base=2) - entropy(classes, base=2))
    assert found.low < found.value < found.high < found.ceiling
    assert found.ceiling == pytest.approx(float(classes @ np.log2([3, 2, 1])) / 500)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_and_mutual_bits_are_scipys_entropies(temperature: float) -> None:
    logits = 2 * np.random.default_rng(1).normal(size=(200, 6))
    q = np.exp(logits / temperature)
    q /= q.sum(axis=1, keepdims=True)
    big = np.stack([q[:, H.class_of == c].sum(axis=1) for c in range(3)], axis=1)
    soft = np.mean([entropy(a, base=2) - entropy(b, base=2) for a, b in zip(q, big, strict=True)])
    assert soft_label_bits(logits, H, temperature).value == pytest.approx(soft)
    mutual = entropy(q.mean(axis=0), base=2) - entropy(big.mean(axis=0), base=2) - soft
    found = mutual_label_bits(torch.from_numpy(logits), H, temperature)
    assert found.value == pytest.approx(mutual) and found.low <= found.value


def test_the_ends_of_the_scale() -> None:
    assert label_bits(np.arange(4).repeat(5), PAIRS).value == 1.0
    assert label_bits(np.array([0, 0, 2, 2]), PAIRS).value == 0.0
    assert soft_label_bits(np.zeros((3, 4)), PAIRS).value == 1.0
    sure = 1e3 * np.eye(4)
    assert soft_label_bits(sure, PAIRS).value == pytest.approx(0, abs=1e-12)
    assert mutual_label_bits(sure, PAIRS).value == pytest.approx(1)
    assert mutual_label_bits(np.zeros((3, 4)), PAIRS).value == pytest.approx(0, abs=1e-12)


def test_for_a_calibrated_teacher_the_first_is_the_sum_of_the_others() -> None:
    # Labels drawn from the teacher's own predictions: calibrated but for the sample.
    random = np.random.default_rng(2)
    logits = 2 * random.normal(size=(40_000, 6))
    q = torch.from_numpy(logits).softmax(dim=1).numpy()
    labels = (q.cumsum(axis=1) < random.random((len(q), 1))).sum(axis=1).clip(max=5)
    total = soft_label_bits(logits, H, draws=1).value + mutual_label_bits(logits, H, draws=1).value
    assert label_bits(labels, H).value == pytest.approx(total, abs=0.01)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    shares = np.array([0.3, 0.2, 0.4, 0.1])
    truth = entropy(shares, base=2) - entropy([0.5, 0.5], base=2)
    inside = 0
    for trial in range(100):
        found = label_bits(random.choice(4, size=300, p=shares), PAIRS, draws=300, seed=trial)
        inside += found.low <= truth <= found.high
    assert 85 <= inside <= 100


def test_the_interval_holds_the_value_even_at_the_ceiling() -> None:
    labels = np.tile(np.arange(4), 12)
    found = label_bits(labels, PAIRS)
    assert found.value == found.high == found.ceiling == 1.0 and 0.9 < found.low < 1.0
    few = label_bits(np.array([0, 1, 2, 3, 0, 2]), PAIRS)
    assert few.low <= few.value <= few.high <= few.ceiling


def test_a_ninety_ten_split_is_the_papers_figure_within_its_rounding() -> None:
    # The paper's counts were not at hand. One split of two subclasses in each class that has its 0.4656 bits:
    labels = np.repeat(np.arange(4), [901, 99, 901, 99])
    assert label_bits(labels, PAIRS).value == pytest.approx(0.4656, abs=0.0005)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: label_bits(np.array([0, 6]), H), "a subclass label is 6"),
        (lambda: label_bits(np.array([], dtype=int), H), r"labels have shape \(0,\)"),
        (lambda: label_bits(np.array([0]), H, level=1.0), "the interval's level is 1"),
        (lambda: label_bits(np.array([0]), H, draws=0), "draws is 0"),
        (lambda: soft_label_bits(np.zeros((2, 5)), H), r"\(2, 5\); expected: \(batch, 6\)"),
        (lambda: soft_label_bits(np.zeros((2, 6)), H, 0.0), "the temperature is 0"),
        (lambda: soft_label_bits(np.full((2, 6), np.nan), H), "not finite"),
        (lambda: mutual_label_bits(np.zeros((0, 6)), H), r"shape \(0, 6\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
