"""Checks of arrays; those of numbers and choices are in `sextet_common.checks`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sextet_common.errors import InputError

_SYMMETRY = 1e-8  # largest asymmetry of a matrix, relative to its largest entry


def as_floats(name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a new, finite, read-only float64 array of a shape, in which None stands for any length."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must be an array of numbers: {error}") from error
    if array.ndim != len(shape) or any(n not in (None, size) for n, size in zip(shape, array.shape, strict=True)):
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


def same_dim(first: int, second: int) -> None:
    """Refuse two mixtures of different dimensions."""
    if first != second:
        raise InputError(f"mixtures must have the same number of dimensions, got {first} and {second} dimensions")
