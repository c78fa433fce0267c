"""What sextet-common costs: its import, and a checkpoint beside torch.save and numpy.savez.

``python benchmarks/bench_common.py`` prints a table, writes results/common.json and
puts the table into README.md. The contestants run in turn (A B C, A B C, ...).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sextet_common import checkpoint, device

HERE = Path(__file__).resolve().parent
ROUNDS = 7
MEGABYTES = 64


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run all in turn, ROUNDS times after one warm-up, and return each one's median seconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(ROUNDS + 1):
        for name, work in contestants.items():
            taken = seconds(work)
            if number:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def python(statement: str) -> Callable[[], object]:
    """Return a call that runs one statement in a fresh interpreter."""
    return lambda: subprocess.run([sys.executable, "-c", statement], check=True)


def synced(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file and flush it to the disk, as a checkpoint does."""
    write(path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def main() -> None:
    """Measure, print and store."""
    arrays = {"a": np.random.default_rng(0).random(MEGABYTES * 2**20 // 8)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imports = medians(
            {
                "bare interpreter": python("pass"),
                "import sextet_common": python("import sextet_common"),
                "import numpy": python("import numpy"),
            }
        )
        saves = medians(
            {
                "checkpoint.save": lambda: checkpoint.save(folder / "c", arrays),
                "torch.save + fsync": lambda: synced(folder / "t", lambda path: torch.save(tensors, path)),
                "numpy.savez + fsync": lambda: synced(folder / "n.npz", lambda path: np.savez(path, **arrays)),
            }
        )
        loads = medians(
            {
                "checkpoint.load": lambda: checkpoint.load(folder / "c"),
                "torch.load(weights_only)": lambda: torch.load(folder / "t", weights_only=True),
                "numpy.load": lambda: np.load(folder / "n.npz")["a"],
            }
        )
    groups = {"import": imports, f"save {MEGABYTES} MB": saves, f"load {MEGABYTES} MB": loads}
    lines = ["| job | what | median | ratio to ours |", "| --- | --- | --- | --- |"]
    for job, results in groups.items():
        ours = next(value for what, value in results.items() if "sextet" in what or "checkpoint" in what)
        lines += [f"| {job} | {what} | {value:.3f} s | {value / ours:.2f} |" for what, value in results.items()]
    table = "\n".join(lines)
    print(table)
    (HERE / "results").mkdir(exist_ok=True)
    report = {"machine": device.describe(), "rounds": ROUNDS, "median_seconds": groups}
    (HERE / "results" / "common.json").write_text(json.dumps(report, indent=2) + "\n")
    readme = HERE.parent / "README.md"
    head, _, rest = readme.read_text().partition("<!-- bench_common -->\n")
    _, _, tail = rest.partition("<!-- /bench_common -->")
    readme.write_text(f"{head}<!-- bench_common -->\n{table}\n<!-- /bench_common -->{tail}")


if __name__ == "__main__":
    main()
