"""The mixtures that the benchmarks reduce: seeded random ones, the classic example, and densities of real data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from gmr_metric import GaussianMixture


class Case(NamedTuple):
    """One reduction: a named mixture, and the number of components to keep."""

    name: str
    mixture: GaussianMixture
    n_components: int


def random_mixture(seed: int, n: int, d: int, spread: float = 3.0) -> GaussianMixture:
    """Return n components with uniform weights, normal means and Wishart covariances."""
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(n, d, d))
    covariances = root @ root.swapaxes(1, 2) / d + 0.2 * np.eye(d)
    return GaussianMixture(draw.random(n) + 0.05, spread * draw.normal(size=(n, d)), covariances, normalize=True)


def clustered_mixture(seed: int, n: int, d: int) -> GaussianMixture:
    """Return n components in a few groups of unequal sizes and shapes, as in tracking."""
    draw = np.random.default_rng(seed)
    groups = draw.integers(3, 8)
    member = draw.choice(groups, size=n, p=draw.dirichlet(np.full(groups, 2.0)))
    centres = 6 * draw.normal(size=(groups, d))
    roots = draw.normal(size=(groups, d, d)) * draw.uniform(0.3, 1.2, size=(groups, 1, 1))
    means = centres[member] + np.einsum("nij,nj->ni", roots[member], draw.normal(size=(n, d)))
    noise = roots[member] + 0.3 * draw.normal(size=(n, d, d))
    covariances = 0.5 * noise @ noise.swapaxes(1, 2) + 0.05 * np.eye(d)
    return GaussianMixture(draw.dirichlet(np.full(n, 0.7)) + 1e-4, means, covariances, normalize=True)


def classic() -> GaussianMixture:
    """Return the ten components in one dimension of Williams' thesis, which the literature reduces."""
    weights = [0.03, 0.18, 0.12, 0.19, 0.02, 0.16, 0.06, 0.10, 0.08, 0.06]
    means = np.array([1.45, 2.20, 0.67, 0.48, 1.49, 0.91, 1.01, 1.42, 2.77, 0.89])
    variances = np.array([0.0487, 0.0305, 0.1171, 0.0174, 0.0295, 0.0102, 0.0323, 0.0380, 0.0115, 0.0679])
    return GaussianMixture(weights, means[:, None], variances[:, None, None])


def real_densities() -> Iterator[tuple[str, GaussianMixture]]:
    """Return kernel density estimates of data sets in scikit-learn."""
    from sklearn.datasets import load_iris, load_wine

    iris, wine = load_iris().data, load_wine().data
    yield "iris, 4 measurements", GaussianMixture.from_kde(iris)
    standard = (wine - wine.mean(axis=0)) / wine.std(axis=0)
    yield "wine, 2 measurements", GaussianMixture.from_kde(standard[:, [0, 9]])


def cases() -> Iterator[Case]:
    """Return the whole suite, the same at every call."""
    for n_components in (6, 5, 4):
        yield Case("classic", classic(), n_components)
    for name, mixture in real_densities():
        for n_components in (3, 10, 30):
            yield Case(name, mixture, n_components)
    for d in range(1, 9):
        for n in (10, 40, 100, 200):
            for kind in (random_mixture, clustered_mixture):
                mixture = kind(1000 * d + n, n, d)
                for n_components in sorted({max(2, n // 20), max(3, n // 5)}):
                    yield Case(f"{kind.__name__.replace('_', ' ')}, N {n}, d {d}", mixture, n_components)
