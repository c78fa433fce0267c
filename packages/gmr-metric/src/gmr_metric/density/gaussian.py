"""Gaussian densities in log space: the one place with the formula in NumPy.

``log N(e; 0, P) = -(e^T P^-1 e + log |P| + d log 2 pi) / 2``. Covariances have shape (..., d, d), (..., d) for diagonal
ones or (...) for multiples of the identity; their factors have the same shape. *Packed* covariances (T, ...) hold one
entry of many contiguously: T is d (d + 1) / 2 for lower triangles, row after row, d for variances, and 1 for one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

LOG_2PI = math.log(2 * math.pi)
_FEW = 12  # dimensions up to which factors and solutions entry by entry are faster than one LAPACK call per matrix
_PIVOTS = 4  # factors multiplied before a logarithm is taken: more could leave the range of floats


def log_gaussian(offsets: Float[np.ndarray, "... dim"], covariances: Float[np.ndarray, "leading ..."]) -> np.ndarray:
    """Log density of centred Gaussians at offsets, with as many leading axes as the covariances; these broadcast.

    A covariance that is not positive definite raises `numpy.linalg.LinAlgError`.
    """
    d = offsets.shape[-1]
    if covariances.ndim <= offsets.ndim or d == 1:
        variances = covariances.reshape(*covariances.shape[: offsets.ndim - 1], -1)
        if not (variances > 0).all():
            raise np.linalg.LinAlgError("a variance is not positive")
        if d == 1:
            squared, log_determinant = offsets[..., 0] ** 2 / variances[..., 0], np.log(variances[..., 0])
        else:
            squared = (offsets**2 / variances).sum(axis=-1)
            log_determinant = np.log(variances).sum(axis=-1) * (d // variances.shape[-1])
        logs: np.ndarray = -0.5 * (d * LOG_2PI + squared + log_determinant)
        return logs
    return log_gaussian_from_factors(offsets, np.linalg.cholesky(covariances))


def log_gaussian_from_factors(
    offsets: Float[np.ndarray, "... dim"], factors: Float[np.ndarray, "leading ..."]
) -> np.ndarray:
    """Log density as in :func:`log_gaussian`, from the covariances' Cholesky factors or standard deviations."""
    d = offsets.shape[-1]
    if factors.ndim <= offsets.ndim:
        return log_gaussian(offsets, factors**2)
    half_log_determinant = np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)
    if d > _FEW:
        white = np.moveaxis(np.matmul(np.linalg.inv(factors), offsets[..., None])[..., 0], -1, 0)
    else:
        white = _solved(factors, np.moveaxis(offsets, -1, 0))
    squared = sum((row**2 for row in white), start=np.zeros(()))
    logs: np.ndarray = -0.5 * (d * LOG_2PI + squared) - half_log_determinant
    return logs


def log_packed(offsets: Float[np.ndarray, "dim ..."], packed: Float[np.ndarray, "entries ..."]) -> np.ndarray:
    """Log density of centred Gaussians of packed covariances at offsets (d, ...); trailing axes broadcast."""
    d = len(offsets)
    if len(packed) in (1, d):
        squares = offsets * offsets
        squared = _total(squares) / packed[0] if len(packed) == 1 else _total(squares / packed)
        of_variances: np.ndarray = -0.5 * (squared + packed_log_determinants(packed, d) + d * LOG_2PI)
        return of_variances
    if d > _FEW:
        return _log_by_lapack(offsets, packed)
    rows, inverses, log_determinant = _packed_factors(packed, d)
    white: list[np.ndarray] = []
    squared = np.zeros(np.broadcast_shapes(offsets.shape[1:], packed.shape[1:]))
    for r, row in enumerate(rows):
        entry = offsets[r]
        for k in range(r):
            entry = entry - row[k] * white[k]
        white.append(entry)
        squared += entry * entry * inverses[r]
    logs: np.ndarray = -0.5 * (squared + log_determinant + d * LOG_2PI)
    return logs


def _total(rows: np.ndarray) -> np.ndarray:
    """Sum over the first axis, row by row even for one column, so that rounding does not depend on the columns."""
    total: np.ndarray = rows.sum(axis=0) if rows[0].size > 1 else np.add.accumulate(rows)[-1]
    return total


