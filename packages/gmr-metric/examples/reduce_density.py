"""Compress a kernel density estimate of real data, and draw it: 178 wines, their flavanoids against their colour."""

from __future__ import annotations

import sys
from pathlib import Path

from gmr_metric import GaussianMixture, reduce
from gmr_metric.plotting import plot_reduction
from sklearn.datasets import load_wine

wines = load_wine().data[:, [6, 9]]
density = GaussianMixture.from_kde(wines, bandwidth="silverman")
reduction = reduce(density, max_distance=0.05)
print(f"{len(density)} components to {len(reduction.mixture)}: angle {reduction.distance:.3f}")
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
plot_reduction(reduction, folder / "reduction.png", ("flavanoids", "colour intensity"))
reduction.mixture.save(folder / "wines.json")
