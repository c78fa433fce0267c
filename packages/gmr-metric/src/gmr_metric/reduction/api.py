"""Mixture reduction: one call for every method, and the registry that a user's own method joins."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common.errors import InputError, require

from gmr_metric.checks import is_whole, number
from gmr_metric.reduction.clustering import ctd, gmrc
from gmr_metric.reduction.exhaustive import brute_force
from gmr_metric.reduction.greedy import runnalls, salmond
from gmr_metric.reduction.merging import merge_groups
from gmr_metric.distances.metrics import distance
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.oggmr import oggmr, williams
from gmr_metric.reduction.outcome import Outcome, Step, nearest_kept
from gmr_metric.reduction.pruning import prune, threshold
from gmr_metric.reduction.west import cowa, west

if TYPE_CHECKING:
    from jaxtyping import Integer

Method = Callable[..., Outcome]
_METHODS: dict[str, Method] = {}


@dataclass(frozen=True, eq=False)
class Reduction:
    """A reduced mixture, and how it came about.

    Parameters
    ----------
    mixture
        The reduced mixture of L components.
    assignment
        Which of them each original component went to, shape (N,).
    history
        The method's steps, in their order.
    seconds
        How long the method took.
    original
        The mixture that was reduced.
    """

    mixture: GaussianMixture
    assignment: Integer[np.ndarray, " components"]
    history: tuple[Step, ...]
    seconds: float
    original: GaussianMixture = field(repr=False)

    @cached_property
    def distance(self) -> float:
        """The angle between the original and the reduced mixture, in [0, pi/2].

        It is computed when it is first asked for, since it costs a number of kernels quadratic in N.
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
    """Reduce a mixture to fewer components.

    Parameters
    ----------
    mixture
        A mixture of N components.
    n_components
        How many to keep at most, from 1 to N.
    method
        One of :func:`available_methods`.
    max_distance
        Instead, or besides: the largest angle between the original and the reduced mixture, in radians. The
        fewest components that keep within it are found by bisection, so that one fewer exceeds it; where even
        ``n_components`` exceed it, they stand.
    options
        The method's own options.

    Returns
    -------
    Reduction
        The reduced mixture; fewer components than asked for where some carry no weight, or the method stops early.

    Raises
    ------
    InputError
        Where the method is unknown (the known ones are listed), an option is not the method's (its own are
        listed), or a number is out of its range.

    Examples
    --------
    >>> pair = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> found = reduce(pair, 2, method="runnalls")
    >>> found.assignment.tolist(), found.mixture.means.tolist()
    ([0, 0, 1], [[0.1], [9.0]])
    >>> len(reduce(pair, max_distance=0.1).mixture)
    2
    """
    chosen = _method(method, options)
    n = len(mixture)
    if n_components is None and max_distance is None:
        raise InputError("neither n_components nor max_distance is given", "one of them, or both")
    if n_components is not None and not (is_whole(n_components) and 1 <= n_components <= n):
        raise InputError(f"n_components is {n_components}", f"a whole number from 1 to {n}, the mixture's components")
    if max_distance is not None:
        number("max_distance", max_distance, lambda angle: 0 <= angle < np.inf, "an angle >= 0, in radians")
    began = time.perf_counter()
    most = n if n_components is None else int(n_components)
    found = _run(chosen, mixture, most, options)
    if max_distance is not None and found.distance <= max_distance:
        enough, too_few = len(found.mixture), 0
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            trial = _run(chosen, mixture, middle, options)
            if trial.distance <= max_distance:
                found, enough = trial, len(trial.mixture)
            else:
                too_few = middle
    return Reduction(found.mixture, found.assignment, found.history, time.perf_counter() - began, mixture)


def reduce_many(
    mixtures: Iterable[GaussianMixture],
    n_components: int | None = None,
    method: str = "oggmr",
    *,
    n_jobs: int | None = None,
    **options: Any,
) -> list[Reduction]:
    """Reduce many mixtures, side by side through joblib.

    Parameters
    ----------
    mixtures
        The mixtures.
    n_components, method, options
        As for :func:`reduce`.
    n_jobs
        How many at a time, as joblib counts them: -1 for all cores, None for one, or for what
        ``joblib.parallel_config`` says. That is how a Ray or Dask cluster serves: by its joblib backend.

    Returns
    -------
    list of Reduction
        In the order of the mixtures, the same whatever ``n_jobs``.

    Raises
    ------
    InputError
        As :func:`reduce`; where the extra ``parallel`` is missing.
    """
    joblib = require("joblib", package="gmr-metric", extra="parallel")
    jobs = (joblib.delayed(reduce)(m, n_components, method, **options) for m in mixtures)
    return list(joblib.Parallel(n_jobs=n_jobs)(jobs))


def available_methods() -> tuple[str, ...]:
    """Return the methods that :func:`reduce` knows, a user's own included.

    Examples
    --------
    >>> "runnalls" in available_methods()
    True
    """
    return tuple(_METHODS)


def register_method(name: str, method: Method) -> None:
    """Make a reduction method known to :func:`reduce`, the command line and the comparisons.

    Parameters
    ----------
    name
        What it is called.
    method
        Called with a mixture, whose weights are all positive, a number of components from 1 to its length, and
        its own keyword options; it returns an :class:`~gmr_metric.Outcome`.

    Raises
    ------
    InputError
        Where the name is taken.

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
        raise InputError(f"a method {name!r} is there already", "another name")
    _METHODS[name] = method


def _method(name: str, options: dict[str, Any]) -> Method:
    if name not in _METHODS:
        raise InputError(f"method {name!r} is unknown", ", ".join(available_methods()))
    own = list(inspect.signature(_METHODS[name]).parameters)[2:]
    for option in options:
        if option not in own:
            raise InputError(f"{name} has no option {option!r}", ", ".join(own) or "no options")
    return _METHODS[name]


def _run(method: Method, mixture: GaussianMixture, n_components: int, options: dict[str, Any]) -> Reduction:
    """Run a method on the components that carry weight, and put the others to the nearest of them."""
    began = time.perf_counter()
    heavy = np.flatnonzero(mixture.weights > 0)
    whole = len(heavy) == len(mixture)
    part = mixture if whole else _subset(mixture, heavy)
    outcome = method(part, min(n_components, len(part)), **options)
    assignment = np.asarray(outcome.assignment)
    reduced = merge_groups(part, assignment) if outcome.mixture is None else outcome.mixture
    history = tuple(outcome.history)
    if not whole:
        assignment = assignment[nearest_kept(mixture, heavy)]
        history = tuple(
            Step(s.action, tuple(int(heavy[c]) for c in s.components), s.n_components, s.cost) for s in history
        )
    return Reduction(reduced, assignment, history, time.perf_counter() - began, mixture)


def _subset(mixture: GaussianMixture, kept: Sequence[int] | np.ndarray) -> GaussianMixture:
    return GaussianMixture(mixture.weights[kept], mixture.means[kept], mixture.covariances[kept], normalize=True)


_BUILT_IN: dict[str, Method] = {
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
for _name, _method_of_ours in _BUILT_IN.items():
    register_method(_name, _method_of_ours)
