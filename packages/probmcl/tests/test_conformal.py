from __future__ import annotations

import numpy as np
import pytest
import torch
from probmcl import ConformalSets
from sextet_common.errors import DataWarning, InputError

Rows = tuple[np.ndarray, np.ndarray]


def rows(count: int, seed: int = 0, labels: int = 5) -> Rows:
    """Draw probabilities that lean to the labels, and labels of which each row has one or more."""
    draw = np.random.default_rng(seed)
    table = (draw.random((count, labels)) < 0.35).astype(np.int8)
    table[np.arange(count), draw.integers(labels, size=count)] = 1
    logits = 2 * table - 1 + 1.5 * draw.normal(size=table.shape)
    return 1 / (1 + np.exp(-logits)), table


def brute_force(p: np.ndarray, y: np.ndarray, level: float, guarantee: str) -> float:
    """Try every value as the threshold and keep the largest one whose corrected risk is allowed."""
    best = 0.0
    for t in np.unique(p):
        shares = [(p[i][y[i] == 1] >= t).mean() for i in range(len(p))]
        losses = [1 - share if guarantee == "recall" else float(share < 1) for share in shares]
        if (sum(losses) + 1) / (len(p) + 1) <= 1 - level + 1e-12:
            best = max(best, float(t))
    return best


@pytest.mark.parametrize("guarantee", ["recall", "set"])
@pytest.mark.parametrize("level", [0.6, 0.9])
def test_the_threshold_is_the_largest_whose_corrected_risk_is_allowed(guarantee: str, level: float) -> None:
    p, y = rows(60)
    p = p.round(2)  # with ties
    sets = ConformalSets.fit(p, y, level, guarantee)
    expected = brute_force(p, y, level, guarantee)
    # Between two thresholds with equal sets on the labels, the larger one that a label reaches is taken.
    own = np.unique(p[y == 1])
    assert sets.thresholds.tolist() == [own[own >= expected].min()] * 5
    assert sets.rows == 60


def test_recall_agrees_with_mapie_on_its_grid_of_thresholds() -> None:
    control = pytest.importorskip("mapie.risk_control")
    p, y = rows(300)
    p = p.round(2)
    sets = ConformalSets.fit(p, y, 0.9, "recall")
    grid = np.arange(100) / 100 - 0.005  # it predicts what exceeds a threshold
    theirs = control.MultiLabelClassificationController(lambda x: x, target_level=0.9, predict_params=grid)
    theirs.calibrate(p, y)
    other = rows(200, seed=1)[0].round(2)
    np.testing.assert_array_equal(sets.predict(other), theirs.predict(other)[:, :, 0])


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")
def test_a_labels_threshold_agrees_with_mapies_split_conformal_quantile() -> None:
    classification = pytest.importorskip("mapie.classification")

    class Given:
        """A fitted classifier whose probabilities are its inputs."""

        classes_ = np.array([0, 1])

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, x: np.ndarray, y: np.ndarray) -> None: ...

        def predict(self, x: np.ndarray) -> np.ndarray:
            return (x[:, 0] > 0.5).astype(int)

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return np.concatenate([1 - x, x], axis=1)

    p, y = rows(300)
    sets = ConformalSets.fit(p, y, 0.9, "label")
    other, _ = rows(200, seed=1)
    for label in range(5):
        own = p[y[:, label] == 1, label : label + 1]
        theirs = classification.SplitConformalClassifier(
            Given(), confidence_level=0.9, conformity_score="lac", prefit=True
        ).conformalize(own, np.ones(len(own), dtype=int))
        inside = theirs.predict_set(other[:, label : label + 1])[1][:, 1, 0]
        np.testing.assert_array_equal(sets.predict(other)[:, label], inside)


@pytest.mark.parametrize("guarantee", ["recall", "set", "label"])
def test_the_mean_coverage_over_calibrations_is_at_least_the_level_and_not_much_more(guarantee: str) -> None:
    test_p, test_y = rows(4000, seed=999)
    level, count, found = 0.85, 77, []
    for seed in range(300):
        p, y = rows(count, seed=seed)
        measured = ConformalSets.fit(p, y, level, guarantee).measure(test_p, test_y)
        found.append(measured.per_label if guarantee == "label" else [measured.of(guarantee)])
    means = np.mean(found, axis=0)
    error = np.std(found, axis=0) / np.sqrt(len(found)) + 0.35 / np.sqrt(len(test_y))  # of calibrations and test rows
    assert np.all(means >= level - 3 * error), means
    if guarantee == "set":  # the mean coverage is exactly 1 - floor((1 - level) (n + 1)) / (n + 1)
        exact = 1 - np.floor((1 - level) * (count + 1)) / (count + 1)
        assert abs(means[0] - exact) < 3 * error[0]
    else:
        assert np.all(means < level + 0.04), means


