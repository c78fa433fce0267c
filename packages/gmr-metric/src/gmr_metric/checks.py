"""Checks at the door: the errors name the array and the place, or the option and what it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sextet_common.errors import InputError


def as_floats(name: str, values: Any, ndim: int) -> np.ndarray:
    """Return a fresh, finite float64 array of so many dimensions, or refuse the values by their name (a plural)."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
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
    mean = np.asarray((covariances + mirrored) / 2)
    if not np.isfinite(mean).all():
        raise InputError(f"covariances have entries of {np.abs(covariances).max():g}", "entries that can be doubled")
    return mean


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number, of Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def number(name: str, value: object, accepted: Callable[[Any], bool], expected: str) -> None:
    """Refuse what is no real number, or is not accepted, by its name."""
    if isinstance(value, bool) or not isinstance(value, Real) or not accepted(value):
        raise InputError(f"{name} is {value!r}" if isinstance(value, str) else f"{name} is {value}", expected)


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse what is none of some words, by its name and theirs."""
    words = tuple(choices)
    if not isinstance(value, str) or value not in words:
        raise InputError(f"{name} is {value!r}", ", ".join(words))
