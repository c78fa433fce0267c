"""Cross-validation: every image is in the test part of one fold, and the images of a patient stay together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sextet_common.checks import Natural, check
from sextet_common.errors import InputError

from subclass_kd.data import Part, SubclassSet
from subclass_kd.splits import group_folds


def folds(data: SubclassSet, count: int, seed: int = 0) -> Iterator[SubclassSet]:
    """Yield `count` sets, whose test parts together have every labelled image of the data once.

    Folds have similar shares of every subclass. Images with the same group, such as a patient, are in the same part;
    without groups each image stands alone. Unlabelled images are for training, unless their patient is in another part.
    Images in memory or memory-mapped are copied.

    Examples
    --------
    >>> from subclass_kd import load
    >>> [len(fold.test) for fold in folds(load("digits"), 3)]
    [599, 599, 599]
    """
    check("seed", seed, Natural)
    whole = _joined([data.train, data.validation, data.test])
    groups = np.arange(len(whole)) if whole.groups is None else whole.groups
    labelled = np.flatnonzero(whole.labels != -1)
    fold_of = group_folds(whole.labels[labelled], groups[labelled], count, seed)
    for fold in range(count):
        tested = labelled[fold_of == fold]
        rest = np.flatnonzero(~np.isin(groups, groups[tested]))
        source = f"{data.source}, fold {fold + 1} of {count}, seed {seed}"
        yield SubclassSet.with_held_out(
            whole.rows(rest), whole.rows(tested), data.hierarchy, data.input_shape, source, data.notes
        )


def chosen_fold(data: SubclassSet, number: str) -> SubclassSet:
    """Return the set of one fold, such as the second of five for ``2/5``."""
    which, _, count = number.partition("/")
    if not (which.isascii() and which.isdecimal() and count.isascii() and count.isdecimal()):
        raise InputError(f"fold {number!r}", "NUMBER/COUNT, such as 2/5")
    if not 1 <= int(which) <= int(count):
        raise InputError(f"fold {number!r}", f"a number from 1 to {int(count)}")
    return next(itertools.islice(folds(data, int(count)), int(which) - 1, None))


def _joined(parts: list[Part]) -> Part:
    """Return one part with the images of all; a column that one of them lacks is left out."""
    columns: dict[str, Any] = {}
    for name in ("difficulty", "groups", "weights"):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if any(value is None for value in values) else np.concatenate(values)
    if all(isinstance(part.images, tuple) for part in parts):
        images: Any = tuple(path for part in parts for path in part.images)
    else:
        images = np.concatenate([part._raw(np.arange(len(part))) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return replace(parts[0], images=images, labels=labels, index=None, **columns)
