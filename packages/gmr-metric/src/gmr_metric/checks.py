"""Checks of arrays; those of numbers and choices are in `sextet_common.checks`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sextet_common.errors import InputError
from sextet_common.seeding import generator

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


def same_dim(first: int, second: int) -> None:
    """Refuse two mixtures of different dimensions."""
    if first != second:
        raise InputError(f"mixtures must have the same number of dimensions, got {first} and {second} dimensions")
