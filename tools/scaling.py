"""Cost models of the long jobs: fitted to small sizes, checked on one that was not fitted, then extrapolated.

``python tools/scaling.py`` measures in processor seconds, each size in a process of one thread, writes
tools/scaling.json and fills the tables of docs/scaling.md; ``--tables`` only fills them again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import workspace
from scaling_jobs import MODELS, Size, Terms
from scipy.optimize import nnls
from sextet_common import files
from sextet_common.benchmarks import into_readme
from sextet_common.device import describe

STORE, PAGE = workspace.ROOT / "tools" / "scaling.json", workspace.ROOT / "docs" / "scaling.md"
GPU = 100  # assumed: the speed of a GPU over the measured core's


@dataclass(frozen=True)
class Future:
    """A job beyond the measured sizes: its units, and the most processes that its engine can use."""

    model: str
    job: str
    size: Size
    units: float
    processes: int = 1


FUTURES = (
    Future("distillation", "ImageNet-1K, 128 pixels, 1 image per class, width 128, 8000 steps",
           {"classes": 1000, "ipc": 1, "side": 128, "width": 128}, 8000, 64),
    Future("distillation", "the same, 10 images per class",
           {"classes": 1000, "ipc": 10, "side": 128, "width": 128}, 8000, 64),
    Future("generator", "100 classes, 128 pixels, 4 images per class and step, width 64, 4000 steps",
           {"classes": 100, "images": 4, "side": 128, "width": 64}, 4000),
    Future("labels", "MS-COCO's 82,783 images and 80 labels, 128 pixels, width 32, 40 epochs",
           {"batch": 64, "labels": 80, "side": 128, "width": 32}, 40 * 82_783, 8),
    Future("student", "ImageNet-1K's 1,281,167 images, 128 pixels, width 48, 100 epochs",
           {"side": 128, "width": 48}, 100 * 1_281_167, 64),
    Future("splats", "1,000,000 splats", {"splats": 10**6}, 1),
    Future("splats", "10,000,000 splats", {"splats": 10**7}, 1),
    Future("learner", "a generation of 500 pairs for 1000 workers, width 64", {"pairs": 500, "width": 64}, 1),
    Future("learner", "a generation of 5000 pairs, width 256", {"pairs": 5000, "width": 256}, 1),
)  # fmt: skip


def fit(terms: Terms, rows: list[tuple[Size, float]]) -> dict[str, float]:
    """Return the factors >= 0 with the least sum of squared relative errors.

    >>> terms = {"one": lambda s: 1.0, "n": lambda s: s["n"]}
    >>> {name: round(value, 6) for name, value in fit(terms, [({"n": n}, 2.0 + 3 * n) for n in (1, 5, 20)]).items()}
    {'one': 2.0, 'n': 3.0}
    """
    table = np.array([[term(size) / value for term in terms.values()] for size, value in rows])
    scale = table.max(axis=0)
    factors, _ = nnls(table / scale, np.ones(len(rows)))
    return dict(zip(terms, (factors / scale).tolist(), strict=True))


def predicted(terms: Terms, factors: Mapping[str, float], size: Size) -> float:
    """Return what a fitted model says of a size."""
    return float(sum(factors[name] * term(size) for name, term in terms.items()))


def measured(name: str, size: Size) -> dict[str, Any]:
    """Measure one size in a process of its own."""
    script = workspace.ROOT / "tools" / "scaling_jobs.py"
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    command = [sys.executable, str(script), name, json.dumps(dict(size))]
    row = json.loads(subprocess.check_output(command, env={**os.environ, **one}).splitlines()[-1])
    print(name, row, flush=True)
    return dict(row)


def fitted(rows: Mapping[str, Any], name: str, what: str) -> dict[str, float]:
    """Fit a model's seconds or bytes to all stored measurements but the last, the unseen one."""
    return fit(getattr(MODELS[name], what), [(row["size"], row[what]) for row in rows[name][:-1]])


def duration(seconds: float) -> str:
    """Return seconds in a readable unit.

    >>> duration(0.0021), duration(65), duration(7200), duration(3e5)
    ('2.1 ms', '65 s', '2.0 h', '3.5 days')
    """
    units = ((1.0, 1e-3, "ms"), (600, 1, "s"), (172_800, 3600, "h"), (np.inf, 86_400, "days"))
    _, unit, name = next(each for each in units if seconds < each[0])
    value = seconds / unit
    return f"{value:,.0f} {name}" if value >= 9.5 else f"{value:.2g} {name}" if value < 1 else f"{value:.1f} {name}"


def described(size: Size) -> str:
    """Return a size in words."""
    return ", ".join(f"{name} {value:,}" for name, value in size.items())


def fits(rows: Mapping[str, Any]) -> str:
    """Return the table of the models: their terms, and what they say of the unseen size."""
    lines = ["| job | grows with | unseen size | seconds | predicted | memory | predicted |", "| --- " * 7 + "|"]
    for name, model in MODELS.items():
        last, cells = rows[name][-1], []
        for what, shown in (("seconds", duration), ("bytes", lambda value: f"{value / 1e9:.2f} GB")):
            guess = predicted(getattr(model, what), fitted(rows, name, what), last["size"])
            cells += [shown(last[what]), f"{shown(guess)} ({100 * (guess / last[what] - 1):+.0f} %)"]
        factors = fitted(rows, name, "seconds")
        terms = ", ".join(term for term in model.seconds if factors[term])
        lines.append(f"| {model.package}, {model.unit} | {terms} | {described(last['size'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def predictions(rows: Mapping[str, Any]) -> str:
    """Return the table of the jobs beyond the measured sizes."""
    lines = ["| package | job | one core | memory | 1 GPU | 8 GPUs | 64 GPUs |", "| --- " * 7 + "|"]
    for future in FUTURES:
        model = MODELS[future.model]
        each, peak = (
            predicted(getattr(model, what), fitted(rows, future.model, what), future.size)
            for what in ("seconds", "bytes")
        )
        core, classes = each * future.units, future.size.get("classes", 64)
        on_gpus = future.model not in ("splats", "learner")
        cells = [
            duration(core / GPU * -(-classes // number) / classes) if on_gpus and number <= future.processes else ""
            for number in (1, 8, 64)
        ]
        lines.append(
            f"| {model.package} | {future.job} | {duration(core)} | {peak / 1e9:.1f} GB | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Measure everything, or only fill the tables."""
    if words != ["--tables"]:
        rows = {name: [measured(name, size) for size in (*m.fitted, m.unseen)] for name, m in MODELS.items()}
        files.write_text(STORE, json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")
    rows = json.loads(STORE.read_text(encoding="utf-8"))["rows"]
    into_readme(PAGE, "models", fits(rows))
    into_readme(PAGE, "predictions", predictions(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
