"""Mixtures for the tests, and a cache of numba's for every version of the compiled loops."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture

# numba does not notice a change in a function that another file's function calls; it reads this before it is imported.
_LOOPS = sorted((Path(__file__).parents[1] / "src" / "gmr_metric" / "loops").glob("numba_*.py"))
_VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in _LOOPS)).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"gmr-metric-numba-{_VERSION}"))

Maker = Callable[..., GaussianMixture]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, so that at the end no process waits for it."""
    items.sort(key=lambda item: "interpreter" not in item.name)


@pytest.fixture(scope="session")
def make() -> Maker:
    """Make a random mixture from a seed, a number of components and of dimensions."""

    def mixture(seed: int, n: int = 3, d: int = 2) -> GaussianMixture:
        draw = np.random.default_rng(seed)
        root = draw.normal(size=(n, d, d))
        covariances = root @ root.swapaxes(1, 2) + 0.3 * np.eye(d)
        return GaussianMixture(draw.random(n) + 0.1, 2 * draw.normal(size=(n, d)), covariances, normalize=True)

    return mixture


@pytest.fixture(scope="session")
def classic() -> GaussianMixture:
    """Return the ten components in one dimension of Williams' thesis, which the literature reduces."""
    return GaussianMixture(
        [0.03, 0.18, 0.12, 0.19, 0.02, 0.16, 0.06, 0.10, 0.08, 0.06],
        np.array([1.45, 2.20, 0.67, 0.48, 1.49, 0.91, 1.01, 1.42, 2.77, 0.89])[:, None],
        np.array([0.0487, 0.0305, 0.1171, 0.0174, 0.0295, 0.0102, 0.0323, 0.0380, 0.0115, 0.0679])[:, None, None],
    )
