"""The choice between algorithms, and between numba and NumPy, by an estimate of the work."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

from gmr_metric.loops.columns import Bounded, Columns

LONG = 1.0  # seconds of NumPy's work from which it pays to load numba
_NANOSECONDS = 10.0  # NumPy's time per kernel and number that describes it


def numpy_seconds(kernels: float, like: Columns | Bounded) -> float:
    """Estimate the time in which NumPy computes that many kernels between components such as these.

    The rule is 10 ns * (1 + max(T, d)) per kernel, with T numbers for the covariance and d for the mean. It was
    calibrated on one core of a server (Intel Xeon, 2 GHz), where it is right within a factor of two for d from 1 to 64.
    """
    return 1e-9 * _NANOSECONDS * kernels * (1 + max(len(like.packed), len(like.means)))


def implementation(seconds: float) -> ModuleType:
    """Return the module of inner loops for a job that takes NumPy about this long.

    It is `vectorised` for jobs of less than a second, or without numba, else `compiled`: loading numba takes half a
    second, and compiling the loops, once per machine, several. The environment variable ``GMR_METRIC_NUMBA=0`` disables
    numba.
    """
    if seconds >= LONG and os.environ.get("GMR_METRIC_NUMBA") != "0" and importlib.util.find_spec("numba"):
        from gmr_metric.loops import compiled

        return compiled
    from gmr_metric.loops import vectorised

    return vectorised
