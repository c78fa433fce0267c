"""Types of covariances, told apart by their number of axes: full (N, d, d), diag (N, d) and spherical (N,)."""

from __future__ import annotations

from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.checks import as_floats, symmetric

CovarianceType = Literal["full", "diag", "spherical"]
_AXES: dict[int, CovarianceType] = {1: "spherical", 2: "diag", 3: "full"}


class _Mixture(Protocol):
    @property
    def dim(self) -> int: ...
    @property
    def covariance_type(self) -> CovarianceType: ...
    def convert(self, covariance_type: CovarianceType) -> Self: ...


_M = TypeVar("_M", bound=_Mixture)


def covariance_type(covariances: np.ndarray) -> CovarianceType:
    """Return the type of covariances by their number of axes."""
    return _AXES[covariances.ndim]


def checked(covariances: Any, n: int, d: int) -> np.ndarray:
    """Return valid covariances of n components in d dimensions, read-only; matrices are made exactly symmetric."""
    array = as_floats("covariances", covariances)
    shapes = (n, d, d), (n, d), (n,)
    if array.shape not in shapes:
        raise InputError(
            f"shapes do not match: means ({n}, {d}), covariances {array.shape}",
            f"covariances of shape {', '.join(map(str, shapes[:2]))} or {shapes[2]}",
        )
    if array.ndim == 3:
        array = symmetric("covariance", array)
        array.setflags(write=False)
    elif not array.min() > 0:
        place = tuple(int(i) for i in np.argwhere(array <= 0)[0])
        raise InputError(f"variance {', '.join(map(str, place))} must be > 0, got {array[place]:g}")
    return array


def factors(covariances: np.ndarray) -> np.ndarray:
    """Return lower Cholesky factors or standard deviations; name the covariance that is not positive definite."""
    if covariances.ndim < 3:
        deviations: np.ndarray = np.sqrt(covariances)
        return deviations
    try:
        return np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        for number, covariance in enumerate(covariances):
            try:
                np.linalg.cholesky(covariance)
            except np.linalg.LinAlgError:
                smallest = np.linalg.eigvalsh(covariance)[0]
                raise InputError(
                    f"covariance {number} is not positive definite: its smallest eigenvalue is {smallest:g}",
                    "symmetric positive definite matrices",
                ) from None
        raise


def converted(covariances: np.ndarray, d: int, kind: CovarianceType) -> np.ndarray:
    """Return covariances of another type: exact upwards, downwards the variances or their mean."""
    variances = covariances
    if covariances.ndim == 3:
        variances = np.diagonal(covariances, axis1=1, axis2=2)
    elif covariances.ndim == 1:
        variances = np.broadcast_to(covariances[:, None], (len(covariances), d))
    if kind == "spherical":
        mean: np.ndarray = variances.mean(axis=1)
        return mean
    return variances[:, :, None] * np.eye(d) if kind == "full" else variances


def outer(offsets: np.ndarray, axes: int) -> np.ndarray:
    """Return ``e e^T`` of each offset (n, d), projected to the type of covariances with so many axes."""
    if axes == 3:
        products: np.ndarray = offsets[:, :, None] * offsets[:, None, :]
        return products
    squares = offsets**2
    return squares if axes == 2 else squares.mean(axis=1)


def traces(covariances: np.ndarray, d: int) -> np.ndarray:
    """Return the traces of covariances in d dimensions."""
    if covariances.ndim == 1:
        return d * covariances
    diagonals = covariances if covariances.ndim == 2 else np.diagonal(covariances, axis1=1, axis2=2)
    sums: np.ndarray = diagonals.sum(axis=1)
    return sums


def matching(f: _M, g: _M) -> _M:
    """Return g with f's type of covariances; refuse another number of dimensions or, except in one, another type."""
    if f.dim != g.dim:
        raise InputError(f"mixtures must have the same number of dimensions, got {f.dim} and {g.dim} dimensions")
    if f.covariance_type == g.covariance_type or f.dim == 1:
        return g.convert(f.covariance_type)
    both = f.covariance_type, g.covariance_type
    most = next(kind for kind in ("full", "diag") if kind in both)
    raise InputError(
        f"mixtures have covariances of type {both[0]} and {both[1]}", f"one type: convert one with .convert({most!r})"
    )
