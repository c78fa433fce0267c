"""Distances between Gaussian mixtures.

``angle``, ``chord``, ``sine``, ``l2`` and ``mw2`` are metrics on densities; ``ise``, ``nise``, ``cauchy-schwarz`` and
``kl`` are not (the tests keep a counterexample of each). The paper's full text (arXiv 2306.07309) was not available to
us; we take its metric to be the angle.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, overload

import numpy as np
from sextet_common.checks import Bounds, check
from sextet_common.errors import InputError

from gmr_metric.checks import drawing
from gmr_metric.density.kinds import matching
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.differences import Difference, condition, difference
from gmr_metric.distances.inner import log_inner_product
from gmr_metric.distances.transport import mixture_wasserstein

if TYPE_CHECKING:
    from jaxtyping import Float

WITH_ERROR = ("angle", "chord", "sine", "kl")  # the metrics that `return_error` accepts
_ILL = 1e4  # condition number from which its effect is examined
_INACCURATE = 1e-9  # an error that causes a warning
_NEAR = 1 - 1e-3  # above this cosine, digits are lost that the mixtures' difference still has


class Estimate(NamedTuple):
    """A Monte-Carlo estimate: the sample mean and its standard deviation."""

    value: float
    standard_error: float


class Measured(NamedTuple):
    """A value, and an estimate of its error."""

    value: float
    error: float


class AccuracyWarning(UserWarning):
    """The condition of a covariance makes a result inaccurate."""


def similarity(f: GaussianMixture, g: GaussianMixture) -> float:
    """Cosine of the angle between two mixtures in L2.

    It is in [0, 1], 1 for equal mixtures, and invariant under affine maps of the space.

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 1.0))
    >>> round(similarity(f, g), 6)  # exp(-1/4)
    0.778801
    """
    return _Pair(f, g).cosine


@overload
def distance(
    f: GaussianMixture, g: GaussianMixture, metric: str = "angle", *, samples: int = 10_000, return_error: Literal[True]
) -> Measured: ...
@overload
def distance(
    f: GaussianMixture,
    g: GaussianMixture,
    metric: str = "angle",
    *,
    samples: int = 10_000,
    return_error: Literal[False] = False,
) -> float: ...
def distance(
    f: GaussianMixture,
    g: GaussianMixture,
    metric: str = "angle",
    *,
    samples: int = 10_000,
    return_error: bool = False,
) -> float | Measured:
    """Distance between two mixtures of the same dimension, at least 0 (``kl`` may be negative by its sampling error).

    Nearly equal mixtures are compared through the differences of paired components, so that distances far below 1e-8
    are accurate. If components of neither mixture can all be paired with nearest ones of the other, the absolute error
    is about 1e-8. A rounding error above 1e-9 due to the condition of a covariance causes an `AccuracyWarning`.

    Parameters
    ----------
    metric
        ``angle`` (arc cosine of the similarity, in [0, pi/2]), ``chord`` (sqrt(2 - 2 cos)), ``sine``, ``l2`` (norm of
        f - g), ``ise`` (its square), ``nise`` (ise over the sum of the squared norms), ``cauchy-schwarz`` (-log cos),
        ``mw2`` (optimal transport of components under the 2-Wasserstein distance) or ``kl`` (Kullback-Leibler
        divergence of g from f, by sampling: :func:`kl_divergence`).
    samples
        Number of samples for ``kl``.
    return_error
        Return a `Measured` value, with its error: for ``angle``, ``chord`` and ``sine`` an estimate of the rounding
        error from above (a smaller value may be zero), for ``kl`` the standard error.

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 1e-10))
    >>> f"{distance(f, g):.6e}"  # 1e-10 / sqrt(2)
    '7.071068e-11'
    >>> distance(f, g, return_error=True).error < 1e-20
    True
    """
    if metric not in available_metrics():
        raise InputError(f"metric {metric!r} is unknown", ", ".join(available_metrics()))
    if return_error and metric not in WITH_ERROR:
        raise InputError(f"return_error for {metric}", ", ".join(WITH_ERROR))
    if metric == "kl":
        estimate = kl_divergence(f, g, samples=samples)
        return Measured(*estimate) if return_error else estimate.value
    pair = _Pair(f, g)
    value = _METRICS[metric](pair)
    if metric != "mw2" and pair.condition > _ILL:
        pair.warn()
    return Measured(value, pair.error(pair.condition)) if return_error else value


def available_metrics() -> tuple[str, ...]:
    """Return the names of the metrics that :func:`distance` accepts.

    Examples
    --------
    >>> available_metrics()[:3]
    ('angle', 'chord', 'sine')
    """
    return (*_METRICS, "kl")


def pairwise_distances(mixtures: Sequence[GaussianMixture], metric: str = "angle") -> Float[np.ndarray, "n n"]:
    """Distances between all pairs of n mixtures, shape (n, n); zero on the diagonal, symmetric except for ``kl``.

    Every mixture's norm is computed once.
    """
    n = len(mixtures)
    table = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if metric == "kl" and i != j:
                table[i, j] = distance(mixtures[i], mixtures[j], metric)
            elif i < j:
                table[i, j] = table[j, i] = distance(mixtures[i], mixtures[j], metric)
    return table


def kl_divergence(
    f: GaussianMixture,
    g: GaussianMixture,
    *,
    samples: int = 10_000,
    seed: int | np.random.Generator = 0,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> Estimate:
    """Kullback-Leibler divergence of g from f, by sampling from f.

    The estimate is the mean of ``log f - log g`` over at least 2 samples, with its standard error. The seed may
    be a generator; ``random_state`` is another name for it.

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 1.0))
    >>> estimate = kl_divergence(f, g)  # exactly 0.5
    >>> abs(estimate.value - 0.5) < 4 * estimate.standard_error
    True
    """
    check("samples", samples, Annotated[int, Bounds(2)])
    matching(f, g)
    points = f.sample(samples, drawing(seed, random_state, "mixture sample"))
    ratios = f.logpdf(points) - g.logpdf(points)
    return Estimate(float(ratios.mean()), float(ratios.std(ddof=1) / math.sqrt(samples)))


class _Pair:
    """Two mixtures with their log inner products <f, g>, <f, f> and <g, g>, each computed when it is needed."""

    def __init__(self, f: GaussianMixture, g: GaussianMixture) -> None:
        self.f, self.g = f, matching(f, g)

    @cached_property
    def logs(self) -> tuple[float, float, float]:
        f, g = self.f, self.g
        return log_inner_product(f, g), log_inner_product(f, f), log_inner_product(g, g)

    @property
    def log_cosine(self) -> float:
        fg, ff, gg = self.logs
        return min(0.0, fg - 0.5 * (ff + gg))

    @property
    def cosine(self) -> float:
        return math.exp(self.log_cosine)

    @cached_property
    def difference(self) -> Difference | None:
        """The exact difference of nearly equal mixtures, None for others."""
        return difference(self.f, self.g) if self.cosine > _NEAR else None

    @cached_property
    def condition(self) -> float:
        """An estimate of the worst covariance's condition number."""
        return max(condition(self.f), condition(self.g))

    def error(self, worst: float) -> float:
        """Estimate the rounding error of the angle, from above, for covariances of a condition number."""
        eps = float(np.finfo(float).eps)
        rounding = eps * (8 + 2 * self.f.dim) * worst
        sine = math.sqrt(max(0.0, 1 - self.cosine**2))
        if self.difference is not None:
            return self.difference.error * worst / self.condition + rounding * self.difference.sine
        of_log = rounding + 4 * eps * max(map(abs, self.logs))
        return float(self.cosine * of_log / max(sine, math.sqrt(of_log)) + 4 * eps)

    def warn(self) -> None:
        """Warn of an error above 1e-9 that is due to the condition of a covariance."""
        error = self.error(self.condition)
        if error > _INACCURATE and error > 2 * self.error(1.0):
            text = f"a covariance of condition {self.condition:.1g} makes the angle uncertain by up to {error:.1g}"
            warnings.warn(text, AccuracyWarning, stacklevel=3)


