"""Subclasses from several annotators' votes: how clear an image was to them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer
from sextet_common.checks import check
from sextet_common.errors import InputError

from subclass_kd.hierarchy import Hierarchy

Scheme = Literal["clear-ambiguous", "every"]
Ties = Literal["error", "lowest"]


@dataclass(frozen=True)
class Voted:
    """Subclasses and difficulty from votes.

    The hierarchy leaves out subclasses that no sample has. ``difficulty`` is the share of annotators who disagree with
    the majority, in [0, 1), for a curriculum.
    """

    subclass_labels: Int[np.ndarray, " samples"]
    hierarchy: Hierarchy
    difficulty: Float[np.ndarray, " samples"]


def subclasses_from_votes(
    votes: Integer[np.ndarray, "samples annotators"],
    scheme: Scheme | tuple[int, ...] = "clear-ambiguous",
    *,
    class_names: tuple[str, ...] | None = None,
    ties: Ties = "error",
) -> Voted:
    """Make a subclass of each class and degree of agreement.

    Parameters
    ----------
    votes
        The class that each annotator chose, whole numbers from 0.
    scheme
        - "clear-ambiguous": two subclasses per class, clear if the majority is larger than halfway between the smallest
          possible majority and all votes (with seven votes on two classes: 6 and 7; ambiguous: 4 and 5);
        - "every": one subclass per size of the majority;
        - a tuple of numbers: the majorities at which a new subclass begins, besides the first one.
    class_names
        By default the classes' numbers.
    ties
        Two classes with the most votes are an "error", or the "lowest" of them wins. An odd number of annotators cannot
        tie on two classes, but can on more.

    References
    ----------
    arXiv 2207.08063 makes subclasses from the agreement of seven pathologists. Its bins are not specified in the
    abstract; the bins here are our choice.

    Examples
    --------
    >>> voted = subclasses_from_votes(np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]]), class_names=("HP", "SSA"))
    >>> [voted.hierarchy.subclass_names[s] for s in voted.subclass_labels]
    ['SSA clear', 'SSA ambiguous', 'HP clear']
    """
    table = np.asarray(votes)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iub":
        given = f"votes have dtype {table.dtype} and shape {table.shape}"
        raise InputError(given, "whole numbers of shape (samples, annotators)")
    n_classes, annotators = len(class_names) if class_names else int(table.max()) + 1, table.shape[1]
    names = class_names or tuple(map(str, range(n_classes)))
    wrong = np.argwhere((table < 0) | (table >= n_classes))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise InputError(f"vote {table[row, column]} in row {row}, column {column}", f"0 to {n_classes - 1}")
    classes, majority = _majority(table, n_classes, ties)
    starts, bin_names = _bins(scheme, annotators, n_classes)
    keys = classes * len(bin_names) + np.searchsorted(starts, majority, side="right")
    present = np.unique(keys)
    class_of, bins = np.divmod(present, len(bin_names))
    missing = sorted(set(range(n_classes)) - set(class_of.tolist()))
    if missing:
        raise InputError(f"no sample has the class {names[missing[0]]!r}", "at least one of every class")
    subclasses = tuple(f"{names[c]} {bin_names[b]}" for c, b in zip(class_of.tolist(), bins.tolist(), strict=True))
    return Voted(np.searchsorted(present, keys), Hierarchy(class_of, subclasses, names), 1 - majority / annotators)


def votes_from_counts(
    counts: Integer[np.ndarray, " samples"], annotators: int
) -> Integer[np.ndarray, "samples annotators"]:
    """Return votes on two classes, given how many of the annotators chose class 1, as MHIST lists them.

    Examples
    --------
    >>> votes_from_counts(np.array([0, 2]), 3)
    array([[0, 0, 0],
           [1, 1, 0]])
    """
    table = np.asarray(counts)
    if table.ndim != 1 or table.dtype.kind not in "iu":
        raise InputError(f"counts have dtype {table.dtype} and shape {table.shape}", "whole numbers, shape (samples,)")
    wrong = np.flatnonzero((table < 0) | (table > annotators))
    if len(wrong):
        raise InputError(f"{table[wrong[0]]} votes in row {int(wrong[0])}", f"0 to {annotators}")
    return (np.arange(annotators) < table[:, None]).astype(np.int64)


def _majority(votes: np.ndarray, n_classes: int, ties: Ties) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's class with the most votes, and the number of these votes."""
    check("ties", ties, Ties)
    counts = np.stack([(votes == label).sum(axis=1) for label in range(n_classes)], axis=1)
    majority = counts.max(axis=1)
    tied = np.flatnonzero((counts == majority[:, None]).sum(axis=1) > 1)
    if len(tied) and ties == "error":
        raise InputError(f"the votes of row {int(tied[0])} are tied", "a majority, or ties='lowest'")
    return counts.argmax(axis=1), majority


def _bins(scheme: object, annotators: int, n_classes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the majorities at which the second and later bins begin, and the names of all bins, ambiguous first."""
    least = -(-annotators // n_classes)  # the smallest possible majority
    if n_classes == 2 and annotators % 2 == 0:
        least += 1  # half of the votes is a tie
    if scheme == "clear-ambiguous":
        return np.array([(least + annotators) // 2 + 1]), ("ambiguous", "clear")
    if scheme == "every":
        sizes = range(least, annotators + 1)
        return np.array(sizes[1:]), tuple(f"{size} of {annotators}" for size in sizes)
    if isinstance(scheme, tuple) and all(isinstance(start, int) and not isinstance(start, bool) for start in scheme):
        bounds = [least, *scheme, annotators + 1]
        if bounds == sorted(set(bounds)) and len(scheme):
            names = (f"{a}" if a == b - 1 else f"{a} to {b - 1}" for a, b in pairwise(bounds))
            return np.array(scheme, dtype=np.int64), tuple(names)
    accepted = f"clear-ambiguous, every, or increasing whole numbers from {least + 1} to {annotators}"
    raise InputError(f"scheme is {scheme!r}", accepted)
