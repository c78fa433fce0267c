from __future__ import annotations

import numpy as np
import pytest
from sextet_common.errors import InputError
from subclass_kd.votes import subclasses_from_votes, votes_from_counts

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


def test_the_difficulty_is_the_share_that_disagrees() -> None:
    voted = subclasses_from_votes(ALL)
    np.testing.assert_allclose(voted.difficulty * 7, [0, 1, 2, 3, 3, 2, 1, 0])
    assert voted.hierarchy.class_labels(voted.subclass_labels).tolist() == [0] * 4 + [1] * 4


def test_subclasses_that_nobody_has_are_left_out() -> None:
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
        (np.array([[0.5]]), {}, "votes are float64"),
        (np.array([0, 1]), {}, r"votes are int64 of shape \(2,\)"),
        (ALL, {"scheme": "bins"}, "the scheme is 'bins'; expected: clear-ambiguous, every, or rising"),
        (ALL, {"scheme": (7, 5)}, "the scheme is"),
        (ALL, {"scheme": (4,)}, "from 5 to 7"),
        (ALL, {"ties": "first"}, "ties is 'first'"),
        (ALL[:3], {"class_names": ("a", "b")}, "no sample has the class 'b'"),
    ],
)
def test_what_does_not_fit_is_refused(votes: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        subclasses_from_votes(votes, **options)


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="8 votes in row 1; expected: 0 to 7"):
        votes_from_counts(np.array([0, 8]), 7)
    with pytest.raises(InputError, match="counts are float64"):
        votes_from_counts(np.array([0.0]), 7)
