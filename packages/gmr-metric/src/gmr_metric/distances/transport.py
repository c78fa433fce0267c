"""The Wasserstein distance between mixtures whose couplings are mixtures (Delon and Desolneux, arXiv 1907.05254)."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.costs import squared_wasserstein

if TYPE_CHECKING:
    from jaxtyping import Float

_LARGE = 2**17  # pairs from which it pays to import POT, which imports torch where it is installed
_ITERATIONS = 10_000_000  # of the network simplex


class Transport(NamedTuple):
    """An optimal transport of components.

    ``plan``, shape (N, M), is the weight that goes from each component of the first mixture to each of the second;
    ``cost``, the sum of the plan times the squared 2-Wasserstein distances, is the square of the metric ``mw2``.
    """

    plan: Float[np.ndarray, "n m"]
    cost: float


def transport(f: GaussianMixture, g: GaussianMixture) -> Transport:
    """Optimal transport of f's components to g's under the squared 2-Wasserstein distance.

    The network simplex of POT solves it where POT is installed (extra ``transport``) and either imported already or
    worth the import: from 131,072 pairs, about twenty times as fast as the linear programme of SciPy. The cost is the
    same; where several plans are optimal, the plans may differ.

    Examples
    --------
    >>> f = GaussianMixture([0.5, 0.5], [0.0, 4.0], [1.0, 1.0])
    >>> g = GaussianMixture([0.75, 0.25], [0.0, 4.0], [1.0, 1.0])
    >>> transport(f, g).plan.round(6).tolist(), round(transport(f, g).cost, 6)
    ([[0.5, 0.0], [0.25, 0.25]], 4.0)
    """
    costs = squared_wasserstein(f, g)
    w, v = f.weights / f.weights.sum(), g.weights / g.weights.sum()
    # Solvers have absolute tolerances. We subtract what each component pays in any case, and measure costs in units of
    # a lower bound of the total, so that small mixtures are not lost in the tolerances.
    least = costs.min(axis=1)
    extra = costs - least[:, None]
    unit = max(float(w @ least), float(v @ costs.min(axis=0)), 1e-8 * float(extra.max())) or 1.0
    plan = None
    if "ot" in sys.modules or (costs.size >= _LARGE and importlib.util.find_spec("ot")):
        plan = _network_simplex(w, v, extra / unit)
    if plan is None:
        plan = _linear_programme(w, v, extra / unit)
    return Transport(plan, max(0.0, float(w @ least + plan.ravel() @ extra.ravel())))


def mixture_wasserstein(f: GaussianMixture, g: GaussianMixture) -> float:
    """Return the distance ``mw2``."""
    return math.sqrt(transport(f, g).cost)


def _network_simplex(w: np.ndarray, v: np.ndarray, costs: np.ndarray) -> np.ndarray | None:
    """Return POT's plan, None if it is not exact."""
    emd = importlib.import_module("ot.lp").emd
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a plan that is not optimal is computed again
        plan, log = emd(w, v, costs, numItermax=_ITERATIONS, log=True)
    exact = log["result_code"] == 1 and np.abs(plan.sum(axis=1) - w).max() < 1e-15
    return np.asarray(plan) if exact and np.abs(plan.sum(axis=0) - v).max() < 1e-15 else None


def _linear_programme(w: np.ndarray, v: np.ndarray, costs: np.ndarray) -> np.ndarray:
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, m = costs.shape
    rows, columns = kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))
    solved = linprog(
        costs.ravel(),
        # One constraint follows from the others; dropping it avoids a conflict from rounding.
        A_eq=vstack([rows, columns]).tocsr()[:-1],
        b_eq=1e6 * np.concatenate([w, v])[:-1],  # light components are not lost in the tolerances
        method="highs-ds",
        options={"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solved.status != 0:
        raise InputError(f"the transport of components has no solution: {solved.message}", "costs of fewer magnitudes")
    plan: np.ndarray = 1e-6 * solved.x.reshape(n, m)
    return plan
