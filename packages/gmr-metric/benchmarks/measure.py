"""Shared by the benchmarks: one thread for all contestants, and interleaved runs."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping


def one_core() -> None:
    """Restart this process with one thread for linear algebra, unless it has one already."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(names, "1")})


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Run all interleaved, after one warm-up of each, and return their median seconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
