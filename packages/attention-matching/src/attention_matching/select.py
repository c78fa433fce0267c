"""Real images chosen as a distilled set: where a distillation starts, and what it is measured against."""

from __future__ import annotations

import numpy as np
import torch
from sextet_common import seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError

from attention_matching.distilled import DistilledSet
from attention_matching.preprocess import Preprocessing


def random_real(data: ImageSet, ipc: int, seed: int = 0, preprocessing: Preprocessing | None = None) -> DistilledSet:
    """Choose random training images of every class, without replacement.

    Parameters
    ----------
    data
        The images.
    ipc
        Images per class, at least 1.
    seed
        Which choice.
    preprocessing
        How pixels become a network's input: each channel standardised where not given.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class.

    Raises
    ------
    InputError
        Where a class has fewer images, or ``ipc`` is below 1.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> random_real(load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if ipc < 1:
        raise InputError(f"ipc is {ipc}", "a whole number >= 1")
    chosen = []
    for label, members in enumerate(class_members(data)):
        if len(members) < ipc:
            raise InputError(f"class {data.classes[label]!r} has {len(members)} images", f"at least ipc = {ipc}")
        chosen.append(seeding.generator(seed, "random real", label).choice(members, ipc, replace=False))
    return _subset(data, np.concatenate(chosen), {"method": "random real", "ipc": ipc, "seed": seed}, preprocessing)


def whole_set(data: ImageSet, preprocessing: Preprocessing | None = None) -> DistilledSet:
    """Take every training image: the accuracy that a distilled set is held against.

    Parameters
    ----------
    data
        The images.
    preprocessing
        How pixels become a network's input: each channel standardised where not given.

    Returns
    -------
    DistilledSet
        All training images, in their order.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(whole_set(load("digits")))
    1437
    """
    return _subset(data, np.arange(len(data.train_labels)), {"method": "whole set"}, preprocessing)


def class_members(data: ImageSet) -> list[np.ndarray]:
    """Return the numbers of every class's training images.

    Parameters
    ----------
    data
        The images.

    Returns
    -------
    list of numpy.ndarray
        One array of indices per class.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(class_members(load("digits"))[0])
    142
    """
    return [np.flatnonzero(data.train_labels == label) for label in range(data.n_classes)]


def _subset(
    data: ImageSet, index: np.ndarray, meta: dict[str, object], preprocessing: Preprocessing | None
) -> DistilledSet:
    preprocessing = preprocessing or Preprocessing.fit(data)
    return DistilledSet(
        images=preprocessing(data.train_images[index]),
        labels=torch.tensor(data.train_labels[index]),
        classes=data.classes,
        preprocessing=preprocessing,
        meta={**meta, "data": data.source},
    )
