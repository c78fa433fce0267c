"""What the benchmarks share: one thread for all contestants, who take turns."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping


def one_core() -> None:
    """Start this process anew with one thread for the linear algebra of all contestants, unless it has one."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(names, "1")})


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Run all in turn, after one warm-up of each, and return each one's median seconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            began = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}
