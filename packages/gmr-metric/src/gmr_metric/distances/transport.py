"""The Wasserstein distance between mixtures whose couplings are mixtures (Delon and Desolneux, arXiv 1907.05254)."""

from __future__ import annotations

import math

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.costs import squared_wasserstein


def mixture_wasserstein(f: GaussianMixture, g: GaussianMixture) -> float:
    """Optimal transport of components under the squared 2-Wasserstein distance, solved as a linear programme."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    costs = squared_wasserstein(f, g)
    n, m = costs.shape
    w, v = f.weights / f.weights.sum(), g.weights / g.weights.sum()
    # The solver's tolerances are absolute. We subtract what each component pays in any case, measure costs in units of
    # a lower bound of the total, and weights in millionths, so that neither small mixtures nor light components are
    # lost in the tolerances.
    least = costs.min(axis=1)
    extra = costs - least[:, None]
    unit = max(float(w @ least), float(v @ costs.min(axis=0)), 1e-8 * float(extra.max())) or 1.0
    rows, columns = kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))
    solved = linprog(
        extra.ravel() / unit,
        # One constraint follows from the others; dropping it avoids a conflict from rounding.
        A_eq=vstack([rows, columns]).tocsr()[:-1],
        b_eq=1e6 * np.concatenate([w, v])[:-1],
        method="highs-ds",
        options={"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solved.status != 0:
        raise InputError(f"the transport of components has no solution: {solved.message}", "costs of fewer magnitudes")
    return math.sqrt(max(0.0, float(w @ least + 1e-6 * solved.x @ extra.ravel())))