def test_sets_are_measured_by_their_definitions() -> None:
    sets = ConformalSets(np.array([0.5, 0.5, 0.2]), 0.9, "label", 10)
    p = np.array([[0.9, 0.1, 0.3], [0.5, 0.6, 0.1], [0.1, 0.1, 0.1], [0.9, 0.9, 0.9]])
    y = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, -1, 1]])
    assert sets.predict(torch.tensor(p)).tolist()[:2] == [[True, False, True], [True, True, False]]
    measured = sets.measure(p, y)  # the last row is not fully labelled
    assert (measured.recall, measured.whole_set, measured.mean_size, measured.rows) == (2.5 / 3, 2 / 3, 4 / 3, 3)
    assert measured.per_label[:2] == (1, 0.5) and np.isnan(measured.per_label[2])
    assert (measured.of("recall"), measured.of("set"), measured.of("label")) == (2.5 / 3, 2 / 3, 0.5)


def test_rows_with_unknown_labels_are_left_out() -> None:
    p, y = rows(100)
    hidden = y.copy()
    hidden[:30, 2] = -1
    for guarantee in ("recall", "set"):
        expected = ConformalSets.fit(p[30:], y[30:], 0.9, guarantee)
        assert ConformalSets.fit(p, hidden, 0.9, guarantee).thresholds.tolist() == expected.thresholds.tolist()
    each, whole = (ConformalSets.fit(p, table, 0.8, "label").thresholds for table in (hidden, y))
    assert np.delete(each, 2).tolist() == np.delete(whole, 2).tolist()
    shown = y[30:, 2] == 1
    one = ConformalSets.fit(p[30:][shown][:, 2:3], np.ones((shown.sum(), 1)), 0.8, "label")
    assert each[2] == one.thresholds[0]


def test_rows_without_labels_count_as_covered() -> None:
    p, y = rows(60)
    with_empty = np.concatenate([y, np.zeros_like(y)]), np.concatenate([p, p])
    more = ConformalSets.fit(with_empty[1], with_empty[0], 0.9, "set").thresholds[0]
    # 12 of 121 may be missed, so 12 of the 60 with labels instead of 6
    assert more == np.sort(np.where(y == 1, p, 2).min(axis=1))[11]


def test_too_few_rows_give_a_label_to_every_set_or_are_refused() -> None:
    p, y = rows(40)
    y[:, 3] = 0
    y[:8, 3] = 1
    with pytest.warns(DataWarning, match="every set contains these label columns: 3$"):
        sets = ConformalSets.fit(p, y, 0.9, "label")
    assert sets.predict(np.zeros((1, 5))).tolist() == [[False, False, False, True, False]]
    for guarantee in ("recall", "set"):
        with pytest.raises(InputError, match=r"8 calibration rows for the level 0.9; expected: at least 9 rows"):
            ConformalSets.fit(p[:8], y[:8], 0.9, guarantee)
        assert ConformalSets.fit(p[:9], y[:9], 0.9, guarantee).thresholds[0] > 0
    with pytest.raises(InputError, match="too few calibration rows of every label"):
        ConformalSets.fit(p[:5], y[:5], 0.9, "label")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 1.0}, r"level must be a number in \(0, 1\)"),
        ({"guarantee": "precision"}, "guarantee must be"),
        ({"labels": np.zeros((40, 4))}, r"shapes \(40, 5\) and \(40, 4\)"),
        ({"labels": np.full((40, 5), 2)}, "neither 0 nor 1"),
        ({"labels": np.zeros((40, 5))}, "no fully labelled calibration row has a label"),
        ({"probabilities": np.full((40, 5), np.nan)}, "outside"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    p, y = rows(40)
    with pytest.raises(InputError, match=message):
        ConformalSets.fit(**{"probabilities": p, "labels": y, **change})
    with pytest.raises(InputError, match=r"\(2, 3\); expected: \(rows, 5\)"):
        ConformalSets.fit(p, y).predict(np.zeros((2, 3)))
