"""From a thousand to a million components in three dimensions, reduced to a tenth, beside plain rounds of merges.

``python benchmarks/bench_scale.py`` prints a table and writes results/scale.md, results/scale.json and
results/scaling.png. Every reduction runs in its own process. Errors are estimated at points drawn from the original,
the same for all methods.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gmr_metric import GaussianMixture, reduce
from measure import one_core
from plain_rounds import plain_rounds
from sextet_common import figures, files
from sextet_common.benchmarks import store

HERE = Path(__file__).resolve().parent
PLAIN = "plain rounds, Runnalls"
METHODS: dict[str, Callable[[GaussianMixture, int], GaussianMixture]] = {
    "Runnalls": lambda f, n: reduce(f, n, "runnalls").mixture,
    "Salmond": lambda f, n: reduce(f, n, "salmond").mixture,
    "Williams, current": lambda f, n: reduce(f, n, "williams", reference="current").mixture,
    PLAIN: plain_rounds,
}
SIZES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
LARGEST = {PLAIN: 100_000}  # it needs half a minute there
POINTS = 2000


def scene(n: int) -> GaussianMixture:
    """Return flat splats of many sizes and opacities on a plane, a sphere and a torus, and a cloud of leaves."""
    draw = np.random.default_rng(0)
    a, b = draw.uniform(0, 2 * np.pi, (2, n))
    z = draw.uniform(-1, 1, n)
    ring = np.sqrt(1 - z**2)
    ball = np.stack([ring * np.cos(a), ring * np.sin(a), z], axis=1)
    torus = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1)
    circle = 2 * np.stack([np.cos(a), np.sin(a), np.full(n, 0.5)], axis=1)
    ground = np.stack([5 * z, 10 * draw.random(n) - 5, np.zeros(n)], axis=1)
    leaves = draw.normal(size=(n, 3)) * [0.8, 0.8, 0.6] + [-2, -2, 2]
    kind = draw.choice(4, size=n, p=[0.4, 0.25, 0.2, 0.15])
    means = np.stack([ground, 1.2 * ball + [1, 1, 1.2], 0.5 * torus + circle, leaves])[kind, np.arange(n)]
    normals = np.stack([np.tile([0.0, 0, 1], (n, 1)), ball, torus, ball[::-1]])[kind, np.arange(n)]
    first = np.cross(normals, draw.normal(size=(n, 3)))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    axes = np.stack([first, np.cross(normals, first), normals], axis=2)
    sizes = np.exp(draw.normal(0, 0.6, size=(n, 2))) * 3 / np.sqrt(n)
    roots = axes * np.column_stack([sizes, 0.1 * sizes.min(axis=1)])[:, None]
    weights = draw.beta(1, 1.5, size=n) * sizes.prod(axis=1) + 1e-12
    return GaussianMixture(weights, means, roots @ roots.swapaxes(1, 2), normalize=True)


def cloud(n: int) -> GaussianMixture:
    """Return components of random weights and shapes around normal means, which overlap about as much at every n."""
    draw = np.random.default_rng(0)
    root = draw.normal(size=(n, 3, 3))
    covariances = (root @ root.swapaxes(1, 2) / 3 + 0.2 * np.eye(3)) * 100 / n ** (2 / 3)
    return GaussianMixture(draw.random(n) + 0.05, 3 * draw.normal(size=(n, 3)), covariances, normalize=True)


KINDS = {"scene": scene, "cloud": cloud}


def alone(method: str, kind: str, n: int, path: str) -> None:
    """Reduce one mixture to a tenth, save the result, and print seconds and megabytes."""
    mixture = KINDS[kind](n)
    used, start = time.process_time(), time.perf_counter()
    reduced = METHODS[method](mixture, n // 10)
    used, wall = time.process_time() - used, time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))
    reduced.save(path)
    print(json.dumps({"processor_s": used, "wall_s": wall, "peak_mb": peak}))


def measured(method: str, kind: str, n: int, points: np.ndarray, f: np.ndarray) -> dict[str, Any]:
    """Measure one reduction in its own process, and add the squared errors at the points, where the density is f."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/reduced.npz"
        words = [sys.executable, __file__, method, kind, str(n), path]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        reduced = GaussianMixture.load(path)
    g = density(reduced, points)
    return {"kind": kind, "n": n, "method": method, **json.loads(done.stdout), "errors": (f - g) ** 2 / f / f.mean()}


