"""Real images chosen as a distilled set: where a distillation starts, and what it is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from sextet_common import seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.images.coreset import FeatureFunction, farthest_first, nearest_mean
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing

Selection = Literal["random", "k-centre", "herding"]

_BATCH = 256  # images through a network at a time


def select(
    method: Selection,
    data: ImageSet,
    ipc: int,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
    *,
    features: FeatureFunction | None = None,
) -> DistilledSet:
    """Choose training images of every class by the method's name.

    Parameters
    ----------
    method
        ``random`` (:func:`random_real`), ``k-centre`` (:func:`k_centre`) or ``herding`` (:func:`herding`).
    data
        The images.
    ipc
        Images per class, at least 1.
    seed
        Which random choice; k-centre and herding make no random choice.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.
    features
        See :func:`k_centre`; a random choice looks at no features.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class.

    Raises
    ------
    InputError
        Where the method is unknown, a class has fewer images, or ``ipc`` is below 1.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> select("herding", load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if method == "random":
        return random_real(data, ipc, seed, preprocessing)
    if method == "k-centre":
        return k_centre(data, ipc, preprocessing, features=features)
    if method == "herding":
        return herding(data, ipc, preprocessing, features=features)
    raise InputError(f"method is {method!r}", " or ".join(get_args(Selection)))


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
        From pixels to inputs; by default the training images' mean and std.

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
    chosen = [
        seeding.generator(seed, "random real", label).choice(members, ipc, replace=False)
        for label, members in enumerate(_enough(data, ipc))
    ]
    return subset(data, np.concatenate(chosen), {"method": "random real", "ipc": ipc, "seed": seed}, preprocessing)


def k_centre(
    data: ImageSet,
    ipc: int,
    preprocessing: Preprocessing | None = None,
    *,
    features: FeatureFunction | None = None,
) -> DistilledSet:
    """Choose training images of every class that leave no image far from a chosen one.

    See :func:`~attention_matching.images.coreset.farthest_first`.

    Parameters
    ----------
    data
        The images.
    ipc
        Images per class, at least 1.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.
    features
        What images are compared by: from inputs (batch, channels, height, width) to
        (batch, size). By default the inputs themselves, *ours*; the papers have a trained
        network's features, as
        :func:`~attention_matching.evaluation.features.trained_features` gives.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class, in the order of their choice.

    Raises
    ------
    InputError
        Where a class has fewer images, or ``ipc`` is below 1.

    References
    ----------
    Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach"
    (arXiv 1708.00489), algorithm 1.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> k_centre(load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return _chosen_by(farthest_first, "k-centre", data, ipc, preprocessing, features)


def herding(
    data: ImageSet,
    ipc: int,
    preprocessing: Preprocessing | None = None,
    *,
    features: FeatureFunction | None = None,
) -> DistilledSet:
    """Choose training images of every class whose mean is near the class's mean.

    See :func:`~attention_matching.images.coreset.nearest_mean`.

    Parameters
    ----------
    data
        The images.
    ipc
        Images per class, at least 1.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.
    features
        What images are compared by: see :func:`k_centre`.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class, in the order of their choice.

    Raises
    ------
    InputError
        Where a class has fewer images, or ``ipc`` is below 1.

    References
    ----------
    Welling, "Herding dynamical weights to learn" (ICML 2009); as Rebuffi et al., "iCaRL"
    (arXiv 1611.07725), algorithm 4, without its normalisation of the features.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> herding(load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return _chosen_by(nearest_mean, "herding", data, ipc, preprocessing, features)


def whole_set(data: ImageSet, preprocessing: Preprocessing | None = None) -> DistilledSet:
    """Take every training image: the accuracy that a distilled set is held against.

    Parameters
    ----------
    data
        The images.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.

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
    return subset(data, np.arange(len(data.train_labels)), {"method": "whole set"}, preprocessing)


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


def subset(
    data: ImageSet, index: np.ndarray, meta: dict[str, object], preprocessing: Preprocessing | None = None
) -> DistilledSet:
    """Make a distilled set of given training images.

    Parameters
    ----------
    data
        The images.
    index
        Numbers of training images, in the set's order.
    meta
        How they were chosen; the data's source is added.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.

    Returns
    -------
    DistilledSet
        The images, as a network's input.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> subset(load("digits"), np.array([3, 1]), {"method": "by hand"}).meta
    {'method': 'by hand', 'data': 'digits'}
    """
    preprocessing = preprocessing or Preprocessing.fit(data)
    return DistilledSet(
        images=preprocessing(data.train_images[index]),
        labels=torch.tensor(data.train_labels[index]),
        classes=data.classes,
        preprocessing=preprocessing,
        meta={**meta, "data": data.source},
    )


def _enough(data: ImageSet, ipc: int) -> list[np.ndarray]:
    """Return every class's members, where each class has as many images as are wanted."""
    if ipc < 1:
        raise InputError(f"ipc is {ipc}", "a whole number >= 1")
    members = class_members(data)
    for name, numbers in zip(data.classes, members, strict=True):
        if len(numbers) < ipc:
            raise InputError(f"class {name!r} has {len(numbers)} images", f"at least ipc = {ipc}")
    return members


def _chosen_by(
    choose: Callable[[Tensor, int], list[int]],
    method: str,
    data: ImageSet,
    ipc: int,
    preprocessing: Preprocessing | None,
    features: FeatureFunction | None,
) -> DistilledSet:
    preprocessing = preprocessing or Preprocessing.fit(data)
    chosen = []
    with torch.no_grad():
        for members in _enough(data, ipc):  # one class in memory at a time
            inputs = preprocessing(data.train_images[members])
            points = inputs.flatten(1) if features is None else _embedded(inputs, features)
            chosen.append(members[choose(points, ipc)])
    return subset(data, np.concatenate(chosen), {"method": method, "ipc": ipc}, preprocessing)


def _embedded(inputs: Tensor, features: FeatureFunction) -> Tensor:
    """Return the features of many images, in single precision on the CPU."""
    points = torch.cat([features(part).flatten(1).float().cpu() for part in inputs.split(_BATCH)])
    if len(points) != len(inputs) or not bool(points.isfinite().all()):
        what = "features that are not finite" if len(points) == len(inputs) else f"{len(points)} rows of features"
        raise InputError(f"{what} for {len(inputs)} images", "a row of finite numbers for each image")
    return points
