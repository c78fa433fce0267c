from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from sklearn import metrics as sk
from subclass_kd.clinical.delong import auroc_interval, auroc_test
from subclass_kd.clinical.measures import (
    at_fixed,
    auroc,
    bin_of,
    bootstrap,
    calibration,
    choose_threshold,
    rates,
    roc,
)
from torchmetrics.functional.classification import binary_calibration_error


def draw(seed: int, images: int = 80, steps: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two correlated scores with many ties."""
    random = np.random.default_rng(seed)
    labels = random.random(images) < 0.4
    common = random.normal(size=images) + labels
    first, second = (np.round((common + random.normal(size=images)) * steps / 6) / steps for _ in range(2))
    return labels, first, second


def brute_force(labels: np.ndarray, scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The areas and their covariance by the definition in DeLong et al., with one comparison per pair of images."""
    kernels = []
    for each in scores:
        pairs = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in each[~labels]] for x in each[labels]]
        kernels.append(np.array(pairs))
    m, n = kernels[0].shape
    areas = np.array([kernel.sum() / (m * n) for kernel in kernels])
    covariance = np.zeros((len(scores), len(scores)))
    for r, s in product(range(len(scores)), repeat=2):
        of_positive = sum((kernels[r][i].mean() - areas[r]) * (kernels[s][i].mean() - areas[s]) for i in range(m)) / (
            m - 1
        )
        of_negative = sum(
            (kernels[r][:, j].mean() - areas[r]) * (kernels[s][:, j].mean() - areas[s]) for j in range(n)
        ) / (n - 1)
        covariance[r, s] = of_positive / m + of_negative / n
    return areas, covariance


@pytest.mark.parametrize("seed", range(10))
def test_delong_s_interval_and_test_are_those_of_the_definition(seed: int) -> None:
    labels, first, second = draw(seed)
    areas, covariance = brute_force(labels, [first, second])
    test = auroc_test(labels, first, second)
    for k, interval in enumerate((test.first, test.second)):
        half = 1.959963984540054 * math.sqrt(covariance[k, k])
        assert interval.value == pytest.approx(areas[k], abs=1e-12)
        assert interval.low == pytest.approx(areas[k] - half, abs=1e-12)
        assert interval.high == pytest.approx(min(1, areas[k] + half), abs=1e-12)
    spread = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    z = (areas[0] - areas[1]) / spread
    assert test.z == pytest.approx(z, abs=1e-9)
    assert test.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=1e-12)
    assert test.difference.low == pytest.approx(areas[0] - areas[1] - 1.959963984540054 * spread, abs=1e-12)
    assert auroc_interval(labels, first) == test.first
    assert test.first.value == pytest.approx(sk.roc_auc_score(labels, first), abs=1e-12)
    turned = auroc_test(labels, second, first)
    assert turned.z == pytest.approx(-test.z) and turned.p == pytest.approx(test.p)


