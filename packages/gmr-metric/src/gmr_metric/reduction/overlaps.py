"""Inner products of a mixture with the components of another, and their derivatives up to the second order.

The sums over the original's components of the products of features (see `derivatives`) are one matrix product for each
component of the other mixture. Negligible kernels are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gmr_metric.density.gaussian import LOG_2PI, full, log_gaussian, lower
from gmr_metric.reduction.derivatives import expanded, half

FEW = 12  # dimensions up to which matrices are factored entry by entry
NEGLIGIBLE = 45.0  # kernels below exp(-45) of the largest are left out
_BLOCK = 2**13  # kernels per step, so that their entries stay in the cache
_DENSE = 0.4  # if a larger share of kernels is needed, all are computed: that needs no copies
_SCREENED = 2**13  # up to this many kernels, all are computed


class Components(NamedTuple):
    """Log weights (n,), means (d, n) and packed covariances (T, n)."""

    logs: np.ndarray
    means: np.ndarray
    packed: np.ndarray


class Jets(NamedTuple):
    """For each component of g, its inner product with f times its weight, and derivatives, all over ``exp(scales)``.

    ``scales`` has shape (L,). ``entries``, shape (L, p, p), are the derivatives in the log weight, the mean and the
    packed covariance: row 0 is the value and the first derivatives, the rest the second ones. Of the first order the
    shape is (L, 1, p).
    """

    scales: np.ndarray
    entries: np.ndarray

    def over(self, scale: float) -> np.ndarray:
        """Return the entries over one common scale."""
        entries: np.ndarray = self.entries * np.exp(self.scales - scale)[:, None, None]
        return entries


class _Block(NamedTuple):
    """Kernels with components first to last - 1 of g: all of f's components, or for each kernel its owner and member.

    ``starts`` are the first kernels of each component of g.
    """

    first: int
    last: int
    starts: np.ndarray
    owner: np.ndarray | None = None
    member: np.ndarray | None = None


def jets(f: Components, g: Components, *, order: int, reach: np.ndarray | None = None) -> Jets:
    """Return the inner products of f with each component of g and their derivatives in the parameters of g.

    ``reach`` is that of :func:`reaches` for f, if negligible kernels of many are to be left out.
    """
    d, parts = len(g.means), []
    for block in _blocks(f, g, reach):
        offsets, total = _differences(f, g, block)
        logs = f.logs if block.member is None else f.logs[block.member]
        if len(total) == d * (d + 1) // 2 and d > FEW:
            parts.append(_by_lapack(offsets, total, np.resize(logs, total.shape[1]), block, order))
        else:
            parts.append(_by_entries(offsets, total, logs, block, order))
    return Jets(np.concatenate([part[0] for part in parts]) + g.logs, np.concatenate([part[1] for part in parts]))


class Coupled(NamedTuple):
    """Jets of the inner products of components ``first <= second``, weighted by both, over the exponentials of scales.

    The parameters of the first component vary. Pairs with a negligible product are left out. There is one scale for
    each mixture.
    """

    scales: np.ndarray
    first: np.ndarray
    second: np.ndarray
    entries: np.ndarray


def coupled(g: Components, count: int = 1) -> Coupled:
    """Return the jets of the inner products of pairs of components of one mixture, or of several of the same size."""
    d, entries, size = len(g.means), len(g.packed), len(g.logs) // count
    second, first = np.tril_indices(size)
    here = np.arange(count)[:, None] * size
    first, second = (first + here).ravel(), (second + here).ravel()
    offsets, total = g.means[:, first] - g.means[:, second], g.packed[:, first] + g.packed[:, second]
    logs, factors = _log_kernels(offsets, total)
    logs += g.logs[first] + g.logs[second]
    scales = logs.reshape(count, -1).max(axis=1)
    logs -= np.repeat(scales, len(logs) // count)
    near = np.flatnonzero((logs > -NEGLIGIBLE) | (first == second))
    if len(near) < len(logs):
        logs, offsets, total, first, second = logs[near], offsets[:, near], total[:, near], first[near], second[near]
        factors = [[entry[near] for entry in row] for row in factors]
    features = _features(offsets, total, factors, np.exp(0.5 * logs))
    return Coupled(scales, first, second, expanded(lambda i, j: features[i] * features[j], d, entries))


def reaches(f: Components) -> np.ndarray:
    """Return for each component half the log of its inner product with itself, and a bound of its largest variance."""
    d, entries = len(f.means), len(f.packed)
    logs = _log_kernels(np.zeros_like(f.means), 2 * f.packed)[0]
    double = np.ones((1, 1))
    if entries == d * (d + 1) // 2:
        rows, places = lower(d)
        double = np.where(rows == places, 1.0, 2.0)[:, None]
    return np.array([0.5 * logs, np.sqrt((double * f.packed**2).sum(axis=0))])


def _blocks(f: Components, g: Components, reach: np.ndarray | None) -> Iterator[_Block]:
    n, many = len(f.logs), len(g.logs)
    step = max(1, _BLOCK // n)
    if reach is None or n * many <= _SCREENED:
        yield from _all(0, many, n)
        return
    own = reaches(g)
    own[0] += g.logs
    floor = -np.inf
    ranges = [(first, min(many, first + max(1, 32 * step))) for first in range(0, many, max(1, 32 * step))]
    for first, last in ranges:
        near = _bounds(f, g, reach, own, first, last).argmax(axis=1)
        here = np.arange(first, last)
        logs = _log_kernels(g.means[:, here] - f.means[:, near], g.packed[:, here] + f.packed[:, near])[0]
        floor = max(floor, float((logs + f.logs[near] + g.logs[here]).max()))
    for first, last in ranges:
        bounds = _bounds(f, g, reach, own, first, last)
        chosen = bounds > floor - NEGLIGIBLE
        chosen[np.arange(last - first), bounds.argmax(axis=1)] = True
        if chosen.mean() > _DENSE:
            yield from _all(first, last, n)
        else:
            yield from _split(chosen, first)


def _all(first: int, last: int, n: int) -> Iterator[_Block]:
    """Divide the kernels of some of g's components with all of f's into blocks."""
    step = max(1, _BLOCK // n)
    for begin in range(first, last, step):
        end = min(last, begin + step)
        yield _Block(begin, end, np.arange(end - begin) * n)


def _split(chosen: np.ndarray, first: int) -> Iterator[_Block]:
    """Divide the chosen kernels, a row for each component of g, into blocks."""
    ends = np.cumsum(chosen.sum(axis=1))
    owner, member = np.nonzero(chosen)
    begin = 0
    while begin < len(ends):
        done = ends[begin - 1] if begin else 0
        last = max(begin + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        kernels = slice(done, ends[last - 1])
        starts = np.concatenate([[0], ends[begin : last - 1] - done])
        yield _Block(first + begin, first + last, starts, owner[kernels] + first, member[kernels])
        begin = last


def _bounds(f: Components, g: Components, reach: np.ndarray, own: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return upper bounds of the logs of weighted kernels, from Cauchy and Schwarz and the largest variances."""
    here = g.means[:, first:last]
    squared = (here**2).sum(axis=0)[:, None] - 2 * here.T @ f.means + (f.means**2).sum(axis=0)
    squared *= -0.5 * (1 - 1e-9)
    squared /= own[1, first:last, None] + reach[1]
    squared += own[0, first:last, None]
    squared += f.logs + reach[0]
    bounds: np.ndarray = squared
    return bounds


