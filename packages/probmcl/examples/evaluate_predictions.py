"""The metrics alone, for the probabilities of any model, with explicit thresholds, absent labels and top-k rules.

python examples/evaluate_predictions.py
"""

from __future__ import annotations

import numpy as np
from probmcl import best_threshold, evaluate

random = np.random.default_rng(0)
labels = (random.random((400, 6)) < 0.25).astype(int)
labels[:, 5] = 0  # a label that no row has
probabilities = np.clip(0.25 + 0.35 * labels + 0.2 * random.normal(size=labels.shape), 0, 1)

threshold = best_threshold(probabilities[:200], labels[:200], "of1")  # on validation rows
for absent in ("ignore", "zero"):
    scores = evaluate(probabilities[200:], labels[200:], threshold=threshold, absent=absent, top_k_rule="and_threshold")
    print(f"absent labels: {absent}\n{scores.table()}\n")
