from __future__ import annotations

import numpy as np
import pytest
from sextet_common.errors import InputError
from subclass_kd.cross_validation import chosen_fold, folds
from subclass_kd.data import Part, SubclassSet, hold_out
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.sources import load
from subclass_kd.splits import group_folds

RANDOM = np.random.default_rng(0)
PATIENTS = np.array([f"p{n}" for n in RANDOM.integers(60, size=600)])
LABELS = RANDOM.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=600)


def test_a_patient_is_in_one_fold_and_folds_have_similar_shares_of_every_label() -> None:
    fold_of = group_folds(LABELS, PATIENTS, 5)
    assert all(len(np.unique(fold_of[patient == PATIENTS])) == 1 for patient in np.unique(PATIENTS))
    for label in range(4):
        counts = np.bincount(fold_of[label == LABELS], minlength=5)
        assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.4 * counts.mean()
    assert np.array_equal(fold_of, group_folds(LABELS, PATIENTS, 5))
    assert not np.array_equal(fold_of, group_folds(LABELS, PATIENTS, 5, seed=1))


@pytest.mark.parametrize("share", [0.15, 0.2])
def test_about_a_share_of_the_images_is_held_out_in_whole_patients(share: float) -> None:
    kept, held = hold_out(LABELS, share, "toy", "test", PATIENTS)
    assert not set(PATIENTS[kept]) & set(PATIENTS[held])
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(600))
    assert abs(len(held) - share * 600) < 0.04 * 600 and set(LABELS[kept]) == set(range(4))


def test_a_subclass_of_a_single_patient_stays_in_training() -> None:
    labels = np.where(PATIENTS == "p7", 4, LABELS)
    kept, _ = hold_out(labels, 0.2, "toy", "test", PATIENTS)
    assert 4 in labels[kept]


def test_a_set_is_split_by_patient_and_rows_keep_their_patient() -> None:
    hierarchy = Hierarchy.from_dict({"a": ["1", "2"], "b": ["3", "4"]})
    images = np.arange(600, dtype=np.float32)[:, None, None, None] / 600
    part = Part(images, LABELS, groups=PATIENTS)
    test = Part(images[:2], LABELS[:2])
    data = SubclassSet.with_held_out(part, test, hierarchy, (1, 1, 1), "toy")
    for one in (data.train, data.validation):
        rows = (one.images[:, 0, 0, 0] * 600).round().astype(int)
        assert one.groups is not None and np.array_equal(one.groups, PATIENTS[rows])
    assert not set(data.train.groups) & set(data.validation.groups)
    assert data.scarce(0.5).train.groups is not None


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 1, 0, 1], ["a", "a", "b", "b"], 3, "3 folds of 2 groups; expected: 2 to 2 folds"),
        ([0, 1, 0, 1], ["a", "a", "b", "b"], 1, "1 folds of 2 groups"),
        ([0, 1, 2], ["a", "b", "c"], 2, "no label has more than 1 images"),
        ([0, 1], ["a", "b", "c"], 2, r"groups of shape \(3,\)"),
        ([0.0, 1.0], ["a", "b"], 2, "labels float64"),
    ],
)
def test_folds_that_groups_do_not_allow_are_refused(labels: list, groups: list, folds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        group_folds(np.array(labels), np.array(groups), folds)


def test_groups_that_cannot_be_held_out_are_refused() -> None:
    with pytest.raises(InputError, match="toy has 1 groups"):
        hold_out(np.zeros(4, int), 0.2, "toy", "test", np.array(["a"] * 4))
    with pytest.raises(InputError, match="every subclass keeps an image"):
        hold_out(np.array([0, 0, 1, 1]), 0.2, "toy", "test", np.array(["a", "a", "b", "b"]))


def test_folds_test_every_image_once_and_keep_patients_together() -> None:
    hierarchy = Hierarchy.from_dict({"a": ["1", "2"], "b": ["3", "4"]})
    images = np.arange(600, dtype=np.float32)[:, None, None, None] / 600
    first, second = np.arange(400), np.arange(400, 600)
    parts = [Part(images[rows], LABELS[rows], groups=PATIENTS[rows]) for rows in (first, second)]
    data = SubclassSet.with_held_out(*parts, hierarchy, (1, 1, 1), "toy")
    tested = []
    for fold in folds(data, 3):
        seen = [set(part.groups) for part in (fold.train, fold.validation, fold.test)]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        rows = (fold.test.images[:, 0, 0, 0] * 600).round().astype(int)
        assert np.array_equal(fold.test.labels, LABELS[rows]) and np.array_equal(fold.test.groups, PATIENTS[rows])
        tested += rows.tolist()
    assert sorted(tested) == list(range(600))


def test_one_fold_by_its_number_and_other_text_is_refused() -> None:
    data = load("digits")
    for number, expected in enumerate(folds(data, 3), start=1):
        found = chosen_fold(data, f"{number}/3")
        assert found.source == expected.source and np.array_equal(found.test.labels, expected.test.labels)
    for wrong in ("0/3", "4/3", "3", "a/b", "-1/3", "1/3/3", "", "1/1"):
        with pytest.raises(InputError, match="fold"):
            chosen_fold(data, wrong)
