"""A few images per class, chosen or distilled, by the name of the method: what buffers and proxies are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from sextet_common.data import ImageSet
from sextet_common.errors import InputError

from attention_matching.distill import DistillConfig, Distiller, result_path
from attention_matching.distilled import DistilledSet
from attention_matching.select import select

Method = Literal["random", "k-centre", "herding", "dm", "datadam", "atom"]
METHODS: tuple[Method, ...] = get_args(Method)
DISTILLED: tuple[Method, ...] = ("dm", "datadam", "atom")


def small_set(
    method: Method,
    data: ImageSet,
    ipc: int,
    seed: int = 0,
    distill: DistillConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> DistilledSet:
    """Choose or distill a few images of every class.

    Parameters
    ----------
    method
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
        The run folder of a distillation, which is gone on with or, where it is finished,
        read. Real images are chosen anew: that takes no time.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class.

    Raises
    ------
    InputError
        Where the method is unknown, a class has fewer images, or the folder holds something else.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(small_set("random", load("digits"), ipc=3))
    30
    """
    check_methods([method])
    if method not in DISTILLED:
        return select(method, data, ipc, seed)
    if out is not None and result_path(out).exists():
        return DistilledSet.load(result_path(out))
    config = dataclasses.replace(distill or DistillConfig(), method=method, ipc=ipc, seed=seed)
    return Distiller(config).fit(data, out)


def check_methods(methods: Sequence[str]) -> None:
    """Refuse methods that are unknown, named twice, or none at all.

    Parameters
    ----------
    methods
        The names.

    Raises
    ------
    InputError
        Naming the first of them that cannot be used.

    Examples
    --------
    >>> check_methods(["random", "magic"])
    Traceback (most recent call last):
    sextet_common.errors.InputError: method 'magic' is unknown; expected: random, k-centre, herding, dm, datadam, atom
    """
    if not methods:
        raise InputError("no method is given", "one or more of " + ", ".join(METHODS))
    for number, method in enumerate(methods):
        if method not in METHODS:
            raise InputError(f"method {method!r} is unknown", ", ".join(METHODS))
        if method in methods[:number]:
            raise InputError(f"method {method!r} is given twice", "every method once")


def data_sha256(data: ImageSet) -> str:
    """Return a fingerprint of training and test images: what a run folder knows its data by.

    Parameters
    ----------
    data
        The images.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> len(data_sha256(load("digits")))
    64
    """
    content = hashlib.sha256()
    for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
