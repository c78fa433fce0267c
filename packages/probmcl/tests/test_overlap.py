from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from probmcl import MultiLabelSupConLoss, label_overlap, positive_rate, positives
from probmcl.losses.shared_labels import per_label_shares, product, shared_labels, sums_of_known
from sextet_common.errors import InputError

MEASURES = ["jaccard", "dice", "cosine", "overlap", "containment"]


def of_sets(a: set[int], b: set[int], measure: str) -> float:
    if not a or not b:
        return 0.0
    n = len(a & b)
    return {
        "jaccard": n / len(a | b),
        "dice": 2 * n / (len(a) + len(b)),
        "cosine": n / math.sqrt(len(a) * len(b)),
        "overlap": n / min(len(a), len(b)),
        "containment": n / len(a),
    }[measure]


def table(seed: int, rows: int, labels: int) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(seed).random((rows, labels)) < 0.4).astype(np.uint8))


def sets(labels: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in labels]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.sampled_from(MEASURES))
def test_overlaps_are_those_of_python_sets(seed: int, rows: int, others: int, n_labels: int, measure: str) -> None:
    a, b = table(seed, rows, n_labels), table(seed + 1, others, n_labels)
    expected = [[of_sets(x, y, measure) for y in sets(b)] for x in sets(a)]
    np.testing.assert_allclose(label_overlap(a, b, measure), expected, rtol=1e-6)
    own = label_overlap(a, measure=measure)
    np.testing.assert_allclose(own, [[of_sets(x, y, measure) for y in sets(a)] for x in sets(a)], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float16, torch.float64])
def test_labels_of_any_dtype_give_the_same(dtype: torch.dtype) -> None:
    labels = table(3, 6, 5)
    assert torch.equal(label_overlap(labels.to(dtype)), label_overlap(labels))


def test_each_measure_is_at_least_the_one_before() -> None:
    labels = table(5, 30, 8)
    values = [label_overlap(labels, measure=measure) for measure in MEASURES[:4]]
    for lower, higher in itertools.pairwise(values):
        assert bool((lower <= higher + 1e-6).all())


def test_counts_stay_exact_under_autocast() -> None:
    labels = torch.ones(2, 1000)
    labels[1, 0] = 0
    with torch.autocast("cpu", torch.bfloat16):
        assert label_overlap(labels)[0, 1] == pytest.approx(0.999)


