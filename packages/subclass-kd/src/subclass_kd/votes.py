"""Subclasses from several annotators' votes: how clear an image was to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer
from sextet_common.errors import InputError

from subclass_kd.hierarchy import Hierarchy

Scheme = Literal["clear-ambiguous", "every"]
Ties = Literal["error", "lowest"]


@dataclass(frozen=True)
class Voted:
    """What votes tell.

    Parameters
    ----------
    subclass_labels
        Each sample's subclass, shape (samples,).
    hierarchy
        The subclasses' classes; those that no sample has are left out.
    difficulty
        The share of annotators who disagree with the majority, in [0, 1): what a curriculum orders by.
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
        The class that each annotator chose, whole numbers from 0, shape (samples, annotators).
    scheme
        - "clear-ambiguous": two subclasses a class; clear where the majority is larger than halfway between the least
          possible majority and all (of seven votes on two classes: 6 and 7; ambiguous 4 and 5);
        - "every": one for each size of the majority;
        - several numbers: the least majorities at which a new subclass begins, beside the first one.
    class_names
        Names of the classes; their numbers where not given.
    ties
        What two largest numbers of votes are: an "error", or the "lowest" class of them. Odd numbers of annotators
        cannot tie on two classes; on more they can.

    Returns
    -------
    Voted
        Labels, hierarchy, difficulty.

    Raises
    ------
    InputError
        Where votes are no whole numbers or out of range, a tie is an error, or the scheme is unknown.

    References
    ----------
    arXiv 2207.08063 makes subclasses from seven pathologists' agreement; its bins were not at hand, these are *ours*.

    Examples
    --------
    >>> voted = subclasses_from_votes(np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]]), class_names=("HP", "SSA"))
    >>> [voted.hierarchy.subclass_names[s] for s in voted.subclass_labels]
    ['SSA clear', 'SSA ambiguous', 'HP clear']
    """
    table = np.asarray(votes)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iub":
        raise InputError(f"votes are {table.dtype} of shape {table.shape}", "whole numbers, (samples, annotators)")
    n_classes = len(class_names) if class_names else int(table.max()) + 1
    names = class_names or tuple(map(str, range(n_classes)))
    wrong = np.argwhere((table < 0) | (table >= n_classes))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise InputError(f"vote {table[row, column]} in row {row}, column {column}", f"0 to {n_classes - 1}")
    counts = np.stack([(table == label).sum(axis=1) for label in range(n_classes)], axis=1)
    majority, classes = counts.max(axis=1), counts.argmax(axis=1)
    tied = np.flatnonzero((counts == majority[:, None]).sum(axis=1) > 1)
    if len(tied) and ties == "error":
        raise InputError(f"the votes of row {int(tied[0])} are tied", "a majority, or ties='lowest'")
    if ties not in ("error", "lowest"):
        raise InputError(f"ties is {ties!r}", "error or lowest")
    annotators = table.shape[1]
    edges, words = _bins(scheme, annotators, n_classes)
    bins = np.searchsorted(edges, majority, side="right")
    keys = classes * (len(edges) + 1) + bins
    present = np.unique(keys)
    missing = sorted(set(range(n_classes)) - set((present // (len(edges) + 1)).tolist()))
    if missing:
        raise InputError(f"no sample has the class {names[missing[0]]!r}", "one at least of every class")
    subclasses = tuple(f"{names[key // (len(edges) + 1)]} {words[key % (len(edges) + 1)]}" for key in present.tolist())
    hierarchy = Hierarchy(present // (len(edges) + 1), subclasses, names)
    return Voted(np.searchsorted(present, keys), hierarchy, 1 - majority / annotators)


def votes_from_counts(
    counts: Integer[np.ndarray, " samples"], annotators: int
) -> Integer[np.ndarray, "samples annotators"]:
    """Return a table of votes on two classes from how many annotators chose the second, as MHIST lists them.

    Parameters
    ----------
    counts
        Votes for class 1, from 0 to `annotators`.
    annotators
        How many there are.

    Returns
    -------
    array
        Zeros and ones, shape (samples, annotators).

    Raises
    ------
    InputError
        Where a count is out of range.

    Examples
    --------
    >>> votes_from_counts(np.array([0, 2]), 3)
    array([[0, 0, 0],
           [1, 1, 0]])
    """
    given = np.asarray(counts)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InputError(f"counts are {given.dtype} of shape {given.shape}", "whole numbers, (samples,)")
    wrong = np.flatnonzero((given < 0) | (given > annotators))
    if len(wrong):
        raise InputError(f"{given[wrong[0]]} votes in row {int(wrong[0])}", f"0 to {annotators}")
    return (np.arange(annotators) < given[:, None]).astype(np.int64)


def _bins(scheme: object, annotators: int, n_classes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the majorities at which a bin begins, but for the first, and the bins' names from ambiguous to clear."""
    least = -(-annotators // n_classes)
    if annotators % n_classes == 0 and n_classes > 1:
        least += 1 if n_classes == 2 else 0
    if scheme == "clear-ambiguous":
        return np.array([(least + annotators) // 2 + 1]), ("ambiguous", "clear")
    if scheme == "every":
        edges = np.arange(least + 1, annotators + 1)
        return edges, tuple(f"{size} of {annotators}" for size in range(least, annotators + 1))
    if isinstance(scheme, tuple) and all(isinstance(edge, int) and not isinstance(edge, bool) for edge in scheme):
        edges = np.array(scheme, dtype=np.int64)
        if len(edges) and np.all(np.diff(edges) > 0) and least < edges[0] and edges[-1] <= annotators:
            starts = [least, *scheme]
            ends = [edge - 1 for edge in scheme] + [annotators]
            return edges, tuple(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))
    accepted = f"clear-ambiguous, every, or rising whole numbers from {least + 1} to {annotators}"
    raise InputError(f"the scheme is {scheme!r}", accepted)
