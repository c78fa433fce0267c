"""How far the default method is from the best of many random restarts, and so from the global optimum.

``python benchmarks/restarts.py`` writes results/restarts.json, whose sentences `bench_quality` puts into README.md.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from gmr_metric import distance, reduce
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.objective import Target
from gmr_metric.reduction.refinement import descend_all
from gmr_metric.reduction.starts import spread_out
from measure import one_core
from sextet_common.benchmarks import store
from suite import Case, cases, clustered_mixture, random_mixture

HERE = Path(__file__).resolve().parent
TIE = 1e-6  # angles within this relative difference are equal
AT_ONCE = 50  # restarts that are refined together
SOME, FINALISTS = 40, 10  # steps of all restarts; restarts that are refined to the end


def compared(case: Case, restarts: int) -> dict[str, float]:
    """Compare with restarts, half of k-means++ and half of random subsets, each refined and the best to the end.

    ``best`` is the lowest angle of a restart whose squared error is at most Runnalls', as the method's own is;
    ``free`` that of any.
    """
    mixture, n_components = case.mixture, case.n_components
    target, draw = Target(mixture), np.random.default_rng(1)
    points = []
    for number in range(restarts):
        if number % 2:
            start = mixture.subset(draw.choice(len(mixture), n_components, replace=False))
        else:
            groups = spread_out(mixture, n_components, draw, by_norm=False).assignment
            start = merge_groups(mixture, groups)
        points.append(target.point(start))
    limit = target.scaled(distance(mixture, reduce(mixture, n_components, "runnalls").mixture, "ise"))
    for first in range(0, restarts, AT_ONCE):
        points[first : first + AT_ONCE] = descend_all(target, points[first : first + AT_ONCE], 0.0, SOME)
    errors = [target.errors(point) for point in points]
    for inside in (True, False):  # those that may become the best are refined to the end
        ranked = sorted(e.divergence for e in errors if e.ise <= limit or not inside)
        chosen = [k for k, e in enumerate(errors) if ranked and e.divergence <= ranked[:FINALISTS][-1]]
        for k, point in zip(chosen, descend_all(target, [points[k] for k in chosen], 0.0, 500), strict=True):
            points[k], errors[k] = point, target.errors(point)
    within = [e.divergence for e in errors if e.ise <= limit]
    angles = [float(np.arccos(np.exp(-min(d)))) if d else np.inf for d in (within, [e.divergence for e in errors])]
    return {"oggmr": reduce(mixture, n_components).distance, "best": angles[0], "free": angles[1]}


def small_cases() -> list[Case]:
    """Return 24 reductions of at most 12 components to at most 4."""
    kinds = (random_mixture, clustered_mixture)
    return [
        Case(f"{kind.__name__}, N 12, d {d}", kind(100 * d + n_components, 12, d), n_components)
        for kind in kinds
        for d in (1, 2, 3, 4)
        for n_components in (2, 3, 4)
    ]


def some_of_the_suite(n: int) -> list[Case]:
    """Return n cases of the suite whose refinement has at most 100 parameters, evenly spread."""
    few = [c for c in cases() if c.n_components * (1 + c.mixture.dim) * (2 + c.mixture.dim) / 2 <= 100]
    return list(islice(few, 0, None, max(1, len(few) // n)))[:n]


def summary(title: str, rows: list[dict[str, float]], restarts: int) -> str:
    """Say in a sentence how often the method is at least as near, and by how much it is not."""
    ratios = np.array([row["oggmr"] / row["best"] for row in rows])
    behind = ratios[ratios > 1 + TIE]
    worst = f", {(ratios.max() - 1):.2%} above it at most" if len(behind) else ""
    return (
        f"{title}: on {len(rows) - len(behind)} of {len(rows)} cases `oggmr` is at least as near as the best of "
        f"{restarts} random restarts with a squared error below Runnalls'{worst}."
    )


def measured() -> tuple[dict[str, object], list[str]]:
    """Return both comparisons: numbers to store, and sentences."""
    stored, lines = {}, []
    for title, chosen, restarts in (
        ("Suite", some_of_the_suite(20), 60),
        ("Near the global optimum, N 12 and L up to 4", small_cases(), 1000),
    ):
        rows: list[dict[str, float]] = []
        for case in chosen:
            rows.append(compared(case, restarts))
            print(case.name, case.n_components, rows[-1], flush=True)
        names = [{"name": case.name, "L": case.n_components} for case in chosen]
        stored[title] = [{**name, **row} for name, row in zip(names, rows, strict=True)]
        lines.append(summary(title, rows, restarts))
    return stored, lines


if __name__ == "__main__":
    one_core()
    rows, sentences = measured()
    store(HERE, "restarts", {"sentences": sentences, "rows": rows})
    print("\n".join(sentences))
