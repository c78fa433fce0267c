"""Estimate the colours of a photograph from top to bottom, one row of pixels at a time, in bounded memory.

The sky's colours come first and the ground's last, so that an estimate that forgets predicts the next row better. Run
``python examples/density_stream.py`` (extra ``sklearn``).
"""

from __future__ import annotations

import numpy as np
from gmr_metric import StreamingDensity
from sklearn.datasets import load_sample_image

photograph = load_sample_image("china.jpg")[::4, ::8].astype(float)  # rows, columns, RGB
photograph += np.random.default_rng(0).random(photograph.shape)  # undo the rounding to whole numbers

for half_life in (None, 500.0):
    density = StreamingDensity(20, forgetting=half_life, method="runnalls")
    surprise = []
    for row in photograph:
        if density.n_seen:
            surprise.append(-density.logpdf(row).mean())
        density.update(row)
    kept = f"{len(density.mixture)} components for {density.n_seen} pixels"
    print(f"half-life {half_life}: {kept}, {np.mean(surprise):.2f} nats per pixel of the next row")
density.save("colours.npz")
resumed = StreamingDensity.load("colours.npz")
resumed.update(photograph[0])
print(f"resumed after {density.n_seen} pixels, now {resumed.n_seen}")
