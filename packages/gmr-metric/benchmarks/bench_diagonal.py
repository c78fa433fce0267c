"""Time and memory of the angle between a large diagonal mixture and a reduction of it, on one core.

``python benchmarks/bench_diagonal.py`` measures in new processes: the angle of N components in d dimensions, which are
`<f, g>`, `<f, f>` and `<g, g>` for a reduction g to 20 components by random groups, and the peak memory of the process
including Python, NumPy, the input arrays and the mixture. It prints a table and writes
results/diagonal.json and results/diagonal.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gmr_metric import GaussianMixture, distance, merge_groups, norm
from measure import one_core
from sextet_common import files
from sextet_common.benchmarks import store

HERE = Path(__file__).resolve().parent
CASES = [(10_000, 512, "diag"), (10_000, 512, "spherical"), (2000, 512, "diag")]


def one(n: int, d: int, kind: str) -> dict[str, float]:
    """Measure one case in this process."""
    draw = np.random.default_rng(0)
    means, variances = draw.normal(size=(n, d)), draw.uniform(0.5, 1.5, size=(n, d) if kind == "diag" else n)
    f = GaussianMixture(draw.random(n), means, variances, normalize=True)
    del means, variances
    g = merge_groups(f.subset(np.arange(n // 10)), np.arange(n // 10) % 20)
    start, wall = time.process_time(), time.perf_counter()
    norm(f)
    of_norm = time.process_time() - start
    angle = distance(f, g)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, waited = time.process_time() - start, time.perf_counter() - wall
    return {"angle": angle, "norm_seconds": of_norm, "seconds": seconds, "wall": waited, "peak_megabytes": peak}


def main() -> None:
    """Measure all cases, each three times, and write the medians."""
    rows: list[dict[str, Any]] = []
    for n, d, kind in CASES:
        runs = []
        for _ in range(3):
            command = [sys.executable, __file__, str(n), str(d), kind]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        middle = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
        rows.append({"n": n, "d": d, "type": kind, **middle})
    lines = ["| N | d | type | norm of f, s | angle, s | peak, MB |", "| --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        numbers = f"{r['norm_seconds']:.2f} | {r['seconds']:.2f} | {r['peak_megabytes']:.0f}"
        lines.append(f"| {r['n']:,} | {r['d']} | {r['type']} | {numbers} |")
    print("\n".join(lines))
    store(HERE, "diagonal", {"rows": rows})
    files.write_text(HERE / "results" / "diagonal.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    one_core()
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
    else:
        main()
