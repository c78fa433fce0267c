from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError
from subclass_kd import Hierarchy

UNEQUAL = Hierarchy(np.array([0, 1, 0, 2, 1, 0]), tuple("abcdef"), ("x", "y", "z"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 4.0]), st.booleans())
def test_class_probabilities_are_the_brute_force_sums_and_sum_to_one(
    seed: int, temperature: float, normal: bool
) -> None:
    logits = 20 * np.random.default_rng(seed).normal(size=(4, 6))
    weights = np.exp(logits / temperature - (logits / temperature).max(axis=1, keepdims=True))
    if normal:
        weights = weights / UNEQUAL.sizes[UNEQUAL.class_of]
    sums = np.stack([weights[:, UNEQUAL.class_of == c].sum(axis=1) for c in range(3)], axis=1)
    classes = UNEQUAL.class_log_probs(torch.from_numpy(logits), temperature, normalize_groups=normal).exp()
    np.testing.assert_allclose(classes, sums / sums.sum(axis=1, keepdims=True), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(classes.sum(dim=1), 1, rtol=1e-12)


def test_softening_class_logits_is_not_summing_softened_subclasses() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0, 1.0, -2.0]], dtype=torch.float64)
    summed = UNEQUAL.class_log_probs(logits, 4.0).exp()
    softened = (UNEQUAL.class_logits(logits) / 4).softmax(dim=1)
    assert float((summed - softened).abs().max()) > 0.05
    torch.testing.assert_close(UNEQUAL.class_log_probs(logits).exp(), UNEQUAL.class_logits(logits).softmax(dim=1))


def test_hot_classes_have_mass_by_their_size_unless_groups_are_normalised() -> None:
    logits = torch.randn(1, 6, dtype=torch.float64)
    torch.testing.assert_close(
        UNEQUAL.class_log_probs(logits, 1e9).exp(), torch.tensor([[3, 2, 1]], dtype=torch.float64) / 6
    )
    even = UNEQUAL.class_log_probs(logits, 1e9, normalize_groups=True).exp()
    torch.testing.assert_close(even, torch.full((1, 3), 1 / 3, dtype=torch.float64))


def test_labels_of_arrays_and_tensors_become_classes() -> None:
    assert UNEQUAL.class_labels(np.array([[5, 1], [3, 0]])).tolist() == [[0, 1], [2, 0]]
    assert UNEQUAL.class_labels(torch.tensor([4, 2])).tolist() == [1, 0]
    for labels, message in (
        (np.array([6]), "subclass label 6; expected: whole numbers from 0 to 5"),
        (np.array([-5]), r"subclass label -5; .* 0 to 5, -1 \(unlabelled\), or -2 to -4 \(class only\)"),
        (torch.tensor([7]), "subclass label 7"),
        (np.array([0.5]), "subclass labels have dtype float64"),
    ):
        with pytest.raises(InputError, match=message):
            UNEQUAL.class_labels(labels)


def test_a_label_may_be_of_the_class_only_or_missing() -> None:
    codes = UNEQUAL.class_only(np.array([[2, 0]], dtype=np.int8))
    assert codes.tolist() == [[-4, -2]] and UNEQUAL.class_only(torch.tensor([1])).tolist() == [-3]
    for kind in (np.int8, np.int16, np.int32, np.int64):
        labels = np.array([-4, -3, -2, -1, 5], dtype=kind)
        for classes in (UNEQUAL.class_labels(labels), UNEQUAL.class_labels(torch.from_numpy(labels))):
            assert classes.tolist() == [2, 1, 0, -1, 0] and str(classes.dtype).endswith("int64")
    for wrong, message in ((np.array([3]), "class label 3"), (np.array([-1]), "-1"), (np.array([0.5]), "float64")):
        with pytest.raises(InputError, match=message):
            UNEQUAL.class_only(wrong)
    with pytest.raises(InputError, match=r"subclass label -1; expected: whole numbers from 0 to 5$"):
        UNEQUAL.check_labels(np.array([-1]))