def density(mixture: GaussianMixture, points: np.ndarray) -> np.ndarray:
    """Return the density at the points: the exponents are one matrix product with the points' monomials."""
    rows, columns = np.tril_indices(3)
    centre = mixture.mean()
    x = points - centre
    monomials = np.column_stack([np.ones(len(x)), x, x[:, rows] * x[:, columns]])
    total = np.zeros(len(points))
    for start in range(0, len(mixture), 20_000):
        part = slice(start, start + 20_000)
        precision, means = np.linalg.inv(mixture.covariances[part]), mixture.means[part] - centre
        linear = np.einsum("nij,nj->ni", precision, means)
        constant = 0.5 * (np.linalg.slogdet(precision)[1] - np.einsum("ni,ni->n", linear, means))
        constant += np.log(mixture.weights[part]) - 1.5 * np.log(2 * np.pi)
        squares = -0.5 * np.where(rows == columns, 1, 2) * precision[:, rows, columns]
        coefficients = np.column_stack([constant, linear, squares]).T
        for block in np.array_split(np.arange(len(points)), 10):
            total[block] += np.exp(np.maximum(monomials[block] @ coefficients, -700)).sum(axis=1)
    return total


def jobs() -> list[tuple[str, int, list[str]]]:
    """Return what is measured: kinds of mixtures, sizes and methods."""
    few = ["Runnalls", PLAIN]
    return [
        *(("scene", n, [m for m in few if n <= LARGEST.get(m, n)] if n != 100_000 else list(METHODS)) for n in SIZES),
        ("cloud", 100_000, list(METHODS)),
    ]


def compared(kind: str, n: int, methods: list[str]) -> list[dict[str, Any]]:
    """Measure the methods on one mixture; the ratio of the errors to those of the plain rounds has a standard error."""
    original = KINDS[kind](n)
    points = original.sample(POINTS if n < 10**6 else POINTS // 4, seed=1)
    f = density(original, points)
    rows = [measured(method, kind, n, points, f) for method in methods]
    plain = next((row["errors"] for row in rows if row["method"] == PLAIN), None)
    for row in rows:
        errors = row.pop("errors")
        row["ise"] = float(errors.mean())
        if plain is not None and errors is not plain:
            row["ratio"] = float(errors.mean() / plain.mean())
            row["ratio_error"] = float((errors - row["ratio"] * plain).std() / np.sqrt(len(points)) / plain.mean())
        print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return one row of the table."""
    ratio = f"{row['ratio']:.3f} +- {row['ratio_error']:.3f}" if "ratio" in row else ""
    numbers = f"{row['processor_s']:.3g} | {row['wall_s']:.3g} | {row['peak_mb']:.0f} | {row['ise']:.3g}"
    return f"| {row['kind']} | {row['n']:,} | {row['method']} | {numbers} | {ratio} |"


def write(rows: list[dict[str, Any]]) -> None:
    """Write the rows as JSON and as a table, and the picture."""
    head = "| mixture | N | method | processor s | wall s | peak MB | ISE / \\|f\\|^2 | against plain rounds |"
    store(HERE, "scale", {"rows": rows})
    files.write_text(HERE / "results" / "scale.md", "\n".join([head, "| --- " * 8 + "|", *map(line, rows)]) + "\n")
    picture(rows)


def main() -> None:
    """Measure, print and store."""
    one_core()
    write([row for job in jobs() for row in compared(*job)])


def picture(rows: list[dict[str, Any]]) -> None:
    """Draw processor seconds and peak memory against N, all logarithmic."""
    with figures.figure_file(HERE / "results" / "scaling.png", (8.5, 3.6)) as figure:
        left, right = figure.subplots(1, 2)
        blue, red, *_, grey = figures.COLOURS
        for name, label, colour in ((PLAIN, "plain rounds", grey), ("Runnalls", "ours", blue)):
            chosen = [row for row in rows if row["method"] == name and row["kind"] == "scene"]
            sizes = [row["n"] for row in chosen]
            left.loglog(sizes, [row["processor_s"] for row in chosen], "o-", color=colour, label=label)
            right.loglog(sizes, [row["peak_mb"] for row in chosen], "o-", color=colour, label=label)
        last = chosen[-1]["processor_s"]
        left.loglog(sizes, [last * n / sizes[-1] for n in sizes], "--", color=red, label="slope 1")
        for axis, title in ((left, "processor seconds"), (right, "peak memory of the process, MB")):
            axis.set_title(title, loc="left", fontsize=10)
            axis.set_xlabel("components N, reduced to N / 10 by Runnalls")
            axis.legend(frameon=False)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        alone(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
