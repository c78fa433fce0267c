"""Distances between Gaussian mixtures.

``angle``, ``chord``, ``sine``, ``l2`` and ``mw2`` are metrics on densities; ``ise``, ``nise``,
``cauchy-schwarz`` and ``kl`` are not (the tests keep a counterexample of each). That the
angle is the paper's metric (arXiv 2306.07309) is *ours*: the paper's body was not at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sextet_common.errors import InputError

from gmr_metric.checks import is_whole
from gmr_metric.distances.costs import squared_wasserstein
from gmr_metric.distances.differences import difference
from gmr_metric.distances.inner import log_inner_product
from gmr_metric.density.mixture import GaussianMixture

if TYPE_CHECKING:
    from jaxtyping import Float

_NEAR = 1 - 1e-3  # a cosine above it has lost digits that the difference of the two still has


class Estimate(NamedTuple):
    """A Monte-Carlo estimate.

    Attributes
    ----------
    value
        The sample mean.
    standard_error
        Its standard deviation.
    """

    value: float
    standard_error: float


class _Products(NamedTuple):
    """The logs of <f, g>, <f, f> and <g, g>."""

    fg: float
    ff: float
    gg: float

    @property
    def log_cosine(self) -> float:
        return min(0.0, self.fg - 0.5 * (self.ff + self.gg))


def similarity(f: GaussianMixture, g: GaussianMixture) -> float:
    """Cosine of the angle between two mixtures in L2.

    Parameters
    ----------
    f, g
        Mixtures in the same dimensions.

    Returns
    -------
    float
        In [0, 1]; 1 for equal mixtures, and invariant under affine maps of the space.

    Raises
    ------
    InputError
        Where the dimensions differ.

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 1.0))
    >>> round(similarity(f, g), 6)  # exp(-1/4)
    0.778801
    """
    return math.exp(_products(f, g).log_cosine)


def distance(f: GaussianMixture, g: GaussianMixture, metric: str = "angle", *, samples: int = 10_000) -> float:
    """Distance between two mixtures.

    Parameters
    ----------
    f, g
        Mixtures in the same dimensions.
    metric
        ``angle`` (arc cosine of the similarity, in [0, pi/2]), ``chord`` (sqrt(2 - 2 cos)),
        ``sine``, ``l2`` (norm of f - g), ``ise`` (its square), ``nise`` (ise over the sum of
        the squared norms), ``cauchy-schwarz`` (-log cos), ``mw2`` (optimal transport of
        components under the 2-Wasserstein distance) or ``kl`` (Kullback-Leibler divergence of
        g from f, by sampling: :func:`kl_divergence`).
    samples
        How many samples ``kl`` draws.

    Returns
    -------
    float
        At least 0 (``kl`` may fall below by its sampling error). Mixtures of as many components
        that nearly agree are compared by their differences, so that distances far below 1e-8
        keep their digits; other pairs have an absolute error of about 1e-8.

    Raises
    ------
    InputError
        Where the metric is unknown (the accepted ones are listed) or the dimensions differ.

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
    if f.dim != g.dim:
        raise InputError(f"mixtures of {f.dim} and {g.dim} dimensions", "the same number of dimensions")
    return _METRICS[metric](f, g)


def available_metrics() -> tuple[str, ...]:
    """Return the metrics that :func:`distance` knows.

    Examples
    --------
    >>> available_metrics()[:3]
    ('angle', 'chord', 'sine')
    """
    return (*_METRICS, "kl")


def pairwise_distances(mixtures: Sequence[GaussianMixture], metric: str = "angle") -> Float[np.ndarray, "n n"]:
    """Distances between all pairs of some mixtures.

    Parameters
    ----------
    mixtures
        n mixtures in the same dimensions.
    metric
        As in :func:`distance`.

    Returns
    -------
    numpy.ndarray
        Shape (n, n), zero on the diagonal; symmetric but for ``kl``.

    Raises
    ------
    InputError
        As :func:`distance`.
    """
    n = len(mixtures)
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i < j or (metric == "kl" and i != j):
                result[i, j] = distance(mixtures[i], mixtures[j], metric)
                if metric != "kl":
                    result[j, i] = result[i, j]
    return result


