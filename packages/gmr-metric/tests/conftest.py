from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gmr_metric.mixture import GaussianMixture

Maker = Callable[..., GaussianMixture]


@pytest.fixture(scope="session")
def make() -> Maker:
    """Make a random mixture from a seed, a number of components and of dimensions."""

    def mixture(seed: int, n: int = 3, d: int = 2) -> GaussianMixture:
        draw = np.random.default_rng(seed)
        root = draw.normal(size=(n, d, d))
        covariances = root @ root.swapaxes(1, 2) + 0.3 * np.eye(d)
        return GaussianMixture(draw.random(n) + 0.1, 2 * draw.normal(size=(n, d)), covariances, normalize=True)

    return mixture