def test_names_are_numbers_by_default_and_equal_hierarchies_are_equal() -> None:
    plain = Hierarchy(np.array([0, 1, 0]))
    assert (plain.subclass_names, plain.class_names) == (("0", "1", "2"), ("0", "1"))
    assert plain == Hierarchy(np.array([0, 1, 0], dtype=np.int8), "012", "01") and len({plain, plain.collapsed()}) == 2
    assert plain != Hierarchy(np.array([0, 1, 1])) and plain != Hierarchy(np.array([0, 1, 0]), "abc") != "abc"
    assert Hierarchy.from_dict(UNEQUAL.as_dict()) != UNEQUAL  # in another order


def test_a_number_of_subclasses_names_them_and_text_is_not_split_into_letters() -> None:
    assert Hierarchy.from_dict({"HP": 2, "SSA": 1}).as_dict() == {"HP": ["HP 0", "HP 1"], "SSA": ["SSA 0"]}
    assert Hierarchy.of({"HP": 2}).n_subclasses == 2
    for value in ("clear", 0, -1, True, None, 1.5):
        with pytest.raises(InputError, match=f"the subclasses of class 'HP' are {value!r}; expected: a list of names"):
            Hierarchy.from_dict({"HP": value})


def test_collapsed_has_classes_only_and_a_dict_round_trips() -> None:
    collapsed = UNEQUAL.collapsed()
    assert (collapsed.n_subclasses, collapsed.class_names) == (3, ("x", "y", "z"))
    assert UNEQUAL.as_dict() == {"x": ["a", "c", "f"], "y": ["b", "e"], "z": ["d"]}
    assert Hierarchy.from_dict(UNEQUAL.as_dict()).as_dict() == UNEQUAL.as_dict()


def test_hierarchies_are_read_from_a_table_and_from_folders(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("subclass,class\npersian,cat\npoodle,dog\n\nsiamese,cat\n")
    assert Hierarchy.from_csv(tmp_path / "h.csv").as_dict() == {"cat": ["persian", "siamese"], "dog": ["poodle"]}
    for name in ("cat/young", "cat/old", "dog/young"):
        (tmp_path / "images" / name).mkdir(parents=True)
    hierarchy = Hierarchy.from_folder(tmp_path / "images")
    assert hierarchy.as_dict() == {"cat": ["cat/old", "cat/young"], "dog": ["dog/young"]}
    (tmp_path / "images" / "empty").mkdir()
    with pytest.raises(InputError, match="class 'empty' has no subclass"):
        Hierarchy.from_folder(tmp_path / "images")
    with pytest.raises(InputError, match="is not a folder"):
        Hierarchy.from_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,subclass\ncat,\n", "line 2: subclass '' of class 'cat'"),
        ("class,subclass\ncat,a\n,b\n", "line 3: subclass 'b' of class ''"),
        ("kind,subclass\ncat,a\n", "lacks a column"),
        ("class,subclass\n", "no class is given"),
        ("class,subclass\ncat,a\ndog,a\n", "duplicate subclass name 'a'"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "h.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        Hierarchy.from_csv(tmp_path / "h.csv")
    with pytest.raises(InputError, match="does not exist"):
        Hierarchy.from_csv(tmp_path / "no.csv")


@pytest.mark.parametrize(
    ("class_of", "names", "classes", "message"),
    [
        ([0, 2], "ab", "xy", "subclass 'b' has class 2; expected: a class from 0 to 1"),
        ([0, -1], "ab", "xy", "subclass 'b' has class -1"),
        ([0, 0], "ab", "xy", "class 'y' has no subclass"),
        ([0, 1], "a", "xy", "1 names for 2 subclasses"),
        ([0, 1], "aa", "xy", "duplicate subclass name 'a'"),
        ([0, 1], "ab", "xx", "duplicate class name 'x'"),
        ([0.5, 1], "ab", "xy", "class_of has dtype float64"),
        ([], "", "", "class_of has"),
    ],
)
def test_inconsistent_names_and_classes_are_refused(
    class_of: list[float], names: str, classes: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Hierarchy(np.array(class_of), tuple(names), tuple(classes))


def test_logits_and_temperatures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 5\); expected: \(batch, 6\)"):
        UNEQUAL.class_logits(torch.zeros(2, 5))
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="temperature must be a number > 0"):
            UNEQUAL.class_log_probs(torch.zeros(1, 6), value)
