"""Tables by which the derivatives of Gaussian kernels are sums of products of a few features.

A Gaussian kernel obeys the heat equation, so a derivative in the covariance is half of one of the second order in the
mean. With ``B = S^-1``, ``v = B e`` and ``W = v v^T - B``, all derivatives up to the second order in the parameters are
sums of products of two of the features 1, v, W and B.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gmr_metric.density.gaussian import lower


@lru_cache(maxsize=64)
def half(d: int, entries: int) -> np.ndarray:
    """Return the factors of the heat equation, one for each packed entry: those off the diagonal stand for two."""
    if entries < d * (d + 1) // 2:
        return np.full(entries, 0.5)
    rows, places = lower(d)
    return np.where(rows == places, 0.5, 1.0)


Products = dict[tuple[int, int], float]


class _Tables(NamedTuple):
    """How jets follow from products of features.

    ``groups`` hold distinct derivatives as sums of (factors, first, second features), in turn; ``place`` and
    ``factor``, shape (p, p), say which derivative, times what, is an entry of a jet.
    """

    groups: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]
    place: np.ndarray
    factor: np.ndarray


@lru_cache(maxsize=64)
def _tables(d: int, entries: int) -> _Tables:
    """Return the tables of a covariance type."""
    halves = np.concatenate([np.ones(1 + d), half(d, entries)])
    axes: list[tuple[int, ...]] = [(), *((a,) for a in range(d))]
    if entries == d * (d + 1) // 2:
        rows, places = lower(d)
        axes += zip(places.tolist(), rows.tolist(), strict=True)
    else:
        axes += [(a, a) for a in range(entries)] if entries == d else [(d, d)]
    place = np.zeros((len(axes), len(axes)), dtype=np.intp)
    found: dict[tuple[int, ...], int] = {}
    for i, first in enumerate(axes):
        for j, second in enumerate(axes[: i + 1]):
            place[i, j] = place[j, i] = found.setdefault(tuple(sorted(first + second)), len(found))
    sums = [_derivative(key, d, entries) for key in found]
    order = sorted(range(len(sums)), key=lambda at: len(sums[at]))
    renamed = np.argsort(order)
    groups = []
    for size in sorted({len(products) for products in sums}):
        members = [list(sums[at].items()) for at in order if len(sums[at]) == size]
        groups.append(
            [
                (
                    np.array([m[k][1] for m in members])[:, None],
                    np.array([m[k][0][0] for m in members]),
                    np.array([m[k][0][1] for m in members]),
                )
                for k in range(size)
            ]
        )
    return _Tables(groups, renamed[place], halves[:, None] * halves)


def _derivative(axes: tuple[int, ...], d: int, entries: int) -> Products:
    """Return a derivative of a kernel in its offset, over the kernel, as a sum of products of features.

    ``axes`` are sorted. For a spherical covariance the axis pair (d, d) stands for the Laplacian.
    """
    full_type = entries == d * (d + 1) // 2
    result: Products = {}

    def add(factor: float, first: int | None, second: int | None) -> None:
        if first is not None and second is not None:
            key = (min(first, second), max(first, second))
            result[key] = result.get(key, 0.0) + factor

    def packed(i: int, j: int) -> int | None:
        if full_type:
            return max(i, j) * (max(i, j) + 1) // 2 + min(i, j)
        return (i if entries == d else 0) if i == j else None

    def w(i: int, j: int) -> int | None:
        at = packed(i, j)
        return None if at is None else 1 + d + at

    def b(i: int, j: int) -> int | None:
        at = packed(i, j)
        return None if at is None else 1 + d + entries + at

    laplacian = axes.count(d)
    if len(axes) == 0:
        add(1, 0, 0)
    elif len(axes) == 1:
        add(-1, 0, 1 + axes[0])
    elif len(axes) == 2 and (full_type or (entries == d and axes[0] == axes[1]) or laplacian):
        add(1, 0, w(*axes))
    elif len(axes) == 2:
        add(1, 1 + axes[0], 1 + axes[1])
        add(-1, 0, b(*axes))
    elif len(axes) == 3:
        single, i, j = axes if full_type or axes[1] == axes[2] else (axes[2], axes[0], axes[1])
        add(-1, 1 + single, w(i, j))
        if laplacian:
            add(2, 1 + single, b(d, d))
        else:
            add(1, 1 + j, b(single, i))
            add(1, 1 + i, b(single, j))
    elif laplacian:
        add(1, w(d, d), w(d, d))
        add(-4, w(d, d), b(d, d))
        add(-2.0 * d, b(d, d), b(d, d))
    else:
        i, j, k, m = axes
        add(1, w(i, j), w(k, m))
        for first, second in (((j, m), (i, k)), ((j, k), (i, m)), ((i, m), (j, k)), ((i, k), (j, m))):
            add(-1, w(*first), b(*second))
        add(-1, b(i, k), b(j, m))
        add(-1, b(i, m), b(j, k))
    return result


def expanded(products: Callable[[np.ndarray, np.ndarray], np.ndarray], d: int, entries: int) -> np.ndarray:
    """Return jets (n, p, p) from the products (k, n) of k pairs of features."""
    tables = _tables(d, entries)
    distinct = []
    for group in tables.groups:
        factors, first, second = group[0]
        total = products(first, second)
        total *= factors
        for factors, first, second in group[1:]:
            term = products(first, second)
            term *= factors
            total += term
        distinct.append(total)
    found = np.concatenate(distinct).T
    result: np.ndarray = np.take(found, tables.place, axis=1)
    result *= tables.factor
    return result
