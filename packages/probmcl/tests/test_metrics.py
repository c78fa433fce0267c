from __future__ import annotations

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from probmcl import best_threshold, evaluate
from sextet_common.errors import InputError
from sklearn import metrics as sk


def data(seed: int, rows: int = 60, labels: int = 6, *, absent: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = (random.random((rows, labels)) < 0.3).astype(int)
    truth[0] = 1
    if absent:
        truth[:, 2] = 0
    scores = np.clip(0.35 + 0.3 * truth + 0.25 * random.normal(size=truth.shape), 0, 1)
    return np.round(scores, 2).astype(np.float32), truth  # rounded: ties on purpose


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("rule", ["only", "and_threshold"])
def test_all_scores_are_those_of_scikit_learn(seed: int, threshold: float, k: int, rule: str) -> None:
    probabilities, truth = data(seed)
    scores = evaluate(probabilities, truth, threshold=threshold, k=k, top_k_rule=rule)
    each = [sk.average_precision_score(truth[:, c], probabilities[:, c]) for c in range(6)]
    np.testing.assert_allclose(scores.per_label_ap, each, rtol=1e-5)
    assert scores.mean_ap == pytest.approx(np.mean(each), rel=1e-5)
    # topk breaks ties in its own way: the same choice is taken for both.
    best = torch.as_tensor(probabilities).topk(k, dim=1).indices.numpy()
    chosen = np.zeros_like(truth)
    np.put_along_axis(chosen, best, 1, axis=1)
    predicted = (probabilities > np.float32(threshold)).astype(int)
    found = {name: getattr(scores, name) for name in scores.top_k}
    for given, values in ((predicted, found), (chosen if rule == "only" else chosen * predicted, scores.top_k)):
        p, r, f, _ = sk.precision_recall_fscore_support(truth, given, average=None, zero_division=0)
        op, orr, of1, _ = sk.precision_recall_fscore_support(truth, given, average="micro", zero_division=0)
        expected = {"cp": p.mean(), "cr": r.mean(), "macro_f1": f.mean(), "op": op, "orr": orr, "of1": of1}
        expected["cf1"] = 2 * p.mean() * r.mean() / (p.mean() + r.mean()) if p.mean() + r.mean() else 0
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, abs=1e-6), name
    assert scores.exact_match == pytest.approx(sk.accuracy_score(truth, predicted))


def test_the_two_f1_are_two_numbers() -> None:
    scores = evaluate(*data(1))
    assert scores.cf1 == pytest.approx(2 * scores.cp * scores.cr / (scores.cp + scores.cr))
    assert abs(scores.cf1 - scores.macro_f1) > 1e-3


