"""The errors of a mixture against an original one, with first and second derivatives in local coordinates.

Both errors follow from ``log <f, g>`` and ``log <g, g>``. The Hessian of ``<f, g>`` couples no two components of g,
that of ``<g, g>`` all that overlap.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gmr_metric.density.algebra import log_of
from gmr_metric.density.gaussian import full, unpacked
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_inner_product
from gmr_metric.loops.columns import whitened, whitening
from gmr_metric.reduction.charts import Point, curvatures, jacobians, slopes
from gmr_metric.reduction.overlaps import Components, coupled, jets, reaches

_LIGHTEST = -27.0  # smallest log weight of a start, relative to the whole


class Errors(NamedTuple):
    """Errors of a mixture: the Cauchy-Schwarz divergence, and the ISE over the original's squared norm."""

    divergence: float
    ise: float


class Evaluation(NamedTuple):
    """An objective's value, its derivatives in local coordinates, and a positive scale of each coordinate (P,).

    ``curvature`` (P, P) and ``scale`` are None of the first order. The scale is the squared norm of the change that
    the coordinate makes to the mixture.
    """

    value: float
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
        log_a, log_b = (math.log(part.entries.sum()) + part.shift for part in (across, within))
        return self._errors(log_a, log_b, point)[0]

    def _errors(self, log_a: float, log_b: float, point: Point) -> tuple[Errors, float, float]:
        """Return the errors, and the inner products <f, g> and <g, g> over <f, f>, from the logs of the latter."""
        log_total = float(np.logaddexp.reduce(point.logs))
        log_a, log_b = log_a - log_total - self._log_norm, log_b - 2 * log_total - self._log_norm
        divergence = max(0.0, 0.5 * log_b - log_a)
        a, b = math.exp(min(log_a, 300.0)), math.exp(min(log_b, 300.0))
        if not math.isfinite(divergence):
            raise np.linalg.LinAlgError("the mixtures do not overlap")
        return Errors(divergence, 1 - 2 * a + b), a, b

    def slope(self, point: Point, ise_weight: float, base: Point) -> Evaluation:
        """Return divergence + weight * ISE, or ISE alone at an infinite weight, in the base's coordinates."""
        g = point.components()
        across = jets(self._f, g, order=1, reach=self._reach)
        within = jets(g, g, order=1, reach=reaches(g))
        first, second = across.entries[:, 0], within.entries[:, 0]
        a, b = float(first[:, 0].sum()), float(second[:, 0].sum())
        errors, *products = self._errors(math.log(a) + across.shift, math.log(b) + within.shift, point)
        value, (by_a, by_b), _ = _objective(errors, products, ise_weight)
        result = slopes(point, (by_a / a) * first + (2 * by_b / b) * second, base)
        result[:, 0] -= (by_a + 2 * by_b) * _shares(point)
        return Evaluation(value, errors, result)

    def curvature(self, point: Point, ise_weight: float) -> Evaluation:
        """Return the same in the point's own coordinates, with second derivatives."""
        g = point.components()
        across, within = jets(self._f, g, order=2, reach=self._reach), coupled(g)
        k, m, pairs = within.first, within.second, within.entries
        (n, d), size = point.means.shape, pairs.shape[1]
        sign = np.ones(size)
        sign[1 : 1 + d] = -1  # the offset falls as the second component's mean grows
        apart = np.flatnonzero(k != m)
        whose = np.arange(n)[:, None]
        inner = (whose == k).astype(float) @ pairs.reshape(-1, size * size)
        inner += (whose == m[apart]) @ (pairs[apart] * (sign[:, None] * sign)).reshape(-1, size * size)
        inner = inner.reshape(n, size, size)
        a, b = float(across.entries[:, 0, 0].sum()), float(inner[:, 0, 0].sum())
        errors, *products = self._errors(math.log(a) + across.shift, math.log(b) + within.shift, point)
        value, (by_a, by_b), (by_aa, by_bb) = _objective(errors, products, ise_weight)
        rows = np.zeros((3, n, size))
        rows[0] = slopes(point, across.entries[:, 0]) / a
        rows[1] = slopes(point, inner[:, 0]) * (2 / b)
        rows[2, :, 0] = _shares(point)
        blocks = curvatures(point, across.entries * (by_a / a) + inner * (2 * by_b / b))
        everywhere = np.arange(n)
        blocks[:, 0, 0] -= (by_a + 2 * by_b) * rows[2, :, 0]
        jacobian = jacobians(point)
        cross = np.matmul(np.swapaxes(jacobian, 1, 2)[k], np.matmul(pairs * (sign * (2 / b)), jacobian[m]))
        whole = np.zeros((n, n, size, size))
        whole[k, m] = by_b * cross
        whole[m[apart], k[apart]] = np.swapaxes(whole[k[apart], m[apart]], 1, 2)
        whole[everywhere, everywhere] += blocks
        hessian = whole.transpose(0, 2, 1, 3).reshape(n * size, -1)
        flat = rows.reshape(3, -1)
        to_a, to_b = np.array([1.0, 0.0, -1.0]), np.array([0.0, 1.0, -2.0])
        mixed = np.diag([-by_a, -by_b, by_a + 2 * by_b])
        mixed += by_aa * np.outer(to_a, to_a) + by_bb * np.outer(to_b, to_b)
        hessian += flat.T @ (mixed @ flat)
        scale = 0.5 * np.diagonal(cross[k == m], axis1=1, axis2=2)
        slope = (by_a * to_a + by_b * to_b) @ flat
        return Evaluation(value, errors, slope.reshape(n, size), hessian, scale.ravel())


def _shares(point: Point) -> np.ndarray:
    weights = np.exp(point.logs - point.logs.max())
    shares: np.ndarray = weights / weights.sum()
    return shares


def _objective(
    errors: Errors, products: list[float], ise_weight: float
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Return the objective's value and its first and second derivatives in log <f, g> and log <g, g>."""
    a, b = products
    if math.isinf(ise_weight):
        return errors.ise, (-2 * a, b), (-2 * a, b)
    by_a, by_b = -2 * ise_weight * a, ise_weight * b
    return errors.divergence + ise_weight * errors.ise, (by_a - 1, by_b + 0.5), (by_a, by_b)
