"""A few images per class, chosen or distilled, by the name of the method: what buffers and proxies are made of."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Integer
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import select

Source = Literal["random", "k-centre", "herding", "dm", "datadam", "atom"]
SOURCES: tuple[Source, ...] = get_args(Source)


def small_set(
    source: Source,
    data: ImageSet,
    ipc: int,
    seed: int = 0,
    distill: DistillConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> DistilledSet:
    """Choose or distill a few images of every class.

    Parameters
    ----------
    source
        ``random``, ``k-centre`` or ``herding`` choose real images; ``dm``, ``datadam`` and
        ``atom`` distill.
    data
        The images.
    ipc
        Images per class.
    seed
        The seed of all random numbers.
    distill
        How to distill; its method, ipc and seed are those given here.
    out
        The run folder of a distillation. Real images are chosen anew: that takes no time.
    preprocessing
        What the images come in: by default the distillation's own, and for real images each
        channel standardised.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class; ``meta["seconds"]`` is what it took.

    Raises
    ------
    InputError
        Where the source is unknown, a class has fewer images, or the folder holds something else.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(small_set("random", load("digits"), ipc=3))
    30
    """
    check_sources([source])
    began = time.perf_counter()
    if source == "random" or source == "k-centre" or source == "herding":
        made = select(source, data, ipc, seed, preprocessing)
        seconds = time.perf_counter() - began
    else:
        config = dataclasses.replace(distill or DistillConfig(), method=source, ipc=ipc, seed=seed)
        made = Distiller(config).fit(data, out)
        seconds = time.perf_counter() - began if out is None else _logged_seconds(Run.read(out))
        if preprocessing is not None:
            inputs = preprocessing(made.preprocessing.invert(made.images))
            made = dataclasses.replace(made, images=inputs, preprocessing=preprocessing)
    return dataclasses.replace(made, meta={**made.meta, "seconds": round(seconds, 3)})


def small_sets(
    sources: Sequence[Source],
    data: ImageSet,
    ipc: int,
    seed: int = 0,
    distill: DistillConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> dict[str, DistilledSet]:
    """Choose or distill a few images of every class in several ways, all in the distillation's preprocessing.

    Parameters
    ----------
    sources
        See :func:`small_set`.
    data, ipc, seed, distill
        See :func:`small_set`.
    out
        A folder for the distillations' run folders, each by the name of its source.

    Returns
    -------
    dict
        Source to images.

    Raises
    ------
    InputError
        See :func:`small_set`.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> {name: len(some) for name, some in small_sets(["random", "herding"], load("digits"), ipc=1).items()}
    {'random': 10, 'herding': 10}
    """
    check_sources(sources)
    whitening = (distill or DistillConfig()).resolved(data).whitening
    preprocessing = Preprocessing.fit(data, whitening or "none")
    return {
        source: small_set(source, data, ipc, seed, distill, None if out is None else Path(out) / source, preprocessing)
        for source in sources
    }


def check_sources(sources: Sequence[str]) -> None:
    """Refuse sources that are unknown, named twice, or none at all.

    Parameters
    ----------
    sources
        Their names.

    Raises
    ------
    InputError
        Naming the first of them that cannot be used.

    Examples
    --------
    >>> check_sources(["random", "magic"])
    Traceback (most recent call last):
    sextet_common.errors.InputError: 'magic' images are unknown; expected: random, k-centre, herding, dm, datadam, atom
    """
    if not sources:
        raise InputError("no images are asked for", "one or more of " + ", ".join(SOURCES))
    for number, source in enumerate(sources):
        if source not in SOURCES:
            raise InputError(f"{source!r} images are unknown", ", ".join(SOURCES))
        if source in sources[:number]:
            raise InputError(f"{source!r} images are asked for twice", "each once")


def only_classes(data: ImageSet, chosen: Sequence[int]) -> ImageSet:
    """Return the images of some classes, which become the classes 0, 1, ... in the order given.

    Parameters
    ----------
    data
        The images.
    chosen
        Class numbers, each once.

    Returns
    -------
    ImageSet
        Their training and test images; the statistics are those of these training images.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> few = only_classes(load("digits"), [7, 3])
    >>> few.classes, few.n_classes, len(few.test_images)
    (('7', '3'), 2, 73)
    """
    names = tuple(data.classes[label] for label in chosen)
    return ImageSet.of(
        *members_of(chosen, data.train_images, data.train_labels),
        *members_of(chosen, data.test_images, data.test_labels),
        names,
        source=f"{data.source}, classes {', '.join(names)}",
    )


def members_of(
    chosen: Sequence[int], images: Float[np.ndarray, "n channels height width"], labels: Integer[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Pick the images of some classes, which become the classes 0, 1, ... in the order given.

    Parameters
    ----------
    chosen
        Class numbers, each once.
    images
        Of all classes, shape (n, channels, height, width).
    labels
        Their class numbers, shape (n,).

    Returns
    -------
    tuple of numpy.ndarray
        The images and their new class numbers.

    Examples
    --------
    >>> members_of([2, 0], np.zeros((4, 1, 8, 8)), np.array([0, 1, 2, 0]))[1]
    array([1, 0, 1])
    """
    number = np.full(max([*chosen, labels.max(initial=0)]) + 1, -1)
    number[list(chosen)] = np.arange(len(chosen))
    here = number[labels] >= 0
    return images[here], number[labels[here]]


def _logged_seconds(run: Run) -> float:
    """Return how long a distillation took; its clock starts anew wherever it was gone on with."""
    with reading(run.path, "the folder of a distillation"):
        clock = [0.0, *(float(row["seconds"]) for row in run.metrics())]
    return sum(now - before if now >= before else now for before, now in itertools.pairwise(clock))
