"""The errors of a mixture against an original one, with first and second derivatives in local coordinates.

Both errors follow from ``log <f, g>`` and ``log <g, g>``. The Hessian of ``<f, g>`` couples no two components of g,
that of ``<g, g>`` all that overlap.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import full, unpacked
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_inner_product
from gmr_metric.loops.columns import whitened, whitening
from gmr_metric.reduction.charts import Point, curvatures, jacobians, slopes
from gmr_metric.reduction.overlaps import Components, coupled, jets, reaches

PARAMETERS = 600  # with more parameters L-BFGS is faster than Newton steps
_LIGHTEST = -27.0  # smallest log weight of a start, relative to the whole


class Errors(NamedTuple):
    """Errors of a mixture: the Cauchy-Schwarz divergence, and the ISE over the original's squared norm.

    Numbers, or arrays (S,) for several mixtures.
    """

    divergence: Any
    ise: Any


class Evaluation(NamedTuple):
    """An objective's values (S,) at S points, its derivatives in local coordinates, and a positive scale of each.

    ``slope`` has shape (S, L, p), ``curvature`` (S, P, P), ``scale`` (S, P); the last two are None of the first order.
    The scale is the squared norm of the change that the coordinate makes to the mixture.
    """

    value: np.ndarray
    errors: Errors
    slope: np.ndarray
    curvature: np.ndarray | None = None
    scale: np.ndarray | None = None


class Target:
    """The original of a reduction, whitened; what does not depend on the reduced mixture is computed once."""

    def __init__(self, original: GaussianMixture) -> None:
        self.original = original
        self._whitening = whitening(original)
        f = whitened(original)
        self._f = Components(log_of(f.weights), f.means, f.packed)
        self._reach = reaches(self._f)
        self.log_norm = log_inner_product(original, original)
        self._log_norm = self.log_norm + self._whitening.log_volume

    def __len__(self) -> int:
        return len(self.original)

    def seconds(self, n_components: int) -> float:
        """Estimate the time of an evaluation and a step.

        It is 60 ns d + 0.4 ns d^3 for each of N L kernels, 35 ns d for other types than full, and 20 ns P^2 + 0.1 ns
        P^3 for the step with P parameters if it is a Newton step. The rule was calibrated on one core of a server.
        """
        d, (entries, n) = len(self._f.means), self._f.packed.shape
        nanoseconds = 60 * d + 0.4 * d**3 if entries == d * (d + 1) // 2 else 35 * d
        parameters = n_components * (1 + d + entries)
        step = 20 * parameters**2 + 0.1 * parameters**3 if parameters <= PARAMETERS else 0.0
        return float(1e-9 * (nanoseconds * n * n_components + step))

    def point(self, start: GaussianMixture) -> Point:
        """Return a mixture's parameters in whitened coordinates."""
        here = whitened(start, self.original)
        if len(here.packed) == start.dim * (start.dim + 1) // 2:
            roots = np.linalg.cholesky(full(here.packed, start.dim))
        else:
            roots = np.sqrt(here.packed.T)
        return Point(np.maximum(log_of(here.weights), _LIGHTEST), np.ascontiguousarray(here.means.T), roots)

    def mixture(self, point: Point) -> GaussianMixture:
        """Return the mixture with these parameters, in the original's coordinates."""
        logs, means, packed = point.components()
        means, covariances = self._whitening.unwhitened(means.T, unpacked(packed, len(means)))
        return GaussianMixture(np.exp(logs - logs.max()), means, covariances, normalize=True)

    def scaled(self, ise: float) -> float:
        """Divide an integral squared error by the original's squared norm."""
        return ise * math.exp(-self.log_norm)

    def errors(self, point: Point) -> Errors:
        """Return the errors of a point."""
        g = point.components()
        across = jets(self._f, g, order=0, reach=self._reach)
        within = jets(g, g, order=0, reach=reaches(g))
        log_a, log_b = (
            np.logaddexp.reduce(part.scales + np.log(part.entries[:, 0, 0]))[None] for part in (across, within)
        )
        errors = self._errors(log_a, log_b, np.logaddexp.reduce(point.logs)[None])[0]
        if not math.isfinite(errors.divergence[0]):
            raise np.linalg.LinAlgError("the mixtures do not overlap")
        return Errors(float(errors.divergence[0]), float(errors.ise[0]))

    def _errors(
        self, log_a: np.ndarray, log_b: np.ndarray, log_total: np.ndarray
    ) -> tuple[Errors, np.ndarray, np.ndarray]:
        """Return the errors, and the inner products <f, g> and <g, g> over <f, f>, of unnormalised weights."""
        log_a, log_b = log_a - log_total - self._log_norm, log_b - 2 * log_total - self._log_norm
        a, b = np.exp(np.minimum(log_a, 300.0)), np.exp(np.minimum(log_b, 300.0))
        return Errors(np.maximum(0.0, 0.5 * log_b - log_a), 1 - 2 * a + b), a, b

    def slope(self, point: Point, ise_weight: float, base: Point) -> Evaluation:
        """Return divergence + weight * ISE, or ISE alone at an infinite weight, in the base's coordinates."""
        g = point.components()
        across = jets(self._f, g, order=1, reach=self._reach)
        within = jets(g, g, order=1, reach=reaches(g))
        scales = [float(part.scales.max()) for part in (across, within)]
        first, second = across.over(scales[0])[:, 0], within.over(scales[1])[:, 0]
        a, b = first[:, 0].sum(), second[:, 0].sum()
        errors, *products = self._errors(
            np.log(a)[None] + scales[0], np.log(b)[None] + scales[1], np.logaddexp.reduce(point.logs)[None]
        )
        value, (by_a, by_b), _ = _objective(errors, products, ise_weight)
        result = slopes(point, (by_a / a) * first + (2 * by_b / b) * second, base)
        result[:, 0] -= (by_a + 2 * by_b) * _shares(point.logs[None])[0]
        return Evaluation(value, errors, result[None])

    def curvature(self, point: Point, ise_weight: float, count: int = 1) -> Evaluation:
        """Return the same in the point's own coordinates, with second derivatives.

        With a count the point holds as many mixtures of the same number of components.
        """
        g = point.components()
        across, within = jets(self._f, g, order=2, reach=self._reach), coupled(g, count)
        k, m, pairs = within.first, within.second, within.entries
        (n, d), size = point.means.shape, pairs.shape[1]
        many = n // count
        sign = np.ones(size)
        sign[1 : 1 + d] = -1  # the offset falls as the second component's mean grows
        apart, alone = np.flatnonzero(k != m), np.flatnonzero(k == m)
        inner = _summed(pairs, k, n)
        inner += _summed(pairs * (sign[:, None] * sign), m, n)
        inner -= pairs[alone]
        scales = across.scales.reshape(count, many).max(axis=1)
        outer = across.entries * np.exp(across.scales - np.repeat(scales, many))[:, None, None]
        a, b = (part[:, 0, 0].reshape(count, many).sum(axis=1) for part in (outer, inner))
        logs = point.logs.reshape(count, many)
        total = np.logaddexp.reduce(logs, axis=1)
        errors, *products = self._errors(np.log(a) + scales, np.log(b) + within.scales, total)
        value, (by_a, by_b), (by_aa, by_bb) = _objective(errors, products, ise_weight)
        rows = np.zeros((count, 3, many, size))
        rows[:, 0] = slopes(point, outer[:, 0]).reshape(count, many, size) / a[:, None, None]
        rows[:, 1] = slopes(point, inner[:, 0]).reshape(count, many, size) * (2 / b)[:, None, None]
        rows[:, 2, :, 0] = _shares(logs)
        for_a, for_b = (np.repeat(part, many)[:, None, None] for part in (by_a / a, 2 * by_b / b))
        blocks = curvatures(point, outer * for_a + inner * for_b).reshape(count, many, size, size)
        blocks[..., 0, 0] -= (by_a + 2 * by_b)[:, None] * rows[:, 2, :, 0]
        jacobian = jacobians(point)
        whose = k // many
        factor = (2 / b)[whose][:, None, None]
        cross = np.matmul(np.swapaxes(jacobian, 1, 2)[k], np.matmul(pairs * (sign * factor), jacobian[m]))
        whole = np.zeros((count, many, size, many, size))
        coupling = cross * by_b[whose][:, None, None]
        k, m = k % many, m % many
        whole[whose, k, :, m] = coupling
        whole[whose[apart], m[apart], :, k[apart]] = np.swapaxes(coupling[apart], 1, 2)
        everywhere = np.arange(many)
        whole[:, everywhere, :, everywhere] += np.swapaxes(blocks, 0, 1)
        hessian = whole.reshape(count, many * size, -1)
        flat = rows.reshape(count, 3, -1)
        to_a, to_b = np.array([1.0, 0.0, -1.0]), np.array([0.0, 1.0, -2.0])
        mixed = by_aa[:, None, None] * np.outer(to_a, to_a) + by_bb[:, None, None] * np.outer(to_b, to_b)
        mixed[:, range(3), range(3)] += np.stack([-by_a, -by_b, by_a + 2 * by_b], axis=1)
        hessian += np.matmul(np.swapaxes(flat, 1, 2), np.matmul(mixed, flat))
        scale = 0.5 * np.diagonal(cross[alone], axis1=1, axis2=2).reshape(count, -1)
        to_both = by_a[:, None] * to_a + by_b[:, None] * to_b
        slope = np.matmul(to_both[:, None], flat).reshape(count, many, size)
        return Evaluation(value, errors, slope, hessian, scale)


def _summed(pairs: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    """Return the sums of the pairs of each owner, all of which have one."""
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(n))
    summed: np.ndarray = np.add.reduceat(pairs[order], starts, axis=0)
    return summed


def _shares(logs: np.ndarray) -> np.ndarray:
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return shares


Pair = tuple[np.ndarray, np.ndarray]


def _objective(errors: Errors, products: list[np.ndarray], ise_weight: float) -> tuple[np.ndarray, Pair, Pair]:
    """Return the objective's values and their first and second derivatives in log <f, g> and log <g, g>."""
    a, b = products
    if math.isinf(ise_weight):
        return errors.ise, (-2 * a, b), (-2 * a, b)
    by_a, by_b = -2 * ise_weight * a, ise_weight * b
    return errors.divergence + ise_weight * errors.ise, (by_a - 1, by_b + 0.5), (by_a, by_b)
