"""Reduce many mixtures on a Ray cluster: joblib's backend is the only line that changes.

Needs ``pip install ray``; without an address it starts a cluster on this machine.
"""

from __future__ import annotations

import joblib
import numpy as np
from gmr_metric import GaussianMixture, reduce_many
from ray.util.joblib import register_ray


def mixture(seed: int) -> GaussianMixture:
    """Return thirty components in the plane."""
    draw = np.random.default_rng(seed)
    return GaussianMixture(np.ones(30) / 30, 3 * draw.normal(size=(30, 2)), np.tile(np.eye(2), (30, 1, 1)))


register_ray()
with joblib.parallel_config("ray", n_jobs=2):
    reductions = reduce_many([mixture(seed) for seed in range(8)], 5)
print([round(r.distance, 3) for r in reductions])
