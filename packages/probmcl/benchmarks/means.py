"""Means as probmcl's benchmarks print them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean_and_error(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean and its standard error in per cent, as text."""
    shares = [100 * value for value in values]
    error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
    return f"{statistics.mean(shares):.{digits}f} ± {error:.{digits}f}"