def _log_by_lapack(offsets: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Log density of packed full covariances: L^-1 e is the last row of the factor of [[S, e], [e^T, large]]."""
    d = len(offsets)
    rows, columns = lower(d)
    bordered = np.zeros((*np.broadcast_shapes(offsets.shape[1:], packed.shape[1:]), d + 1, d + 1))
    bordered[..., rows, columns] = np.moveaxis(packed, 0, -1)  # LAPACK reads the lower half alone
    bordered[..., d, :d], bordered[..., d, d] = np.moveaxis(offsets, 0, -1), np.finfo(float).max
    factors = np.linalg.cholesky(bordered)
    white, pivots = factors[..., d, :d], np.diagonal(factors, axis1=-2, axis2=-1)[..., :d]
    squared = np.einsum("...i,...i->...", white, white)
    logs: np.ndarray = -0.5 * (squared + d * LOG_2PI) - np.log(pivots).sum(axis=-1)
    return logs


def log_self_kernels(log_determinants: np.ndarray, dim: int) -> np.ndarray:
    """Log inner products of Gaussians with themselves: ``log N(0; 0, 2 P)`` from ``log |P|``."""
    logs: np.ndarray = -0.5 * (dim * math.log(4 * math.pi) + log_determinants)
    return logs


def log_determinants(covariances: Float[np.ndarray, "n ..."], dim: int) -> Float[np.ndarray, " n"]:
    """Log determinants of positive definite covariances."""
    if covariances.ndim == 3:
        factors = np.linalg.cholesky(covariances)
        logs: np.ndarray = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        return logs
    return packed_log_determinants(packed_covariances(covariances), dim)


def packed_log_determinants(packed: Float[np.ndarray, "entries ..."], dim: int) -> np.ndarray:
    """Log determinants of packed positive definite covariances."""
    if len(packed) == 1:
        of_one: np.ndarray = dim * np.log(packed[0])
        return of_one
    if len(packed) == dim:
        of_variances: np.ndarray = _total(np.log(np.multiply.reduceat(packed, np.arange(0, dim, _PIVOTS))))
        return of_variances
    if dim <= _FEW:
        return _packed_factors(packed, dim)[2]
    logs: np.ndarray = np.linalg.slogdet(full(packed, dim))[1]
    return logs


def packed_outer(offsets: Float[np.ndarray, "dim ..."], n_packed: int) -> Float[np.ndarray, "entries ..."]:
    """Return the packed products ``e e^T``, projected to their diagonal or, for spheres, to its mean."""
    d = len(offsets)
    if n_packed == d:
        return offsets**2
    if n_packed == 1:
        mean: np.ndarray = _total(offsets**2)[None] / d
        return mean
    rows, columns = lower(d)
    products: np.ndarray = offsets[rows] * offsets[columns]
    return products


def packed_radii(packed: Float[np.ndarray, "entries n"], dim: int) -> Float[np.ndarray, " n"]:
    """Return the largest eigenvalues of packed covariances."""
    radii = packed.max(axis=0) if len(packed) in (1, dim) else np.linalg.eigvalsh(full(packed, dim))[:, -1].copy()
    return radii  # contiguous, so that numba compiles once


def packed_covariances(covariances: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "entries n"]:
    """Return covariances packed: a new array."""
    if covariances.ndim == 1:
        return covariances[None].copy()
    if covariances.ndim == 3:
        rows, columns = lower(covariances.shape[1])
        covariances = covariances[:, rows, columns]
    return np.array(covariances.T, order="C")


def unpacked(packed: Float[np.ndarray, "entries n"], dim: int) -> Float[np.ndarray, "n ..."]:
    """Return packed covariances in the shape of a mixture's of the same type; in one dimension matrices."""
    if dim == 1 or len(packed) not in (1, dim):
        return full(packed, dim)
    variances: np.ndarray = packed[0].copy() if len(packed) == 1 else np.ascontiguousarray(packed.T)
    return variances


def full(packed: Float[np.ndarray, "entries ..."], dim: int) -> Float[np.ndarray, "... dim dim"]:
    """Return packed covariances of any type as matrices."""
    if len(packed) in (1, dim):
        scaled: np.ndarray = np.moveaxis(packed, 0, -1)[..., None] * np.eye(dim)
        return scaled
    rows, columns = lower(dim)
    matrices = np.empty((*packed.shape[1:], dim, dim))
    matrices[..., rows, columns] = matrices[..., columns, rows] = np.moveaxis(packed, 0, -1)
    return matrices


@lru_cache(maxsize=64)
def lower(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the packed entries of a matrix."""
    indices = np.tril_indices(dim)
    for part in indices:
        part.setflags(write=False)
    return indices


def _solved(factors: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """Return the rows of L^-1 e by forward substitution, for factors L (..., d, d) and offsets e (d, ...)."""
    white: list[np.ndarray] = []
    for row, offset in enumerate(offsets):
        known = sum((factors[..., row, k] * white[k] for k in range(row)), start=np.zeros(()))
        white.append((offset - known) / factors[..., row, row])
    return white


def _packed_factors(packed: np.ndarray, dim: int) -> tuple[list[list[np.ndarray]], list[np.ndarray], np.ndarray]:
    """Return the rows of L below the diagonal and the inverses of D, for matrices L D L^T, and log determinants."""
    rows: list[list[np.ndarray]] = []
    inverses: list[np.ndarray] = []
    log_determinant, product = np.zeros(()), np.ones(())
    at = 0
    for r in range(dim):
        scaled: list[np.ndarray] = []
        row: list[np.ndarray] = []
        for c in range(r):
            entry = packed[at + c]
            for k in range(c):
                entry = entry - scaled[k] * rows[c][k]
            scaled.append(entry)
            row.append(entry * inverses[c])
        pivot = packed[at + r]
        for k in range(r):
            pivot = pivot - scaled[k] * row[k]
        product = product * pivot
        if r % _PIVOTS == _PIVOTS - 1 or r == dim - 1:
            log_determinant = log_determinant + np.log(product)
            product = np.ones(())
        rows.append(row)
        inverses.append(1 / pivot)
        at += r + 1
    return rows, inverses, log_determinant
