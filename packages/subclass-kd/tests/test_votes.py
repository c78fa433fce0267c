from __future__ import annotations

import numpy as np
import pytest
from sextet_common.errors import InputError
from subclass_kd import subclasses_from_votes, votes_from_counts

ALL = votes_from_counts(np.arange(8), 7)


def names(scheme: object) -> list[str]:
    voted = subclasses_from_votes(ALL, scheme, class_names=("HP", "SSA"))
    return [voted.hierarchy.subclass_names[s] for s in voted.subclass_labels]


def test_seven_votes_are_clear_or_ambiguous() -> None:
    assert names("clear-ambiguous") == [
        *["HP clear"] * 2, *["HP ambiguous"] * 2, *["SSA ambiguous"] * 2, *["SSA clear"] * 2,
    ]  # fmt: skip
    assert names("every") == [
        "HP 7 of 7", "HP 6 of 7", "HP 5 of 7", "HP 4 of 7", "SSA 4 of 7", "SSA 5 of 7", "SSA 6 of 7", "SSA 7 of 7",
    ]  # fmt: skip
    assert names((5, 7)) == ["HP 7", *["HP 5 to 6"] * 2, "HP 4", "SSA 4", *["SSA 5 to 6"] * 2, "SSA 7"]


@pytest.mark.parametrize(
    ("n_classes", "annotators", "majorities", "clear"),
    [(2, 7, [4, 5, 6, 7], [6, 7]), (2, 6, [4, 5, 6], [6]), (2, 5, [3, 4, 5], [5]), (3, 6, [2, 3, 4, 5, 6], [5, 6])],
)
def test_the_bins_cover_all_majorities_and_the_upper_half_is_clear(
    n_classes: int, annotators: int, majorities: list[int], clear: list[int]
) -> None:
    # For every majority a row whose other votes are spread over the other classes.
    rows = [[0] * size + [1 + i % (n_classes - 1) for i in range(annotators - size)] for size in majorities]
    rows += [[label] * annotators for label in range(1, n_classes)]
    every = subclasses_from_votes(np.array(rows), "every", ties="lowest")
    subclasses = [every.hierarchy.subclass_names[s] for s in every.subclass_labels[: len(majorities)]]
    assert subclasses == [f"0 {size} of {annotators}" for size in majorities]
    voted = subclasses_from_votes(np.array(rows), ties="lowest")
    subclasses = [voted.hierarchy.subclass_names[s] for s in voted.subclass_labels[: len(majorities)]]
    assert subclasses == [f"0 {'clear' if size in clear else 'ambiguous'}" for size in majorities]
    with pytest.raises(InputError, match=f"whole numbers from {majorities[1]} to {annotators}"):
        subclasses_from_votes(np.array(rows), (annotators + 1,), ties="lowest")


def test_the_difficulty_is_the_share_that_disagrees() -> None:
    voted = subclasses_from_votes(ALL)
    np.testing.assert_allclose(voted.difficulty * 7, [0, 1, 2, 3, 3, 2, 1, 0])
    assert voted.hierarchy.class_labels(voted.subclass_labels).tolist() == [0] * 4 + [1] * 4


def test_subclasses_without_samples_are_left_out() -> None:
    voted = subclasses_from_votes(np.array([[0, 0, 0], [1, 1, 0], [1, 1, 0]]))
    assert voted.hierarchy.subclass_names == ("0 clear", "1 ambiguous")


def test_votes_on_three_classes_and_their_ties() -> None:
    votes = np.array([[0, 0, 0], [1, 1, 2], [2, 2, 2], [0, 1, 2]])
    with pytest.raises(InputError, match="the votes of row 3 are tied"):
        subclasses_from_votes(votes)
    voted = subclasses_from_votes(votes, ties="lowest")
    assert voted.hierarchy.class_labels(voted.subclass_labels).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("votes", "options", "message"),
    [
        (np.array([[0, 2]]), {"class_names": ("a", "b")}, "vote 2 in row 0, column 1; expected: 0 to 1"),
        (np.array([[0, -1]]), {}, "vote -1 in row 0, column 1"),
        (np.array([[0.5]]), {}, "votes have dtype float64"),
        (np.array([0, 1]), {}, r"votes have dtype int64 and shape \(2,\)"),
        (ALL, {"scheme": "bins"}, "scheme is 'bins'; expected: clear-ambiguous, every, or increasing"),
        (ALL, {"scheme": (7, 5)}, "scheme is"),
        (ALL, {"scheme": (4,)}, "from 5 to 7"),
        (ALL, {"ties": "first"}, "ties must be error or lowest, got 'first'"),
        (ALL[:3], {"class_names": ("a", "b")}, "no sample has the class 'b'"),
    ],
)
def test_invalid_votes_and_options_are_refused(votes: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        subclasses_from_votes(votes, **options)


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="8 votes in row 1; expected: 0 to 7"):
        votes_from_counts(np.array([0, 8]), 7)
    with pytest.raises(InputError, match="counts have dtype float64"):
        votes_from_counts(np.array([0.0]), 7)