def kl_divergence(f: GaussianMixture, g: GaussianMixture, *, samples: int = 10_000, seed: int = 0) -> Estimate:
    """Kullback-Leibler divergence of g from f, by sampling from f.

    Parameters
    ----------
    f, g
        Mixtures in the same dimensions.
    samples
        How many samples, at least 2.
    seed
        The same seed gives the same estimate.

    Returns
    -------
    Estimate
        The mean of ``log f - log g`` over the samples, and its standard error.

    Raises
    ------
    InputError
        Where the dimensions differ or there are too few samples.

    Examples
    --------
    >>> f, g = (GaussianMixture([1.0], [[x]], [[[1.0]]]) for x in (0.0, 1.0))
    >>> found = kl_divergence(f, g)  # exactly 0.5
    >>> abs(found.value - 0.5) < 4 * found.standard_error
    True
    """
    if not (is_whole(samples) and samples >= 2):
        raise InputError(f"samples is {samples}", "a whole number >= 2")
    if f.dim != g.dim:
        raise InputError(f"mixtures of {f.dim} and {g.dim} dimensions", "the same number of dimensions")
    points = f.sample(samples, seed)
    ratios = f.logpdf(points) - g.logpdf(points)
    return Estimate(float(ratios.mean()), float(ratios.std(ddof=1) / math.sqrt(samples)))


def _products(f: GaussianMixture, g: GaussianMixture) -> _Products:
    return _Products(log_inner_product(f, g), log_inner_product(f, f), log_inner_product(g, g))


def _chord(f: GaussianMixture, g: GaussianMixture) -> float:
    products = _products(f, g)
    cosine = math.exp(products.log_cosine)
    if cosine > _NEAR:
        near = difference(f, g)
        if near is not None:
            return 2 * math.sin(math.asin(min(1.0, near.sine)) / 2)
    return math.sqrt(max(0.0, 2 - 2 * cosine))


def _angle(f: GaussianMixture, g: GaussianMixture) -> float:
    chord = _chord(f, g)
    # Two forms of one function: the arc cosine keeps the digits of small cosines, the arc sine those of small chords.
    return 2 * math.asin(chord / 2) if chord < 1 else math.acos(math.exp(_products(f, g).log_cosine))


def _ise(f: GaussianMixture, g: GaussianMixture) -> float:
    products = _products(f, g)
    if math.exp(products.log_cosine) > _NEAR:
        near = difference(f, g)
        if near is not None:
            return near.ise
    largest = max(products)
    fg, ff, gg = (math.exp(value - largest) for value in products)
    return max(0.0, ff + gg - 2 * fg) * math.exp(largest)


def _nise(f: GaussianMixture, g: GaussianMixture) -> float:
    products = _products(f, g)
    return _ise(f, g) / (math.exp(products.ff) + math.exp(products.gg))


def _cauchy_schwarz(f: GaussianMixture, g: GaussianMixture) -> float:
    chord = _chord(f, g)
    return -math.log1p(-(chord**2) / 2) if chord < 1 else -_products(f, g).log_cosine


def _sine(f: GaussianMixture, g: GaussianMixture) -> float:
    return math.sin(_angle(f, g))


def _l2(f: GaussianMixture, g: GaussianMixture) -> float:
    return math.sqrt(_ise(f, g))


def _mw2(f: GaussianMixture, g: GaussianMixture) -> float:
    """Wasserstein distance between mixtures whose couplings are mixtures (Delon and Desolneux, arXiv 1907.05254)."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    costs = squared_wasserstein(f, g)
    n, m = costs.shape
    w, v = f.weights / f.weights.sum(), g.weights / g.weights.sum()
    # The solver's tolerances are absolute: costs go to it less what each component pays anyway and in units of a lower
    # bound of the whole, weights in millionths, so that neither small mixtures nor light components lie within them.
    least = costs.min(axis=1)
    extra = costs - least[:, None]
    unit = max(float(w @ least), float(v @ costs.min(axis=0)), 1e-8 * float(extra.max())) or 1.0
    rows, columns = kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))
    solved = linprog(
        extra.ravel() / unit,
        # One constraint follows from the others; dropping it spares the solver a rounding conflict.
        A_eq=vstack([rows, columns]).tocsr()[:-1],
        b_eq=1e6 * np.concatenate([w, v])[:-1],
        method="highs-ds",
        options={"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solved.status != 0:
        raise InputError(f"the transport of components has no solution: {solved.message}", "costs of fewer magnitudes")
    return math.sqrt(max(0.0, float(w @ least + 1e-6 * solved.x @ extra.ravel())))


_METRICS: dict[str, Callable[[GaussianMixture, GaussianMixture], float]] = {
    "angle": _angle,
    "chord": _chord,
    "sine": _sine,
    "l2": _l2,
    "ise": _ise,
    "nise": _nise,
    "cauchy-schwarz": _cauchy_schwarz,
    "mw2": _mw2,
}
