"""Mixture reduction: one call for every method, and the registry that user-defined methods join."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from sextet_common.checks import Bounds, NonNegative, check
from sextet_common.errors import InputError, require

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction.clustering import ctd, gmrc
from gmr_metric.reduction.cowa import cowa
from gmr_metric.reduction.exhaustive import brute_force
from gmr_metric.reduction.greedy import runnalls, salmond
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.reduction.oggmr import oggmr
from gmr_metric.reduction.outcome import Outcome, Step, nearest_kept
from gmr_metric.reduction.pruning import prune, threshold
from gmr_metric.reduction.tables import williams
from gmr_metric.reduction.west import west

if TYPE_CHECKING:
    from jaxtyping import Integer

Method = Callable[..., Outcome]
BUILT_IN: dict[str, Method] = {
    "prune": prune,
    "threshold": threshold,
    "salmond": salmond,
    "west": west,
    "williams": williams,
    "runnalls": runnalls,
    "cowa": cowa,
    "gmrc": gmrc,
    "ctd": ctd,
    "brute-force": brute_force,
    "oggmr": oggmr,
}
_METHODS = dict(BUILT_IN)


@dataclass(frozen=True, eq=False)
class Reduction:
    """A reduced mixture, and how it was obtained.

    ``assignment``, shape (N,), is the reduced component that each original one went to. ``history`` holds the method's
    steps in order, and ``seconds`` its running time.
    """

    mixture: GaussianMixture
    assignment: Integer[np.ndarray, " components"]
    history: tuple[Step, ...]
    seconds: float
    original: GaussianMixture = field(repr=False)

    @cached_property
    def distance(self) -> float:
        """The angle between the original and the reduced mixture, in [0, pi/2].

        It is computed on first access, because it costs a number of kernels quadratic in N.
        """
        return distance(self.original, self.mixture)


def reduce(
    mixture: GaussianMixture,
    n_components: int | None = None,
    method: str = "oggmr",
    *,
    max_distance: float | None = None,
    **options: Any,
) -> Reduction:
    """Reduce a mixture to at most ``n_components``, by one of :func:`available_methods` and its own ``options``.

    The result has fewer components if some have no weight, or if the method stops early.

    Parameters
    ----------
    n_components
        From 1 to the mixture's number of components.
    max_distance
        The largest angle between the original and the reduced mixture, in radians, instead of or in addition to
        ``n_components``. Bisection finds the fewest components within it, so that one fewer exceeds it; if
        ``n_components`` exceed it already, they are returned.

    Examples
    --------
    >>> pair = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> reduction = reduce(pair, 2, method="runnalls")
    >>> reduction.assignment.tolist(), reduction.mixture.means.tolist()
    ([0, 0, 1], [[0.1], [9.0]])
    >>> len(reduce(pair, max_distance=0.1).mixture)
    2
    """
    chosen = _method(method, options)
    n = len(mixture)
    if n_components is None and max_distance is None:
        raise InputError("neither n_components nor max_distance is given", "one of them, or both")
    check("n_components", n_components, Annotated[int, Bounds(1, n)] | None)
    check("max_distance", max_distance, NonNegative | None)
    start = time.perf_counter()
    most = n if n_components is None else int(n_components)
    best = _run(chosen, mixture, most, options)
    if max_distance is not None and best.distance <= max_distance:
        enough, too_few = len(best.mixture), 0
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            trial = _run(chosen, mixture, middle, options)
            if trial.distance <= max_distance:
                best, enough = trial, len(trial.mixture)
            else:
                too_few = middle
    return Reduction(best.mixture, best.assignment, best.history, time.perf_counter() - start, mixture)


def reduce_many(
    mixtures: Iterable[GaussianMixture],
    n_components: int | None = None,
    method: str = "oggmr",
    *,
    n_jobs: int | None = None,
    **options: Any,
) -> list[Reduction]:
    """Reduce many mixtures in parallel through joblib, each as :func:`reduce` does; the results keep their order.

    ``n_jobs`` is the number of parallel jobs, as in joblib: -1 for all cores, None for one, or for what
    ``joblib.parallel_config`` says. A Ray or Dask cluster works through its joblib backend. The results are the same
    for any ``n_jobs``.
    """
    joblib = require("joblib", package="gmr-metric", extra="parallel")
    jobs = (joblib.delayed(reduce)(m, n_components, method, **options) for m in mixtures)
    return list(joblib.Parallel(n_jobs=n_jobs)(jobs))


def available_methods() -> tuple[str, ...]:
    """Return the names of the methods that :func:`reduce` accepts, including user-defined ones.

    Examples
    --------
    >>> "runnalls" in available_methods()
    True
    """
    return tuple(_METHODS)


def register_method(name: str, method: Method) -> None:
    """Make a reduction method available, under a new name, to :func:`reduce`, the command line and the comparisons.

    It is called with a mixture, whose weights are all positive, a number of components from 1 to its length, and its
    own keyword options; it returns an :class:`~gmr_metric.Outcome`.

    Examples
    --------
    >>> def left_and_right(mixture, n_components):
    ...     return Outcome((mixture.means[:, 0] > mixture.mean()[0]).astype(int))
    >>> register_method("left-and-right", left_and_right)
    >>> mixture = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> reduce(mixture, 2, "left-and-right").assignment.tolist()
    [0, 0, 1]
    """
    if name in _METHODS:
        raise InputError(f"a method {name!r} is already registered", "another name")
    _METHODS[name] = method


def check_method(name: str) -> None:
    """Refuse the name of an unknown method."""
    if name not in _METHODS:
        raise InputError(f"method {name!r} is unknown", ", ".join(available_methods()))


def _method(name: str, options: dict[str, Any]) -> Method:
    check_method(name)
    own = list(inspect.signature(_METHODS[name]).parameters)[2:]
    for option in options:
        if option not in own:
            raise InputError(f"{name} has no option {option!r}", ", ".join(own) or "no options")
    return _METHODS[name]


def _run(method: Method, mixture: GaussianMixture, n_components: int, options: dict[str, Any]) -> Reduction:
    """Run a method on the components of positive weight, and assign the others to the nearest of them."""
    start = time.perf_counter()
    heavy = np.flatnonzero(mixture.weights > 0)
    whole = len(heavy) == len(mixture)
    part = mixture if whole else mixture.subset(heavy)
    outcome = method(part, min(n_components, len(part)), **options)
    assignment = np.asarray(outcome.assignment)
    reduced = merge_groups(part, assignment) if outcome.mixture is None else outcome.mixture
    history = tuple(outcome.history)
    if not whole:
        assignment = assignment[nearest_kept(mixture, heavy)]
        history = tuple(
            Step(s.action, tuple(int(heavy[c]) for c in s.components), s.n_components, s.cost) for s in history
        )
    return Reduction(reduced, assignment, history, time.perf_counter() - start, mixture)