def test_absent_labels_are_left_out_or_count_as_zero_as_one_says() -> None:
    probabilities, truth = data(2, absent=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignored, counted = (evaluate(probabilities, truth, absent=absent) for absent in ("ignore", "zero"))
    assert ignored.n_labels_used == counted.n_labels_used == 5
    assert math.isnan(ignored.per_label_ap[2]) and ignored.as_dict()["per_label_ap"][2] is None
    json.dumps(ignored.as_dict(), allow_nan=False)
    for name in ("mean_ap", "cr", "cp", "macro_f1"):  # a label without positives has precision 0 as well
        assert getattr(counted, name) == pytest.approx(getattr(ignored, name) * 5 / 6, rel=1e-6)
    assert counted.of1 == ignored.of1
    without = np.delete(np.arange(6), 2)
    assert evaluate(probabilities[:, without], truth[:, without]).mean_ap == pytest.approx(ignored.mean_ap)


def test_probabilities_that_look_like_logits_are_never_taken_for_them() -> None:
    # All of them in [0, 1]: torchmetrics' detection must not see anything else, whatever their dtype.
    probabilities, truth = data(3)
    assert evaluate(torch.tensor(probabilities).double(), truth) == evaluate(probabilities, truth)
    with pytest.raises(InputError, match=r"row 0, column 1 is -2.5; expected: .*sigmoid"):
        evaluate(np.array([[0.1, -2.5]]), np.array([[0, 1]]))
    with pytest.raises(InputError, match="is nan"):
        evaluate(np.array([[np.nan]]), np.array([[1]]))


def test_the_calibration_error_is_that_of_its_definition() -> None:
    probabilities, truth = data(4, rows=300)
    scores, hits = probabilities.flatten().astype(float), truth.flatten()
    error, edges = 0.0, np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        inside = (scores > low) & (scores <= high) if low else (scores <= high)
        if inside.any():
            error += inside.mean() * abs(scores[inside].mean() - hits[inside].mean())
    # values on a bin's edge may fall on either side of it in float32
    assert evaluate(probabilities, truth, bins=10).calibration_error == pytest.approx(error, abs=0.02)
    perfect = np.array([[0.0], [1.0]])
    assert evaluate(perfect, perfect.astype(int), k=1).calibration_error == 0


def test_nothing_predicted_is_zero_and_not_nan() -> None:
    scores = evaluate(np.full((3, 2), 0.1), np.array([[1, 0], [0, 1], [1, 1]]), k=1)
    assert (scores.cp, scores.cr, scores.cf1, scores.macro_f1, scores.op, scores.of1) == (0,) * 6


def test_one_label_is_a_data_set_too() -> None:
    scores = evaluate(np.array([[0.9], [0.2]]), np.array([[1], [0]]), k=1)
    assert (scores.mean_ap, scores.cf1, scores.of1) == (1, 1, 1)


@pytest.mark.parametrize("score", ["of1", "cf1"])
def test_no_threshold_is_better_than_the_best(score: str) -> None:
    probabilities, truth = data(5)
    found = best_threshold(probabilities, truth, score)
    value = getattr(evaluate(probabilities, truth, threshold=found), score)
    assert all(getattr(evaluate(probabilities, truth, threshold=t / 100), score) <= value for t in range(1, 100, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, r"threshold must be a number in \[0, 1\), got 1"),
        ({"threshold": -0.1}, r"threshold must be a number in \[0, 1\), got -0.1"),
        ({"absent": "nan"}, "absent must be ignore or zero, got 'nan'"),
        ({"top_k_rule": "both"}, "top_k_rule must be only or and_threshold, got 'both'"),
        ({"k": 7}, r"k must be a whole number in \[1, 6\], got 7"),
        ({"k": 0}, r"k must be a whole number in \[1, 6\], got 0"),
        ({"bins": 0}, "bins must be a whole number >= 1, got 0"),
    ],
)
def test_options_outside_what_is_accepted_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(*data(0), **options)


def test_data_that_do_not_fit_are_refused() -> None:
    probabilities, truth = data(0)
    with pytest.raises(InputError, match=r"\(60, 6\) and \(60, 5\)"):
        evaluate(probabilities, truth[:, :5])
    with pytest.raises(InputError, match="label 2 in row 0, column 0"):
        evaluate(probabilities, truth * 2)
    with pytest.raises(InputError, match="no label has a positive row"):
        evaluate(probabilities, np.zeros_like(truth))
    with pytest.raises(InputError, match="score must be cf1 or of1, got 'map'"):
        best_threshold(probabilities, truth, "map")


def test_the_table_names_what_it_shows() -> None:
    probabilities, truth = data(2, absent=True)
    table = evaluate(probabilities, truth, threshold=0.4, top_k_rule="and_threshold").table(tuple("abcdef"))
    for words in ("mean over 5 of 6 labels", "probability > 0.4", "top 3, and the threshold", "AP c: no positive row"):
        assert words in table


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scores_are_those_of_torchmetrics(dtype: type) -> None:
    tm = pytest.importorskip("torchmetrics.functional.classification")
    probabilities, truth = data(8, rows=200, labels=7)
    probabilities = np.clip(probabilities, 0, 0.99).astype(dtype)
    scores, p, y = evaluate(probabilities, truth), torch.tensor(probabilities), torch.tensor(truth)
    each = tm.multilabel_average_precision(p, y, 7, average="none", thresholds=None)
    np.testing.assert_allclose(scores.per_label_ap, each, rtol=1e-5)
    for name, function in (("cp", "precision"), ("cr", "recall"), ("macro_f1", "f1_score")):
        value = getattr(tm, f"multilabel_{function}")(p, y, 7, average="macro")
        assert getattr(scores, name) == pytest.approx(float(value), rel=1e-5)
    error = tm.binary_calibration_error(p.flatten(), y.flatten(), n_bins=15)
    assert scores.calibration_error == pytest.approx(float(error), rel=1e-4)
    assert scores.exact_match == pytest.approx(float(tm.multilabel_exact_match(p, y, 7)))


