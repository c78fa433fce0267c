"""Mixture reduction: one call for every method, and the registry that user-defined methods join."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
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
from gmr_metric.reduction.greedy import MANY, runnalls, salmond
from gmr_metric.reduction.groups import History, groups_after, merges_only, renamed
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
MERGING = "runnalls, salmond, west, williams, or oggmr with refine='none'"  # those whose history gives all levels


@dataclass(frozen=True, eq=False)
class Reduction:
    """A reduced mixture, and how it was obtained.

    ``assignment``, shape (N,), is the reduced component that each original one went to. ``history`` holds the method's
    steps in order, and ``seconds`` its running time. ``merges`` tells whether the reduced components are the
    moment-preserving merges of their groups.
    """

    mixture: GaussianMixture
    assignment: Integer[np.ndarray, " components"]
    history: Sequence[Step] = field(repr=False)
    seconds: float
    original: GaussianMixture = field(repr=False)
    merges: bool = False

    @cached_property
    def distance(self) -> float:
        """The angle between the original and the reduced mixture, in [0, pi/2].

        It is computed on first access, because it costs a number of kernels quadratic in N.
        """
        return distance(self.original, self.mixture)

    def cut(self, n_components: int) -> Reduction:
        """Return the reduction to more components that the first of these merges make; groups of all levels are nested.

        The method must only merge: runnalls, salmond, west, williams, or oggmr with ``refine="none"``. Up to 500
        components, or with ``neighbours=0``, the result is that of the method itself with ``n_components``, from the
        number of reduced to that of original components.

        Examples
        --------
        >>> line = GaussianMixture(np.full(4, 0.25), [[0.0], [0.5], [3.0], [9.0]], np.ones((4, 1, 1)))
        >>> reduction = reduce(line, 1, method="runnalls")
        >>> [reduction.cut(k).assignment.tolist() for k in (1, 2, 3)]
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 2]]
        """
        check("n_components", n_components, Annotated[int, Bounds(len(self.mixture), len(self.original))])
        start = time.perf_counter()
        part, _, nearest = self._positive
        steps = max(0, len(part) - int(n_components))
        groups = groups_after(self._pairs[:steps], len(part))
        mixture, history = merge_groups(part, groups), self.history[:steps]
        return Reduction(mixture, groups[nearest], history, time.perf_counter() - start, self.original, merges=True)

    @cached_property
    def _positive(self) -> tuple[GaussianMixture, np.ndarray, np.ndarray]:
        return _positive(self.original)

    @cached_property
    def _pairs(self) -> np.ndarray:
        """The groups that were merged, shape (M, 2), among the components of positive weight."""
        history = self.history
        if not self.merges or not merges_only(history):
            raise InputError("a reduction that is more than merges has no other levels", f"one by {MERGING}")
        pairs = history.pairs if isinstance(history, History) else [step.components for step in history]
        pairs_here: np.ndarray = np.searchsorted(self._positive[1], np.array(pairs, dtype=np.intp).reshape(-1, 2))
        return pairs_here


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
    # One run of merges has all levels, so that bisection costs no more runs.
    levels = max_distance is not None and n <= MANY and merges_alone(method, options)
    whole = _run(chosen, mixture, 1, options) if levels else None
    best = _run(chosen, mixture, most, options) if whole is None else whole.cut(most)
    if max_distance is not None and best.distance <= max_distance:
        enough, too_few = len(best.mixture), 0
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            trial = _run(chosen, mixture, middle, options) if whole is None else whole.cut(middle)
            if trial.distance <= max_distance:
                best, enough = trial, len(trial.mixture)
            else:
                too_few = middle
    return replace(best, seconds=time.perf_counter() - start)


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


def merges_alone(name: str, options: dict[str, Any]) -> bool:
    """Return whether a built-in method with these options only merges, so that its result can be cut."""
    return name in ("runnalls", "salmond", "west", "williams") or (name, options.get("refine")) == ("oggmr", "none")


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
    part, heavy, nearest = _positive(mixture)
    outcome = method(part, min(n_components, len(part)), **options)
    assignment = np.asarray(outcome.assignment)
    merges = outcome.mixture is None
    reduced = merge_groups(part, assignment) if outcome.mixture is None else outcome.mixture
    if mixture.dim == 1:  # where all types of covariances are the same
        reduced = reduced.convert(mixture.covariance_type)
    history: Sequence[Step] = outcome.history if isinstance(outcome.history, History) else tuple(outcome.history)
    if len(part) < len(mixture):
        history = renamed(history, heavy)
    return Reduction(reduced, assignment[nearest], history, time.perf_counter() - start, mixture, merges)


def _positive(mixture: GaussianMixture) -> tuple[GaussianMixture, np.ndarray, np.ndarray]:
    """Return the components of positive weight, their indices, and the nearest of them to each component (N,)."""
    heavy = np.flatnonzero(mixture.weights > 0)
    if len(heavy) == len(mixture):
        return mixture, heavy, heavy
    return mixture.subset(heavy), heavy, nearest_kept(mixture, heavy)
