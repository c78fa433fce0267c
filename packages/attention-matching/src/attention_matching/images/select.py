"""Real images chosen as a distilled set: the initial images of a distillation, and its baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from sextet_common import data as image_data, seeding
from sextet_common.checks import Count, Natural, check
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.images.coreset import FeatureFunction, farthest_first, nearest_mean
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.kinds import Selection

Ipc: TypeAlias = int | Sequence[int]
"""Images of every class: one number, or a number for each class, which may be 0."""

_BATCH = 256  # images that pass through a network at once


def select(
    method: Selection,
    data: image_data.Source,
    ipc: Ipc,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
    *,
    features: FeatureFunction | None = None,
) -> DistilledSet:
    """Choose ``ipc`` training images of every class by :func:`random_real`, :func:`k_centre` or :func:`herding`.

    ``ipc`` is one number, or a number for every class, such as those of :func:`proportional_counts`. By default
    ``preprocessing`` is the training images' mean and std. ``seed`` is used by a random choice only, ``features`` (see
    :func:`k_centre`) by the others.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> select("herding", load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    check("method", method, Selection)
    if method == "random":
        return random_real(data, ipc, seed, preprocessing)
    choose = k_centre if method == "k-centre" else herding
    return choose(data, ipc, preprocessing, features=features)


def random_real(
    data: image_data.Source, ipc: Ipc, seed: int = 0, preprocessing: Preprocessing | None = None
) -> DistilledSet:
    """Choose ``ipc`` random training images of every class, or a number for each, without replacement.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> random_real(load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    data = image_data.load(data)
    chosen = [
        seeding.generator(seed, "random real", label).choice(members, count, replace=False)
        for label, (members, count) in enumerate(check_members(data, ipc))
    ]
    meta: dict[str, object] = {"method": "random real", "ipc": _plain(ipc), "seed": seed}
    return subset(data, np.concatenate(chosen), meta, preprocessing)


def k_centre(
    data: image_data.Source,
    ipc: Ipc,
    preprocessing: Preprocessing | None = None,
    *,
    features: FeatureFunction | None = None,
) -> DistilledSet:
    """Choose training images of every class that leave no image far from a chosen one.

    Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach" (arXiv 1708.00489),
    algorithm 1; see :func:`~attention_matching.images.coreset.farthest_first`. Images are compared by ``features``, a
    function from inputs (batch, channels, height, width) to (batch, size). The papers use a trained network, see
    :func:`~attention_matching.evaluation.features.trained_features`; by default we compare the inputs themselves.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> k_centre(load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return _chosen_by(farthest_first, "k-centre", data, ipc, preprocessing, features)


def herding(
    data: image_data.Source,
    ipc: Ipc,
    preprocessing: Preprocessing | None = None,
    *,
    features: FeatureFunction | None = None,
) -> DistilledSet:
    """Choose training images of every class whose mean is near the class's mean.

    Welling, "Herding dynamical weights to learn" (ICML 2009); as Rebuffi et al., "iCaRL" (arXiv 1611.07725), algorithm
    4, without its normalisation of the features. See :func:`~attention_matching.images.coreset.nearest_mean`;
    parameters are those of :func:`k_centre`.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> herding(load("digits"), ipc=2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return _chosen_by(nearest_mean, "herding", data, ipc, preprocessing, features)


def whole_set(data: image_data.Source, preprocessing: Preprocessing | None = None) -> DistilledSet:
    """Return all training images, in their order, as floats in memory: the upper bound of a distilled set.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(whole_set(load("digits")))
    1437
    """
    data = image_data.load(data)
    return subset(data, np.arange(len(data.train_labels)), {"method": "whole set"}, preprocessing)


def class_members(data: ImageSet) -> list[np.ndarray]:
    """Return the indices of every class's training images."""
    return [np.flatnonzero(data.train_labels == label) for label in range(data.n_classes)]


def subset(
    data: ImageSet, index: np.ndarray, meta: dict[str, object], preprocessing: Preprocessing | None = None
) -> DistilledSet:
    """Return the training images of these indices as a distilled set; the data's source is added to ``meta``."""
    preprocessing = preprocessing or Preprocessing.fit(data)
    return DistilledSet(
        images=preprocessing(image_data.take(data.train_images, index)),
        labels=torch.tensor(data.train_labels[index]),
        classes=data.classes,
        preprocessing=preprocessing,
        meta={**meta, "data": data.source},
    )


def proportional_counts(data: image_data.Source, total: int) -> tuple[int, ...]:
    """Divide a number of images among the classes as the training images are, at least one to each.

    Largest remainders decide about the last ones, the first of equal ones. Not in the papers, whose classes are equal.

    Examples
    --------
    >>> pixels, labels = np.zeros((10, 8, 8), dtype=np.uint8), np.array([0] * 7 + [1] * 2 + [2])
    >>> proportional_counts(ImageSet.of(pixels, labels, pixels, labels), 5)
    (3, 1, 1)
    """
    data = image_data.load(data)
    sizes = np.bincount(data.train_labels, minlength=data.n_classes)
    if not data.n_classes <= total <= sizes.sum():
        raise InputError(f"a total of {total} images", f"{data.n_classes} to {sizes.sum()}: at least one of each class")
    counts = np.ones_like(sizes)
    for _ in range(total - data.n_classes):
        counts[np.argmax(sizes * (total / sizes.sum()) - counts)] += 1
    return tuple(counts.tolist())


def check_members(data: ImageSet, ipc: Ipc) -> list[tuple[np.ndarray, int]]:
    """Return every class's members and how many of them to choose; each class must have as many."""
    if isinstance(ipc, Sequence):
        for count in ipc:
            check("ipc", count, Natural)
        if len(ipc) != data.n_classes or not any(ipc):
            raise InputError(f"ipc has {len(ipc)} numbers, of sum {sum(ipc)}", f"{data.n_classes}, not all 0")
    else:
        check("ipc", ipc, Count)
    counts = list(ipc) if isinstance(ipc, Sequence) else [ipc] * data.n_classes
    members = class_members(data)
    for name, numbers, count in zip(data.classes, members, counts, strict=True):
        if len(numbers) < count:
            raise InputError(
                f"every class must have at least ipc = {count} images, got {len(numbers)} of class {name!r}"
            )
    return list(zip(members, counts, strict=True))


def _plain(ipc: Ipc) -> int | list[int]:
    return list(ipc) if isinstance(ipc, Sequence) else ipc


def _chosen_by(
    choose: Callable[[Tensor, int], list[int]],
    method: str,
    data: image_data.Source,
    ipc: Ipc,
    preprocessing: Preprocessing | None,
    features: FeatureFunction | None,
) -> DistilledSet:
    data = image_data.load(data)
    preprocessing = preprocessing or Preprocessing.fit(data)
    chosen = []
    with torch.no_grad():
        for members, count in check_members(data, ipc):  # one class in memory at a time
            if not count:
                continue
            inputs = RealInputs(data.train_images, preprocessing, members)
            points = inputs[:].flatten(1) if features is None else _embedded(inputs, features)
            chosen.append(members[choose(points, count)])
    return subset(data, np.concatenate(chosen), {"method": method, "ipc": _plain(ipc)}, preprocessing)


def _embedded(inputs: RealInputs, features: FeatureFunction) -> Tensor:
    """Return the features of all images, in single precision on the CPU."""
    points = torch.cat([features(part).flatten(1).float().cpu() for part in inputs.split(_BATCH)])
    if len(points) != len(inputs):
        raise InputError(f"features must return one row per image, got {len(points)} rows for {len(inputs)} images")
    if not bool(points.isfinite().all()):
        raise InputError("features must return finite numbers, got NaN or infinity")
    return points
