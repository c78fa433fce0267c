"""Small sets by name of the method, selected or distilled: the contents of buffers and proxies."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Integer
from sextet_common import data as image_data
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import select
from attention_matching.kinds import Source

SOURCES: tuple[Source, ...] = get_args(Source)


def small_set(
    source: Source,
    data: image_data.Source,
    ipc: int,
    seed: int = 0,
    distill: DistillConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> DistilledSet:
    """Select or distill ``ipc`` images of every class, class after class; ``meta["seconds"]`` is the time it took.

    ``random``, ``k-centre`` and ``herding`` select real images; ``dm``, ``datadam`` and ``atom`` distill. The arguments
    replace method, ipc and seed of ``distill``. ``out`` is the run folder of a distillation. The default preprocessing
    is the distillation's own, and for real images each channel standardised.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(small_set("random", load("digits"), ipc=3))
    30
    """
    check_sources([source])
    data = image_data.load(data)
    began = time.perf_counter()
    if source == "random" or source == "k-centre" or source == "herding":
        small = select(source, data, ipc, seed, preprocessing)
        seconds = time.perf_counter() - began
    else:
        config = dataclasses.replace(distill or DistillConfig(), method=source, ipc=ipc, seed=seed)
        small = Distiller(config).fit(data, out)
        seconds = time.perf_counter() - began if out is None else _logged_seconds(Run.read(out))
        if preprocessing is not None:
            inputs = preprocessing(small.preprocessing.invert(small.images))
            small = dataclasses.replace(small, images=inputs, preprocessing=preprocessing)
    return dataclasses.replace(small, meta={**small.meta, "seconds": round(seconds, 3)})


def small_sets(
    sources: Sequence[Source],
    data: image_data.Source,
    ipc: int,
    seed: int = 0,
    distill: DistillConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> dict[str, DistilledSet]:
    """Make several small sets by source, all in the preprocessing of the distillation.

    The other parameters are those of :func:`small_set`; ``out`` has a run folder per distillation.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> {name: len(some) for name, some in small_sets(["random", "herding"], load("digits"), ipc=1).items()}
    {'random': 10, 'herding': 10}
    """
    check_sources(sources)
    data = image_data.load(data)
    whitening = (distill or DistillConfig()).resolved(data).whitening
    preprocessing = Preprocessing.fit(data, whitening or "none")
    return {
        source: small_set(source, data, ipc, seed, distill, None if out is None else Path(out) / source, preprocessing)
        for source in sources
    }


def check_sources(sources: Sequence[str]) -> None:
    """Refuse sources that are unknown or repeated, and an empty list.

    Examples
    --------
    >>> check_sources(["random", "magic"])
    Traceback (most recent call last):
    sextet_common.errors.InputError: 'magic' images are unknown; expected: random, k-centre, herding, dm, datadam, atom
    """
    if not sources:
        raise InputError("no images are requested", "one or more of " + ", ".join(SOURCES))
    for number, source in enumerate(sources):
        if source not in SOURCES:
            raise InputError(f"{source!r} images are unknown", ", ".join(SOURCES))
        if source in sources[:number]:
            raise InputError(f"{source!r} images are requested twice", "each once")


def only_classes(data: ImageSet, chosen: Sequence[int]) -> ImageSet:
    """Return the images of some classes, which become the classes 0, 1, ... in the order given.

    The statistics are those of the training images that remain.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> few = only_classes(load("digits"), [7, 3])
    >>> few.classes, few.n_classes, len(few.test_images)
    (('7', '3'), 2, 73)
    """
    names = tuple(data.classes[label] for label in chosen)
    train, train_labels = members_of(chosen, data.train_labels)
    test, test_labels = members_of(chosen, data.test_labels)
    return ImageSet.of(
        image_data.take(data.train_images, train),
        train_labels,
        image_data.take(data.test_images, test),
        test_labels,
        names,
        source=f"{data.source}, classes {', '.join(names)}",
    )


def members_of(
    chosen: Sequence[int], labels: Integer[np.ndarray, " n"]
) -> tuple[Integer[np.ndarray, " members"], Integer[np.ndarray, " members"]]:
    """Return the rows of the images of some classes, and their labels renumbered 0, 1, ... in the order given.

    Examples
    --------
    >>> members_of([2, 0], np.array([0, 1, 2, 0]))
    (array([0, 2, 3]), array([1, 0, 1]))
    """
    number = np.full(max([*chosen, labels.max(initial=0)]) + 1, -1)
    number[list(chosen)] = np.arange(len(chosen))
    rows = np.flatnonzero(number[labels] >= 0)
    return rows, number[labels[rows]]


def _logged_seconds(run: Run) -> float:
    """Return the duration of a distillation, whose clock restarts whenever it resumes."""
    rows = run.metrics()
    with reading(run.path, "a distillation run folder", KeyError, TypeError):
        clock = [0.0, *(float(row["seconds"]) for row in rows)]
    return sum(now - before if now >= before else now for before, now in itertools.pairwise(clock))
