"""The choice between numba and NumPy for the inner loops."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

SMALL = 32  # with fewer components NumPy is fast enough, and nothing has to be compiled


def implementation(n_components: int) -> ModuleType:
    """Return the module of inner loops for a mixture of this size.

    It is `compiled` if numba is installed and the mixture is not small, else `vectorised`. The environment variable
    ``GMR_METRIC_NUMBA=0`` disables numba.
    """
    if n_components >= SMALL and os.environ.get("GMR_METRIC_NUMBA") != "0" and importlib.util.find_spec("numba"):
        from gmr_metric.loops import compiled

        return compiled
    from gmr_metric.loops import vectorised

    return vectorised