def soft_overlap(x: list[float], y: list[float], weights: list[float], measure: str) -> float:
    known = [(a, b, w) for a, b, w in zip(x, y, weights, strict=True) if a >= 0 and b >= 0]
    n, a, b = (sum(w * p[i] * p[j] for *p, w in known) for i, j in ((0, 1), (0, 0), (1, 1)))
    whole = {
        "jaccard": a + b - n,
        "dice": (a + b) / 2,
        "cosine": math.sqrt(a * b),
        "overlap": min(a, b),
        "containment": a,
    }[measure]
    return min(1.0, n / whole) if n else 0.0


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("readable", [True, False])
def test_soft_counted_and_unknown_labels_with_weights_are_the_literal_formula(
    measure: str, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not readable:
        monkeypatch.setattr("probmcl.losses.shared_labels.readable", lambda tensor: False)  # as on a GPU
    random = np.random.default_rng(0)
    labels = random.choice([-1.0, 0.0, 0.3, 1.0, 3.0], size=(9, 5), p=[0.2, 0.3, 0.2, 0.2, 0.1])
    labels[0], labels[1] = -1, [-1, -1, -1, -1, 1]
    weights = [1.0, 0.5, 2.0, 0.0, 1.0]
    for other in (None, labels[3:7]):
        found = label_overlap(
            torch.tensor(labels), None if other is None else torch.tensor(other), measure,
            class_weight=torch.tensor(weights),
        )  # fmt: skip
        to = labels if other is None else other
        expected = [[soft_overlap(list(x), list(y), weights, measure) for y in to] for x in labels]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_equal_soft_labels_overlap_wholly_and_give_a_loss() -> None:
    labels = torch.tensor([[0.3, 0, 0], [0.3, 0, 0], [0, 0.3, 0.6]])
    for measure in MEASURES:
        assert float(label_overlap(labels, measure=measure)[0, 1]) == pytest.approx(1)
    for loss in (MultiLabelSupConLoss(), MultiLabelSupConLoss(positives="per_label")):
        assert float(loss(torch.eye(3), labels)) == pytest.approx(math.log(2))


def test_large_sparse_tables_are_multiplied_without_their_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    a, b = (torch.tensor(random.random((n, 90)) * (random.random((n, 90)) < 0.05)).float() for n in (40, 30))
    compared = torch.tensor(random.random((40, 30)) < 0.7).float()
    unknown = torch.tensor(random.random((30, 90)) < 0.02).float()

    def all_three() -> list[torch.Tensor]:
        return [product(a, b), sums_of_known(a, unknown), per_label_shares(a, b, compared)]

    assert shared_labels(a, b) is None
    dense = all_three()
    monkeypatch.setattr("probmcl.losses.shared_labels._WORK", 0)
    monkeypatch.setattr("probmcl.losses.shared_labels._MOST_SHARE", 0.1)
    assert shared_labels(a, b) is not None
    assert all(float(table.max()) > 0 for table in dense)
    for found, expected in zip(all_three(), dense, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_overlap_of_two_empty_sets_is_an_option() -> None:
    labels = torch.tensor([[0, 0], [0, 0], [1, 0]])
    assert label_overlap(labels).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert label_overlap(labels, both_empty=1.0).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("threshold", [1e-6, 0.5, 2 / 3, 1.0])
def test_positives_are_the_other_rows_that_overlap_enough(measure: str, threshold: float) -> None:
    labels = table(7, 12, 4)
    found = positives(labels, threshold, measure=measure)
    for i, a in enumerate(sets(labels)):
        for j, b in enumerate(sets(labels)):
            assert bool(found[i, j]) == (i != j and of_sets(a, b, measure) >= threshold - 1e-9)
    assert positive_rate(labels, threshold, measure) == pytest.approx(found.double().mean().item() * 12 / 11)


def test_rows_can_be_compared_with_another_table() -> None:
    labels = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert positives(labels, 0.5, other=labels).tolist() == [[True, False], [False, False]]
    assert positive_rate(labels[:1], 0.5) == 0.0
    assert positive_rate(torch.ones(2, 3), 1.0) == 1.0


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0001, math.nan])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match=r"threshold must be a number in \(0, 1\], got"):
        positives(table(0, 2, 2), threshold)


def test_an_unknown_measure_and_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        InputError, match="measure must be jaccard, dice, cosine, overlap or containment, got 'hamming'"
    ):
        label_overlap(table(0, 2, 2), measure="hamming")
    for labels, other in ((torch.zeros(3), table(0, 2, 3)), (table(0, 2, 3), torch.zeros(3))):
        with pytest.raises(InputError, match="labels have shapes"):
            label_overlap(labels, other)
    with pytest.raises(InputError, match=r"\(2, 2\) and \(2, 3\)"):
        label_overlap(table(0, 2, 2), table(0, 2, 3))
    with pytest.raises(InputError, match=r"both_empty must be a number in \[0, 1\], got 2"):
        label_overlap(table(0, 2, 2), both_empty=2)


def test_rounding_loses_no_overlap_at_the_threshold_and_lets_no_smaller_one_pass() -> None:
    rounded_down = 0
    for a, b in itertools.product(range(1, 16), repeat=2):
        for common in range(1, min(a, b) + 1):
            labels = torch.zeros(2, a + b - common)
            labels[0, :a] = 1
            labels[1, a - common :] = 1
            exact = common / math.sqrt(a * b)
            rounded_down += not bool(label_overlap(labels, measure="cosine")[0, 1] >= exact)
            assert positives(labels, exact, measure="cosine").tolist() == [[False, True], [True, False]]
            loss = MultiLabelSupConLoss(threshold=exact, measure="cosine", reduction="none")
            assert float(loss(torch.eye(3), torch.cat([labels, 0 * labels[:1]]))[0]) > 0  # it has a positive
            if exact * (1 + 1e-5) <= 1:
                assert not positives(labels, exact * (1 + 1e-5), measure="cosine").any()
    assert rounded_down > 10  # so the tolerance is needed
