"""Splits that keep the images of a group together, such as those of a patient, by scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Int, Integer, Shaped
from sextet_common.checks import Natural, check
from sextet_common.errors import InputError


def group_folds(
    labels: Integer[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"], folds: int, seed: int = 0
) -> Int[np.ndarray, " images"]:
    """Return the fold of every image, from 0: a group is in one fold, and folds have similar shares of every label.

    The folds are those of scikit-learn's ``StratifiedGroupKFold``.

    Examples
    --------
    >>> group_folds(np.array([0, 1, 0, 1]), np.array(["anna", "anna", "bert", "bert"]), 2).tolist()
    [1, 1, 0, 0]
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    y, names = np.asarray(labels), np.asarray(groups)
    if y.ndim != 1 or names.shape != y.shape or y.dtype.kind not in "iu":
        given = f"labels {y.dtype} {y.shape}, groups of shape {names.shape}"
        raise InputError(given, "whole numbers and groups, both of shape (images,)")
    check("seed", seed, Natural)
    count = len(np.unique(names))
    if not isinstance(folds, int) or not 2 <= folds <= count:
        raise InputError(f"{folds} folds of {count} groups", f"2 to {count} folds")
    most = int(np.unique(y, return_counts=True)[1].max())
    if folds > most:
        raise InputError(f"{folds} folds, but no label has more than {most} images", f"2 to {most} folds")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold_of = np.zeros(len(y), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # folds without a rare label
        for number, (_, held) in enumerate(splitter.split(np.zeros(len(y)), y, names)):
            fold_of[held] = number
    return fold_of


def hold_out_groups(
    labels: Integer[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"], share: float, source: str
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Return the rows to keep and the rows to hold out: whole groups, as close to a share of the images as folds allow.

    Every label keeps at least one image.
    """
    y, names = np.asarray(labels), np.asarray(groups)
    count, most = len(np.unique(names)), int(np.unique(y, return_counts=True)[1].max())
    if min(count, most) < 2:
        raise InputError(f"{source} has {count} groups, at most {most} images of a label", "at least two of each")
    folds = min(max(2, round(1 / share)), count, most)
    fold_of = group_folds(y, names, folds)
    sizes = np.bincount(fold_of, minlength=folds)
    complete = [fold for fold in np.flatnonzero(sizes) if np.array_equal(np.unique(y[fold_of != fold]), np.unique(y))]
    if not complete:
        given = f"{source}: no {folds}th of the groups can be held out so that every subclass keeps an image"
        raise InputError(given, "images of every subclass in at least two groups")
    held = fold_of == min(complete, key=lambda fold: abs(sizes[fold] - share * len(y)))
    return np.flatnonzero(~held), np.flatnonzero(held)
