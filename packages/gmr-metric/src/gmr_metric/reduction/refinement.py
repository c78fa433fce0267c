"""Refinement of a reduced mixture: weights, means and covariances together.

The angle's gradient is singular where two mixtures agree, so we minimise the Cauchy-Schwarz divergence ``-log cos``,
which has the same minimisers. With few parameters by a damped Newton method with exact second derivatives, whose local
coordinates move with the mixture; with many by L-BFGS in the coordinates of the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from sextet_common.checks import check

from gmr_metric.density.kinds import matching
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.charts import Point, stacked
from gmr_metric.reduction.objective import PARAMETERS, Errors, Evaluation, Target
from gmr_metric.reduction.overlaps import FEW

Objective = Literal["cauchy-schwarz", "ise"]
_TOLERANCE = 1e-12  # relative decrease of the objective that a Newton step must promise
_ROUNDING = 1e-15  # of the objective
_LONGEST = 2.0  # largest change of a log weight or log stretch in one step
_DAMPING = 1e-2  # of the first Newton step, relative to the squared norm of each coordinate's change
_ISE_WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0, math.inf)
_HALVINGS = 5


def refine(
    original: GaussianMixture,
    start: GaussianMixture,
    *,
    objective: Objective = "cauchy-schwarz",
    max_ise: float | None = None,
    max_iterations: int = 500,
) -> GaussianMixture:
    """Fit all parameters of a mixture near the original, such as the result of a reduction, to the original.

    The result has the components of the start in their order. It is never farther from the original than the start, in
    the objective and, if that is the angle, in the integral squared error.

    Parameters
    ----------
    objective
        ``cauchy-schwarz`` (the angle's minimisers) or ``ise`` (the squared L2 norm of the difference).
    max_ise
        The largest integral squared error allowed when the angle is minimised; by default that of the start. The
        angle ignores a mixture's norm, so its minimum far from the original may have a large squared error. In that
        case a growing share of the error is added to the objective. A start above a user-defined limit is replaced by
        a mixture below it, even at a larger angle. Not specified in the paper.
    max_iterations
        The largest number of steps for one share.

    Examples
    --------
    >>> original = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], np.ones((2, 1, 1)))
    >>> moments = GaussianMixture([1.0], [[0.0]], [[[2.0]]])
    >>> refine(original, moments).covariances.round(4).tolist()  # 1 + sqrt(2)
    [[[2.4142]]]
    """
    check("objective", objective, Objective)
    start = matching(original, start)
    target = Target(original)
    try:
        point = target.point(start)
        first = target.errors(point)
    except (np.linalg.LinAlgError, ValueError):  # the mixtures do not overlap beyond rounding
        return start
    if objective == "ise":
        found = descend(target, point, math.inf, max_iterations)
        return target.mixture(found) if target.errors(found).ise < first.ise else start
    limit = first.ise if max_ise is None else target.scaled(max_ise)
    found = within(target, point, limit, max_iterations)
    reached = target.errors(found)
    if reached.ise <= limit and (first.ise > limit or reached.divergence < first.divergence):
        return target.mixture(found)
    return start


def within(target: Target, point: Point, limit: float, max_iterations: int, later: int | None = None) -> Point:
    """Minimise the divergence with the relative ISE within a limit, or the ISE if the limit cannot be reached.

    The share of the ISE in the objective grows until the limit is met; bisection then finds the least such share.
    ``later`` is the largest number of steps for a share above 0.
    """
    low, steps = math.log(_ISE_WEIGHTS[1] / 10), max_iterations
    later = max_iterations if later is None else later
    for ise_weight in _ISE_WEIGHTS:
        point = descend(target, point, ise_weight, steps)
        steps = later
        if target.errors(point).ise <= limit:
            break
        low = math.log(ise_weight) if ise_weight else low
    if ise_weight == 0:
        return point
    high = math.log(min(ise_weight, 100 * _ISE_WEIGHTS[-2]))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        trial = descend(target, point, math.exp(middle), later)
        if target.errors(trial).ise <= limit:
            point, high = trial, middle
        else:
            low = middle
    return point


def descend(target: Target, point: Point, ise_weight: float, max_iterations: int) -> Point:
    """Minimise the divergence plus a share of the ISE, or the ISE alone; return the best point evaluated."""
    return descend_all(target, [point], ise_weight, max_iterations)[0]


def descend_all(target: Target, points: Sequence[Point], ise_weight: float, max_iterations: int) -> list[Point]:
    """Do the same from several starts; Newton steps evaluate all of them at once."""
    n, d = points[0].means.shape
    full_type = points[0].roots.ndim == 3
    parameters = n * (1 + d + (d * (d + 1) // 2 if full_type else points[0].roots.shape[1]))
    if parameters > PARAMETERS or (full_type and d > FEW):
        return [_quasi_newton(target, point, ise_weight, max_iterations) for point in points]
    runs = [_Newton(point) for point in points]
    for _ in range(max_iterations + 1):
        active = [run for run in runs if run.trial is not None]
        if not active:
            break
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            found = target.curvature(stacked([run.trial for run in active if run.trial]), ise_weight, len(active))
        for number, run in enumerate(active):
            run.advance(_one(found, number))
    return [run.point for run in runs]


def _one(found: Evaluation, number: int) -> Evaluation:
    assert found.curvature is not None and found.scale is not None
    errors = Errors(found.errors.divergence[number], found.errors.ise[number])
    parts = found.slope[number], found.curvature[number], found.scale[number]
    return Evaluation(found.value[number], errors, *parts)


class _Newton:
    """A descent by Newton steps, damped until the Hessian is positive definite and the objective decreases.

    ``trial`` is the next point to evaluate, None at the end.
    """

    def __init__(self, point: Point) -> None:
        self.point: Point = point
        self.trial: Point | None = point
        self._here: Evaluation | None = None
        self._damping, self._growth = _DAMPING, 2.0
        self._predicted, self._longest = math.inf, 0.0

    def advance(self, found: Evaluation) -> None:
        """Accept or reject the trial by its evaluation, and choose the next."""
        assert self.trial is not None
        usable = math.isfinite(found.value) and bool(np.isfinite(found.slope).all())
        if self._here is None and usable:
            self._here = found
        elif self._here is None:
            self.trial = None
            return
        elif usable and found.value < self._here.value:
            gain = (self._here.value - found.value) / self._predicted if self._longest <= _LONGEST else 0.5
            if gain < 2:  # otherwise the model is poor: keep the damping
                self._damping = max(1e-12, self._damping * max(0.1, 1 - (2 * gain - 1) ** 3))
            self.point, self._here, self._growth = self.trial, found, 2.0
        else:
            self._damping, self._growth = max(self._damping, 1e-6) * self._growth, 2 * self._growth
        step, self._predicted = self._damped(self._here)
        if not self._predicted > _TOLERANCE * abs(self._here.value) + _ROUNDING:
            self.trial = None
            return
        d = self.point.means.shape[1]
        self._longest = float(max(np.abs(step[:, 0]).max(), np.abs(step[:, 1 + d :]).max()))
        self.trial = self.point.moved(step * min(1.0, _LONGEST / max(self._longest, 1e-300)))

    def _damped(self, here: Evaluation) -> tuple[np.ndarray, float]:
        """Return a step and the decrease that it promises, after damping until the Hessian is positive definite."""
        from scipy.linalg.lapack import dposv

        assert here.curvature is not None and here.scale is not None
        slope, scale = here.slope.ravel(), np.maximum(here.scale, 1e-12)
        while True:
            matrix = here.curvature.copy()
            matrix.flat[:: len(matrix) + 1] += self._damping * scale
            _, step, failed = dposv(matrix, -slope)
            if not failed:
                predicted = float(-slope @ step - 0.5 * step @ (here.curvature @ step))
                return step.reshape(here.slope.shape), predicted
            if self._damping > 1e12:
                return np.zeros(here.slope.shape), 0.0
            self._damping = max(4 * self._damping, 1e-6)


def _quasi_newton(target: Target, start: Point, ise_weight: float, max_iterations: int) -> Point:
    """Minimise by L-BFGS in the coordinates of the start."""
    from scipy.optimize import minimize

    best_value, best = math.inf, start

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best_value, best
        point = start.moved(parameters.reshape(len(start.logs), -1))
        try:
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                found = target.slope(point, ise_weight, start)
            value = float(found.value[0])
        except np.linalg.LinAlgError:
            value = math.nan
        if not math.isfinite(value):  # the step is far too long
            return abs(best_value) + 1e6, np.zeros_like(parameters)
        if value < best_value:
            best_value, best = value, point
        return value, found.slope.ravel()

    # Weights and axes stay within factors of e^20 and e^8 of the start, so that nothing over- or underflows.
    entries = start.limits(20.0, 8.0)
    minimize(
        objective,
        np.zeros(entries.size),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([-entries, entries], axis=-1).reshape(-1, 2),
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-9},
    )
    return best
