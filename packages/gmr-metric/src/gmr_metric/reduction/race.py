"""A race of starts: all are refined a little, the better half further, until the best few are refined to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gmr_metric.reduction.charts import Point
from gmr_metric.reduction.objective import Errors, Target
from gmr_metric.reduction.refinement import descend, descend_all, within

_STEPS = 6  # of the first round; each round doubles them
_FINALISTS = 3
_FINAL_STEPS, _FINAL_SECONDS = 60, 1.0  # of a usual finalist, and of all by estimate
_SAME = 1e-6  # relative difference of the objective up to which two have reached the same optimum
_MOST = 24  # starts of a small problem
_SECONDS = 0.4  # of estimated time for the first round
_LAST_SECONDS = 2.0  # of estimated time for the last round
_FEWEST, _LONGEST = 12, 500  # steps of the last round


def affordable(target: Target, n_components: int) -> int:
    """Return the number of starts that the first round can try in 0.4 s by estimate: from 1 to 24."""
    return int(min(_MOST, max(1, _SECONDS / (_STEPS * target.seconds(n_components)))))


def last_steps(target: Target, n_components: int) -> int:
    """Return the number of steps that the last round can do in 2 s by estimate: from 12 to 500."""
    return int(min(_LONGEST, max(_FEWEST, _LAST_SECONDS / target.seconds(n_components))))


def race(
    target: Target, starts: Sequence[Point], *, limit: float | None = None, seeded: Sequence[Point] = ()
) -> tuple[Point, int]:
    """Return the best optimum that the starts lead to, and which start did, counting the seeded ones after the others.

    With a limit of the relative squared error the divergence is minimised within it, without one the squared error.
    Optima within the limit are better than others; ties go to the first. The seeded are refined to the end without the
    rounds; the result is never worse than any of them, or than the first start.
    """
    ise_weight = math.inf if limit is None else 0.0
    steps, most = _STEPS, last_steps(target, len(starts[0].logs))
    finalists = int(min(_FINALISTS, max(1, _FINAL_SECONDS / (_FINAL_STEPS * target.seconds(len(starts[0].logs))))))
    field = [(math.inf, k, point) for k, point in enumerate(starts)]
    while True:
        moved = descend_all(target, [point for _, _, point in field], ise_weight, min(steps, most))
        values = [_value(target.errors(point), ise_weight) for point in moved]
        advanced = [(value, k, point) for value, (_, k, _), point in zip(values, field, moved, strict=True)]
        field = _different(sorted(advanced, key=lambda entry: entry[:2]))
        if len(field) <= finalists:
            break
        field = field[: max(finalists, (len(field) + 1) // 2)]
        steps *= 2
    finals = [(*_rank(target, point, limit), k, point) for k, point in enumerate(seeded, len(starts))]
    finals.append((*_rank(target, starts[0], limit), 0, starts[0]))
    for k, point in [(k, point) for _, k, point in field] + list(enumerate(seeded, len(starts))):
        final = (
            descend(target, point, ise_weight, most)
            if limit is None
            else within(target, point, limit, most, max(_STEPS, most // 8))
        )
        finals.append((*_rank(target, final, limit), k, final))
    best = min(finals, key=lambda entry: entry[:3])
    return best[3], best[2]


def _rank(target: Target, point: Point, limit: float | None) -> tuple[bool, float]:
    """Return whether a point exceeds the limit, and its objective."""
    errors = target.errors(point)
    return limit is not None and errors.ise > limit, _value(errors, math.inf if limit is None else 0.0)


def _value(errors: Errors, ise_weight: float) -> float:
    return float(errors.ise if ise_weight else errors.divergence)


def _different(field: list[tuple[float, int, Point]]) -> list[tuple[float, int, Point]]:
    """Keep the first of those that have reached the same value."""
    values = np.array([entry[0] for entry in field])
    kept = np.diff(values, prepend=-np.inf) > _SAME * np.abs(values) + 1e-15
    return [entry for entry, keep in zip(field, kept.tolist(), strict=True) if keep]