def test_scores_that_differ_in_float64_only_are_different() -> None:
    p = np.array([[0.5], [0.5 + 1e-12], [0.5 + 2e-12], [0.5 - 1e-12]])
    truth = np.array([[0], [1], [0], [1]])
    for scores in (p, torch.tensor(p)):
        assert evaluate(scores, truth).per_label_ap[0] == pytest.approx(sk.average_precision_score(truth, p))
    assert evaluate(p.astype(np.float32), truth).mean_ap == pytest.approx(0.5)  # all equal there


def test_many_labels_in_parts_are_the_same_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, truth = data(9)
    whole = evaluate(probabilities, truth)
    monkeypatch.setattr("probmcl.metrics._AT_ONCE", 130)
    assert evaluate(probabilities, truth) == whole


@pytest.mark.parametrize("rule", ["only", "and_threshold"])
def test_unknown_labels_count_nowhere(rule: str) -> None:
    probabilities, truth = data(10)
    truth[np.random.default_rng(0).random(truth.shape) < 0.3] = -1
    truth[5] = -1
    truth[:, 0] = np.where(truth[:, 0] >= 0, 1, -1)  # rows that do not know it rank between those that do
    scores = evaluate(probabilities, truth, top_k_rule=rule, threshold=0.4)
    known = truth >= 0
    each = [sk.average_precision_score(truth[known[:, c], c], probabilities[known[:, c], c]) for c in range(6)]
    np.testing.assert_allclose(scores.per_label_ap, each, rtol=1e-6)
    predicted = probabilities > np.float32(0.4)
    best = np.zeros_like(predicted)
    for row in range(60):
        order = [c for c in np.argsort(-probabilities[row], kind="stable") if known[row, c]]
        best[row, order[:3]] = True
    for chosen, found in ((predicted, vars(scores)), (best if rule == "only" else best & predicted, scores.top_k)):
        hits, false, missed = ((chosen == a) & (truth == b) for a, b in ((True, 1), (True, 0), (False, 1)))
        if chosen is predicted:  # ties among the best may be broken in another way
            assert found["op"] == pytest.approx(hits.sum() / (hits.sum() + false.sum()))
            assert found["orr"] == pytest.approx(hits.sum() / (hits.sum() + missed.sum()))
            assert found["cr"] == pytest.approx((hits.sum(axis=0) / (hits | missed).sum(axis=0)).mean())
        assert abs(found["orr"] - hits.sum() / (hits.sum() + missed.sum())) < 0.05
    right = ((predicted == truth) | ~known).all(axis=1)[known.any(axis=1)]
    assert scores.exact_match == pytest.approx(right.mean())
    dense = evaluate(probabilities, np.where(known, truth, 0), threshold=0.4, top_k_rule=rule)
    assert scores.calibration_error != dense.calibration_error


def test_two_labels_are_a_data_set_too_and_k_is_the_number_of_labels() -> None:
    probabilities, truth = data(0, labels=2)
    assert evaluate(probabilities, truth) == evaluate(probabilities, truth, k=2)
    assert evaluate(*data(0)).k == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_best_threshold_is_the_first_of_those_with_the_best_score(dtype: type) -> None:
    probabilities, truth = data(11)
    truth[::7, 2] = -1
    probabilities = probabilities.astype(dtype)
    for score in ("of1", "cf1"):
        values = [getattr(evaluate(probabilities, truth, threshold=t / 100), score) for t in range(1, 100)]
        assert best_threshold(probabilities, truth, score) == (1 + int(np.argmax(values))) / 100
