"""Checks of arrays; those of numbers and choices are in `sextet_common.checks`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sextet_common.errors import InputError
from sextet_common.seeding import generator

WEIGHT_TOLERANCE = 1e-8  # largest deviation of the weights' sum from one
_SINGLE_TOLERANCE = 1e-5  # the same of weights given in single or half precision
_SYMMETRY = 1e-8  # largest asymmetry of a matrix, relative to its largest entry


def as_floats(name: str, values: Any, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
    """Return a finite, read-only float64 array of a shape, in which None stands for any length.

    It is a copy, unless the values are such an array already.
    """
    if (
        isinstance(values, np.ndarray)
        and values.dtype == np.float64
        and not values.flags.writeable
        and values.base is None
    ):
        array = values
    else:
        try:
            array = np.array(values, dtype=np.float64, order="C")
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{name} must be an array of numbers: {error}") from error
    if shape is not None and (
        array.ndim != len(shape) or any(n not in (None, size) for n, size in zip(shape, array.shape, strict=True))
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name} must have shape ({sizes}{',' * (len(shape) == 1)}), got {array.shape}")
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{name}[{', '.join(map(str, place))}] must be finite, got {array[place]}")
    array.setflags(write=False)
    return array


def symmetric(name: str, matrices: np.ndarray) -> np.ndarray:
    """Return matrices (n, d, d) made exactly symmetric; refuse those that are far from it."""
    mirrored = np.swapaxes(matrices, 1, 2)
    asymmetry = np.abs(matrices - mirrored).max(axis=(1, 2))
    wrong = np.flatnonzero(asymmetry > _SYMMETRY * np.abs(matrices).max(axis=(1, 2)))
    if wrong.size:
        raise InputError(f"{name} {wrong[0]} must be symmetric, but entries differ by {asymmetry[wrong[0]]:g}")
    mean: np.ndarray = (matrices + mirrored) / 2
    if not np.isfinite(mean).all():
        raise InputError(f"{name} entries must not overflow when doubled, got {np.abs(matrices).max():g}")
    return mean


def drawing(
    seed: int | np.random.Generator,
    random_state: int | np.random.Generator | np.random.RandomState | None,
    purpose: str,
) -> np.random.Generator:
    """Return a generator of random numbers: of a seed, one stream per purpose, or the one given.

    ``random_state`` is scikit-learn's name; if it is not None it replaces the seed.
    """
    chosen = seed if random_state is None else random_state
    if isinstance(chosen, np.random.RandomState):
        return np.random.default_rng(chosen.randint(2**31, size=4))
    return chosen if isinstance(chosen, np.random.Generator) else generator(chosen, purpose)


def summing_to_one(weights: np.ndarray, *, normalize: bool, single: bool) -> np.ndarray:
    """Return weights, given in single precision or not, that are at least 0 and sum to one."""
    tolerance = _SINGLE_TOLERANCE if single else WEIGHT_TOLERANCE
    negative = np.flatnonzero(weights < 0)
    if negative.size:
        raise InputError(f"weight {negative[0]} must be >= 0, got {weights[negative[0]]:g}")
    try:
        total = math.fsum(weights)
    except OverflowError:
        total = math.inf
    if (normalize and 0 < total < math.inf) or WEIGHT_TOLERANCE < abs(total - 1) <= tolerance:
        return weights / total
    if abs(total - 1) > tolerance:
        raise InputError(f"weights sum to {total:.12g}", f"1 within {tolerance:g}, or normalize=True")
    return weights


def dimensions(dims: Sequence[int], dim: int) -> np.ndarray:
    """Return some of a mixture's dimensions as an array."""
    chosen = np.asarray(dims)
    if (
        chosen.ndim != 1
        or chosen.dtype.kind not in "iu"
        or not chosen.size
        or len(set(chosen.tolist())) < chosen.size
        or np.any((chosen < 0) | (chosen >= dim))
    ):
        raise InputError(f"dims are {list(np.ravel(chosen))}", f"different whole numbers from 0 to {dim - 1}")
    return chosen
