"""Checks of arrays at the door: the errors name the array and the place."""

from __future__ import annotations

from typing import Any

import numpy as np
from sextet_common.errors import InputError


def as_floats(name: str, values: Any, ndim: int) -> np.ndarray:
    """Return a fresh, finite float64 array of so many dimensions, or refuse the values by their name (a plural)."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are no numbers: {error}", f"an array of {ndim} dimensions") from error
    if array.ndim != ndim:
        raise InputError(f"{name} have shape {array.shape}", f"an array of {ndim} dimensions")
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{name}[{', '.join(map(str, place))}] is {array[place]}", "finite numbers")
    return array


def symmetric(covariances: np.ndarray, tolerance: float) -> np.ndarray:
    """Return covariances made exactly symmetric; their asymmetry is at most so much of their largest entry."""
    mirrored = np.swapaxes(covariances, 1, 2)
    asymmetry = np.abs(covariances - mirrored).max(axis=(1, 2))
    wrong = np.flatnonzero(asymmetry > tolerance * np.abs(covariances).max(axis=(1, 2)))
    if wrong.size:
        raise InputError(
            f"covariance {wrong[0]} is not symmetric: entries differ by {asymmetry[wrong[0]]:g}", "symmetric matrices"
        )
    return np.asarray((covariances + mirrored) / 2)