def test_delong_s_errors_are_those_of_repeated_draws() -> None:
    areas, errors, z = [], [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = np.arange(100) < 50
        common = random.normal(size=100)
        first, second = (labels + (common + random.normal(size=100)) / math.sqrt(2) for _ in range(2))
        test = auroc_test(labels, first, second)
        areas.append(test.first.value)
        errors.append((test.first.high - test.first.low) / (2 * 1.96))
        z.append(test.z)
    # The standard deviation of 200 draws is known to 5 %; the true area is Phi(1 / sqrt 2).
    assert np.mean(areas) == pytest.approx(0.76025, abs=3 * np.mean(errors) / math.sqrt(200))
    assert np.std(areas) == pytest.approx(np.mean(errors), rel=0.15)
    assert np.mean(z) == pytest.approx(0, abs=3 / math.sqrt(200)) and np.std(z) == pytest.approx(1, rel=0.15)


def test_equal_orders_have_no_z_and_a_perfect_order_has_no_width() -> None:
    labels, first, _ = draw(0)
    same = auroc_test(labels, first, np.exp(first))
    assert same.difference == type(same.difference)(0.0, 0.0, 0.0) and math.isnan(same.z) and math.isnan(same.p)
    perfect = auroc_interval(labels, labels.astype(float))
    assert (perfect.value, perfect.low, perfect.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_as_repeated_images(seed: int) -> None:
    labels, scores, _ = draw(seed)
    probability = 1 / (1 + np.exp(-scores))
    weights = np.random.default_rng(seed).integers(3, size=(4, len(labels))).astype(float)
    given = {
        "auroc": auroc(labels, scores, weights),
        **rates(labels, scores > 0.2, weights),
        **calibration(labels, probability, weights),
    }
    for row, each in enumerate(weights.astype(int)):
        y, s, p = (np.repeat(values, each) for values in (labels, scores, probability))
        d = s > 0.2
        expected = {
            "auroc": sk.roc_auc_score(y, s),
            "sensitivity": sk.recall_score(y, d),
            "specificity": sk.recall_score(~y, ~d),
            "PPV": sk.precision_score(y, d),
            "NPV": sk.precision_score(~y, ~d),
            "F1": sk.f1_score(y, d),
            "accuracy": sk.accuracy_score(y, d),
            "Brier score": sk.brier_score_loss(y, p),
        }
        for name, value in expected.items():
            assert given[name][row] == pytest.approx(value, abs=1e-12), name
        peer = binary_calibration_error(torch.tensor(p), torch.tensor(y.astype(int)), n_bins=10)
        assert given["calibration error"][row] == pytest.approx(float(peer), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_fixed_points_of_the_roc_curve_are_the_best_of_all_thresholds(seed: int) -> None:
    labels, scores, _ = draw(seed)
    weights = np.ones((1, len(labels)))
    every = [-math.inf, *np.unique(scores), math.inf]
    pairs = [((scores >= t)[labels].mean(), (scores < t)[~labels].mean()) for t in every]
    for target in (0.5, 0.8, 0.9, 1.0):
        found = at_fixed(labels, scores, weights, specificity=target, sensitivity=target)
        assert found["sensitivity"][0] == max(a for a, b in pairs if b >= target)
        assert found["specificity"][0] == max(b for a, b in pairs if a >= target)
        for rule in ("sensitivity", "specificity"):
            decided = rates(labels, scores > choose_threshold(labels, scores, rule, target), weights)
            other = "specificity" if rule == "sensitivity" else "sensitivity"
            assert decided[rule][0] >= target and decided[other][0] == found[other][0]
    decided = rates(labels, scores > choose_threshold(labels, scores), weights)
    assert decided["sensitivity"][0] + decided["specificity"][0] == pytest.approx(max(a + b for a, b in pairs))
    assert choose_threshold(labels, scores, "half") == 0.5


def test_the_curve_has_a_cut_for_every_decision_even_between_neighbouring_numbers() -> None:
    scores = np.array([1.0, np.nextafter(1.0, 0), 0.5, 0.0])
    sensitivity, specificity, cuts = roc(np.array([True, False, True, False]), scores, np.ones((1, 4)))
    assert [(scores > cut).sum() for cut in cuts] == [0, 1, 2, 3, 4]
    assert sensitivity[0].tolist() == [0, 0.5, 0.5, 1, 1] and specificity[0].tolist() == [1, 1, 0.5, 0.5, 0]


def test_the_bootstrap_by_patient_is_wider_than_by_image_and_agrees_with_theory() -> None:
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    values = np.repeat(random.normal(size=60), 5)  # all images of a patient are alike

    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": weights @ values / weights.sum(axis=1)}

    by_patient = bootstrap(mean, patients, replicates=4000)["mean"]
    by_image = bootstrap(mean, np.arange(300), replicates=4000)["mean"]
    error = values.std() / math.sqrt(60)
    # 4000 replicates give the ends of the interval to about 5 %.
    assert by_patient.high - by_patient.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert by_image.high - by_image.low == pytest.approx(2 * 1.96 * error / math.sqrt(5), rel=0.08)
    assert by_patient == bootstrap(mean, patients, replicates=4000)["mean"] != bootstrap(mean, patients, seed=1)["mean"]


def test_replicates_without_a_class_are_left_out_and_an_undefined_value_stays_nan() -> None:
    labels = np.array([True, False, False, False])
    drawn = bootstrap(lambda w: rates(labels, labels, w), np.arange(4), replicates=200)
    assert drawn["sensitivity"].low == drawn["sensitivity"].high == 1.0
    never = bootstrap(lambda w: rates(labels, np.zeros(4, bool), w), np.arange(4), replicates=50)
    assert math.isnan(never["PPV"].value) and math.isnan(never["PPV"].low)


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    assert bin_of(np.array([0.0, 0.0999, 0.1, 0.95, 1.0])).tolist() == [0, 0, 1, 9, 9]


def test_scores_that_allow_no_measure_are_refused() -> None:
    labels = np.array([True, False, True])
    with pytest.raises(InputError, match="2 positive and 1 negative images"):
        auroc_interval(labels, np.arange(3.0))
    with pytest.raises(InputError, match="a score is nan"):
        auroc_interval(labels, np.array([0.0, np.nan, 1.0]))
    with pytest.raises(InputError, match=r"labels int64 \(3,\)"):
        auroc_interval(labels.astype(np.int64), np.arange(3.0))
    with pytest.raises(InputError, match="3 of 3 images are positive"):
        choose_threshold(np.ones(3, bool), np.arange(3.0))
    with pytest.raises(InputError, match="level must be"):
        auroc_test(labels, np.arange(3.0), np.arange(3.0), level=1.0)
    with pytest.raises(InputError, match="target must be"):
        choose_threshold(labels, np.arange(3.0), "sensitivity", 0.0)
