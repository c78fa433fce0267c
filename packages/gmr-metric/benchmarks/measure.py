"""What the benchmarks share: contestants in turn, the machine's name, tables into the README."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


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


def machine() -> str:
    """Return the processor's name and how many cores it lends."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if (cpuinfo.exists())
        else []
    )
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"


def store(name: str, report: dict[str, Any]) -> None:
    """Write results/NAME.json."""
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **report}, indent=1)
    (HERE / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def into_readme(name: str, table: str) -> None:
    """Put a table between its marks in the package's README."""
    readme = HERE.parent / "README.md"
    head, mark, rest = readme.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not (mark and end):
        raise SystemExit(f"README.md has no marks for {name}")
    readme.write_text(f"{head}{mark}{table}\n{end}{tail}", encoding="utf-8")