def _chord(pair: _Pair) -> float:
    if pair.difference is not None:
        return 2 * math.sin(math.asin(min(1.0, pair.difference.sine)) / 2)
    return math.sqrt(max(0.0, 2 - 2 * pair.cosine))


def _angle(pair: _Pair) -> float:
    chord = _chord(pair)
    # The arc sine keeps the digits of small chords, the arc cosine those of small cosines.
    return 2 * math.asin(chord / 2) if chord < 1 else math.acos(pair.cosine)


def _ise(pair: _Pair) -> float:
    if pair.difference is not None:
        return pair.difference.ise
    largest = max(pair.logs)
    fg, ff, gg = (math.exp(value - largest) for value in pair.logs)
    return max(0.0, ff + gg - 2 * fg) * math.exp(largest)


def _nise(pair: _Pair) -> float:
    _, ff, gg = pair.logs
    return _ise(pair) / (math.exp(ff) + math.exp(gg))


def _cauchy_schwarz(pair: _Pair) -> float:
    chord = _chord(pair)
    return -math.log1p(-(chord**2) / 2) if chord < 1 else -pair.log_cosine


_METRICS: dict[str, Callable[[_Pair], float]] = {
    "angle": _angle,
    "chord": _chord,
    "sine": lambda pair: math.sin(_angle(pair)),
    "l2": lambda pair: math.sqrt(_ise(pair)),
    "ise": _ise,
    "nise": _nise,
    "cauchy-schwarz": _cauchy_schwarz,
    "mw2": lambda pair: mixture_wasserstein(pair.f, pair.g),
}