def _differences(f: Components, g: Components, block: _Block) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of means (d, m) and the summed covariances (T, m) of a block's kernels."""
    if block.owner is None or block.member is None:
        here = slice(block.first, block.last)
        offsets = (g.means[:, here, None] - f.means[:, None]).reshape(len(f.means), -1)
        return offsets, (g.packed[:, here, None] + f.packed[:, None]).reshape(len(f.packed), -1)
    return (
        np.take(g.means, block.owner, axis=1) - np.take(f.means, block.member, axis=1),
        np.take(g.packed, block.owner, axis=1) + np.take(f.packed, block.member, axis=1),
    )


def _by_entries(
    offsets: np.ndarray, total: np.ndarray, weights: np.ndarray, block: _Block, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each component's largest log kernel, and the jets over it."""
    d, entries, count = len(offsets), len(total), block.last - block.first
    logs, factors = _log_kernels(offsets, total)
    if block.member is None:
        table = logs.reshape(count, -1)
        table += weights
        tops = table.max(axis=1)
        table -= tops[:, None]
    else:
        logs += weights
        tops = np.maximum.reduceat(logs, block.starts)
        logs -= np.repeat(tops, np.diff(block.starts, append=len(logs)))
    if order == 0:
        return tops, np.add.reduceat(np.exp(logs), block.starts)[:, None, None]
    if order == 1:
        features = _features(offsets, total, factors, np.exp(logs))[: 1 + d + entries]
        first = np.add.reduceat(features, block.starts, axis=1).T
        first[:, 1 : 1 + d] *= -1
        first[:, 1 + d :] *= half(d, entries)
        return tops, first[:, None]
    features = _features(offsets, total, factors, np.exp(0.5 * logs))
    if block.member is None:
        stacked = features.reshape(len(features), count, -1).transpose(1, 0, 2)
        gram = np.matmul(stacked, stacked.transpose(0, 2, 1))
    else:
        pieces = np.split(features, block.starts[1:], axis=1)
        gram = np.array([piece @ piece.T for piece in pieces])
    return tops, expanded(lambda i, j: gram[:, i, j].T, d, entries)


def _log_kernels(offsets: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Return the log kernels (m,), and the rows of Cholesky factors, their diagonals inverted, with L^-1 e at the end.

    There are no factors for diagonal and spherical covariances, or beyond FEW dimensions.
    """
    d, entries = len(offsets), len(total)
    if entries < d * (d + 1) // 2 or d == 1:
        squared = (offsets**2 / total).sum(axis=0)
        return -0.5 * (squared + np.log(total).sum(axis=0) * (d // entries) + d * LOG_2PI), []
    if d > FEW:
        return log_gaussian(offsets.T, full(total, d)), []
    rows: list[list[np.ndarray]] = []
    squared, determinant = np.zeros(total.shape[1]), np.ones(total.shape[1])
    entries_left = iter(total)
    for r in range(d):
        row: list[np.ndarray] = []
        for c in range(r + 1):
            entry = next(entries_left)
            for k in range(c):
                entry = entry - row[k] * (rows[c][k] if c < r else row[k])
            row.append(entry * rows[c][c] if c < r else 1 / np.sqrt(entry))
        determinant *= entry
        white = offsets[r]
        for k in range(r):
            white = white - row[k] * rows[k][-1]
        white = white * row[r]
        squared += white * white
        rows.append([*row, white])
    squared += np.log(determinant)
    squared += d * LOG_2PI
    squared *= -0.5
    return squared, rows


def _features(offsets: np.ndarray, total: np.ndarray, rows: list[list[np.ndarray]], scale: np.ndarray) -> np.ndarray:
    """Return the features 1, v, W and B of each kernel, shape (1 + d + 2 T, m), times its scale."""
    d, entries = len(offsets), len(total)
    features = np.empty((1 + d + 2 * entries, offsets.shape[1]))
    features[0] = scale
    v, outer, inverse = features[1 : 1 + d], features[1 + d : 1 + d + entries], features[1 + d + entries :]
    if not rows:
        np.divide(1.0, total, out=inverse)
        np.multiply(offsets, inverse, out=v)
        if entries == 1:
            outer[0] = (v * v).sum(axis=0) - d * inverse[0]
        else:
            np.subtract(v * v, inverse, out=outer)
    else:
        white = [row[-1] for row in rows]
        below = [[row[r]] for r, row in enumerate(rows)]  # below[c]: column c of L^-1, from the diagonal down
        for c in range(d):
            for r in range(c + 1, d):
                entry = rows[r][c] * below[c][0]
                for k in range(c + 1, r):
                    entry += rows[r][k] * below[c][k - c]
                entry *= -rows[r][r]
                below[c].append(entry)
        for a in range(d):
            np.multiply(below[a][0], white[a], out=v[a])
            for k in range(a + 1, d):
                v[a] += below[a][k - a] * white[k]
        at = 0
        for a in range(d):
            for b in range(a + 1):
                np.multiply(below[a][0], below[b][a - b], out=inverse[at])
                for k in range(a + 1, d):
                    inverse[at] += below[a][k - a] * below[b][k - b]
                np.multiply(v[a], v[b], out=outer[at])
                at += 1
        outer -= inverse
    features[1:] *= scale
    return features


def _by_lapack(
    offsets: np.ndarray, total: np.ndarray, weights: np.ndarray, block: _Block, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as :func:`_by_entries`, of the first order, by one LAPACK call for each matrix."""
    from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

    d, entries, ends = len(offsets), len(total), np.append(block.starts[1:], total.shape[1])
    rows, places = lower(d)
    tops, first = np.empty(len(ends)), np.zeros((len(ends), 1, 1 + d + entries))
    for at, (begin, end) in enumerate(zip(block.starts.tolist(), ends.tolist(), strict=True)):
        matrices, logs = full(total[:, begin:end], d), np.empty(end - begin)
        v = np.empty((end - begin, d))
        for k, matrix in enumerate(matrices):
            matrices[k], info = dpotrf(matrix, lower=1, clean=0)
            if info:
                raise np.linalg.LinAlgError("a covariance is not positive definite")
            v[k] = dpotrs(matrices[k], offsets[:, begin + k], lower=1)[0]
            logs[k] = np.log(np.diagonal(matrices[k])).sum()
        logs = weights[begin:end] - logs - 0.5 * ((v * offsets[:, begin:end].T).sum(axis=1) + d * LOG_2PI)
        tops[at] = logs.max()
        kernels = np.exp(logs - tops[at])
        first[at, 0, 0] = kernels.sum()
        if order:
            first[at, 0, 1 : 1 + d] = -kernels @ v
            outer = (v.T * kernels) @ v
            for k in np.flatnonzero(logs > tops[at] - NEGLIGIBLE).tolist():
                outer -= kernels[k] * dpotri(matrices[k], lower=1)[0]
            first[at, 0, 1 + d :] = outer[rows, places] * half(d, entries)
    return tops, first
