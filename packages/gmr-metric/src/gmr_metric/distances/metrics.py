"""Distances between Gaussian mixtures.

``angle``, ``chord``, ``sine``, ``l2`` and ``mw2`` are metrics on densities; ``ise``, ``nise``, ``cauchy-schwarz`` and
``kl`` are not (the tests keep a counterexample of each). The paper's full text (arXiv 2306.07309) was not available to
us; we take its metric to be the angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from sextet_common.checks import Bounds, check
from sextet_common.errors import InputError

from gmr_metric.checks import drawing
from gmr_metric.density.kinds import matching
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.differences import Difference, difference
from gmr_metric.distances.inner import log_inner_product
from gmr_metric.distances.transport import mixture_wasserstein

if TYPE_CHECKING:
    from jaxtyping import Float

_NEAR = 1 - 1e-3  # above this cosine, digits are lost that the mixtures' difference still has


class Estimate(NamedTuple):
    """A Monte-Carlo estimate: the sample mean and its standard deviation."""

    value: float
    standard_error: float


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


def distance(f: GaussianMixture, g: GaussianMixture, metric: str = "angle", *, samples: int = 10_000) -> float:
    """Distance between two mixtures of the same dimension, at least 0 (``kl`` may be negative by its sampling error).

    Nearly equal mixtures with the same number of components are compared through their differences, so that distances
    far below 1e-8 are accurate; other pairs have an absolute error of about 1e-8.

    Parameters
    ----------
    metric
        ``angle`` (arc cosine of the similarity, in [0, pi/2]), ``chord`` (sqrt(2 - 2 cos)), ``sine``, ``l2`` (norm of
        f - g), ``ise`` (its square), ``nise`` (ise over the sum of the squared norms), ``cauchy-schwarz`` (-log cos),
        ``mw2`` (optimal transport of components under the 2-Wasserstein distance) or ``kl`` (Kullback-Leibler
        divergence of g from f, by sampling: :func:`kl_divergence`).
    samples
        Number of samples for ``kl``.

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 1e-10))
    >>> f"{distance(f, g):.6e}"  # 1e-10 / sqrt(2)
    '7.071068e-11'
    """
    if metric == "kl":
        return kl_divergence(f, g, samples=samples).value
    if metric not in _METRICS:
        raise InputError(f"metric {metric!r} is unknown", ", ".join(available_metrics()))
    return _METRICS[metric](_Pair(f, g))


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
