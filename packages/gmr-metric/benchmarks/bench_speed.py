"""Speed of the reductions, compared with a plain NumPy Runnalls and other libraries, on one core.

``python benchmarks/bench_speed.py`` prints a table, writes results/speed.json, and updates the table in README.md. Runs
are interleaved (A B C, A B C, ...).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gmr_metric import GaussianMixture, distance, reduce
from measure import medians, one_core
from plain import plain_runnalls
from sextet_common.benchmarks import into_readme, store
from suite import random_mixture

HERE = Path(__file__).resolve().parent
LARGE = "large"  # `bench_speed.py large METHOD N D L` measures one reduction in its own process
FIRST = "first"  # `bench_speed.py first JOB` prints the processor time of one job in a fresh process


def without_numba(work: Callable[[], object]) -> Callable[[], object]:
    """Return the work done by the NumPy path."""

    def run() -> None:
        os.environ["GMR_METRIC_NUMBA"] = "0"
        try:
            work()
        finally:
            del os.environ["GMR_METRIC_NUMBA"]

    return run


def plain(mixture: GaussianMixture, n: int) -> Callable[[], object]:
    """Return the work of the baseline."""
    return lambda: plain_runnalls(mixture.weights, mixture.means, mixture.covariances, n)


def stone_soup(mixture: GaussianMixture, n: int) -> Callable[[], object]:
    """Return the work of Stone Soup's own reducer, with its gate and its cap."""
    from stonesoup.mixturereducer.gaussianmixture import GaussianMixtureReducer
    from stonesoup.types.state import WeightedGaussianState

    reducer = GaussianMixtureReducer(prune_threshold=0, merge_threshold=4, max_number_components=n)

    def run() -> None:
        states = [
            WeightedGaussianState(m[:, None], p, weight=w)
            for w, m, p in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
        ]
        reducer.reduce(states)

    return run


def refit(mixture: GaussianMixture, n: int) -> Callable[[], object]:
    """Return the work of scikit-learn: expectation maximisation on 10 000 samples."""
    from sklearn.mixture import GaussianMixture as Fitted

    points = mixture.sample(10_000, seed=0)
    return lambda: Fitted(n, random_state=0, max_iter=30, tol=1e-2).fit(points)


def pot(f: GaussianMixture, g: GaussianMixture) -> Callable[[], object]:
    """Return the work of POT's optimal transport between mixtures."""
    import ot

    return lambda: ot.gmm.gmm_ot_loss(f.means, g.means, f.covariances, g.covariances, f.weights, g.weights)


def row(job: str, times: dict[str, float], against: str) -> list[str]:
    """Return table rows with each contestant's ratio to one of them."""
    return [f"| {job} | {name} | {t:.4g} s | {times[against] / t:.3g} |" for name, t in times.items()]


def large(method: str, n: int, d: int, n_components: int) -> None:
    """Reduce one large mixture; print seconds, peak memory, its growth and the angle."""
    mixture = surface(n) if n > 20_000 else random_mixture(0, n, d)
    reduce(random_mixture(1, 100, d), 10, method)  # compiles or loads the loops
    before = peak_memory()
    start = time.perf_counter()
    reduction = reduce(mixture, n_components, method)
    seconds = time.perf_counter() - start
    after = peak_memory()
    print(seconds, after, after - before, reduction.distance)


def peak_memory() -> float:
    """Return this process's peak memory in MB; getrusage would include that of its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def surface(n: int) -> GaussianMixture:
    """Return a point cloud with a small covariance at each point: a torus."""
    draw = np.random.default_rng(0)
    u, v = draw.uniform(0, 2 * np.pi, (2, n))
    ring = 3 + np.cos(v)
    root = 0.02 * draw.normal(size=(n, 3, 3))
    covariances = root @ root.swapaxes(1, 2) + 1e-4 * np.eye(3)
    return GaussianMixture(np.full(n, 1 / n), np.stack([ring * np.cos(u), ring * np.sin(u), np.sin(v)], 1), covariances)


def alone(method: str, n: int, d: int, n_components: int) -> dict[str, float]:
    """Measure one large reduction in its own process."""
    words = [sys.executable, __file__, LARGE, method, *map(str, (n, d, n_components))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds, peak, grown, angle = map(float, done.stdout.split())
    return {"seconds": seconds, "peak_mb": peak, "grown_mb": grown, "angle": angle}


def first(job: str) -> None:
    """Print the processor seconds since this process started, after one job or after importing NumPy alone."""
    if job == "Runnalls, N 60":
        reduce(random_mixture(0, 60, 2), 10, "runnalls")
    elif job == "oggmr, N 60":
        reduce(random_mixture(0, 60, 2), 10)
    elif job == "angle, N 4000, d 4":
        distance(random_mixture(0, 4000, 4), random_mixture(1, 4000, 4))
    print(time.process_time(), "numba" in sys.modules)


def first_use() -> dict[str, dict[str, float]]:
    """Measure each job in fresh processes: in NumPy, with numba's functions to compile, and with them on disk."""
    report: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "without numba": {"GMR_METRIC_NUMBA": "0"},
            "numba, empty cache": {"NUMBA_CACHE_DIR": ""},
            "numba, warm cache": {"NUMBA_CACHE_DIR": f"{folder}/warm"},
        }
        for job in ("imports alone", "Runnalls, N 60", "oggmr, N 60", "angle, N 4000, d 4"):
            times: dict[str, list[float]] = {}
            for number in range(4):  # the first fills the warm cache and the file system's
                for way, variables in ways.items():
                    if variables.get("NUMBA_CACHE_DIR") == "":
                        variables = {"NUMBA_CACHE_DIR": f"{folder}/{job}{number}".replace(" ", "")}
                    words = [sys.executable, __file__, FIRST, job]
                    done = subprocess.run(
                        words, capture_output=True, text=True, check=True, env={**os.environ, **variables}
                    )
                    seconds, loaded = done.stdout.split()
                    name = way if way == "without numba" or loaded == "True" else "numba installed, not loaded"
                    if number and not (name.endswith("loaded") and name in times and len(times[name]) >= number):
                        times.setdefault(name, []).append(float(seconds))
            report[job] = {name: statistics.median(taken) for name, taken in times.items()}
            print(job, report[job], flush=True)
    return report


def high_dimensions() -> dict[str, dict[str, Callable[[], object]]]:
    """Return jobs in many dimensions: diagonal covariances, and the default method for full ones."""
    draw = np.random.default_rng(0)

    def diagonal(n: int, d: int) -> GaussianMixture:
        return GaussianMixture(
            draw.random(n) + 0.05, 3 * draw.normal(size=(n, d)), draw.gamma(3.0, 0.3, (n, d)) + 0.1, normalize=True
        )

    wide, features, others = diagonal(1000, 64), diagonal(10_000, 512), diagonal(100, 512)
    full = random_mixture(0, 200, 64)
    return {
        "diagonal, N 1000, d 64, L 20": {
            "ours, runnalls": lambda: reduce(wide, 20, "runnalls"),
            "ours, oggmr": lambda: reduce(wide, 20),
        },
        "angle to 100 others, diagonal, d 512": {"ours": lambda: distance(GaussianMixture(*parts(features)), others)},
        "full, N 200, d 64, L 20": {
            "plain NumPy, Runnalls": plain(full, 20),
            "ours, runnalls": lambda: reduce(full, 20, "runnalls"),
            "ours, oggmr": lambda: reduce(full, 20),
        },
    }


def parts(mixture: GaussianMixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the arrays of a mixture; a new one from these does not know its norm yet."""
    return mixture.weights, mixture.means, mixture.covariances


def main() -> None:
    """Measure, print and store."""
    one_core()
    lines = ["| job | who | median | speed, the first of the job being 1 |", "| --- | --- | --- | --- |"]
    report: dict[str, object] = {}
    many, few, mid = random_mixture(0, 2000, 4), random_mixture(0, 60, 2), random_mixture(0, 200, 2)
    jobs: dict[str, dict[str, Callable[[], object]]] = {
        "Runnalls, N 2000, d 4, L 20": {
            "plain NumPy": plain(many, 20),
            "ours": lambda: reduce(many, 20, "runnalls"),
            "ours, without numba": without_numba(lambda: reduce(many, 20, "runnalls")),
        },
        "Runnalls, N 60, d 2, L 10": {
            "plain NumPy": plain(few, 10),
            "ours": lambda: reduce(few, 10, "runnalls"),
        },
        "N 60, d 2, L 10": {
            "ours, williams": lambda: reduce(few, 10, "williams"),
            "ours, oggmr": lambda: reduce(few, 10, "oggmr"),
        },
        "N 200, d 2, L 10": {
            "ours, oggmr": lambda: reduce(mid, 10, "oggmr"),
            "ours, oggmr, without numba": without_numba(lambda: reduce(mid, 10, "oggmr")),
            "scikit-learn, EM on 10 000 samples": refit(mid, 10),
        },
        "N 2000, d 4, L 20": {
            "Stone Soup's reducer (gate 4, cap)": stone_soup(many, 20),
            "ours, threshold (gate 4, cap)": lambda: reduce(many, 20, "threshold"),
            "ours, oggmr": lambda: reduce(many, 20, "oggmr"),
            "scikit-learn, EM on 10 000 samples": refit(many, 20),
        },
        "MW2 distance, N 200 and 60, d 2": {
            "POT": pot(mid, few),
            "ours": lambda: distance(mid, few, "mw2"),
        },
        "angle, N 2000, d 4": {"ours": lambda: distance(GaussianMixture(*parts(many)), reduce_few)},
    }
    reduce_few = reduce(many, 20, "runnalls").mixture
    for job, contestants in jobs.items():
        times = medians(contestants)
        report[job] = times
        lines += row(job, times, next(iter(times)))
        print("\n".join(lines[-len(times) :]), flush=True)
    for job, contestants in high_dimensions().items():
        times = medians(contestants, rounds=3)
        report[job] = times
        lines += row(job, times, next(iter(times)))
        print("\n".join(lines[-len(times) :]), flush=True)
    for job, times in first_use().items():
        report[f"first use, processor time: {job}"] = times
        lines += row(f"first use in a new process (processor time): {job}", times, next(iter(times)))
    for job, words in {"runnalls, N 10 000, d 4, L 100": ("runnalls", 10_000, 4, 100)}.items():
        measured = alone(*words)
        report[job] = measured
        lines.append(f"| {job} | ours, peak {measured['peak_mb']:.0f} MB in all | {measured['seconds']:.4g} s | |")
        print(lines[-1], flush=True)
    store(HERE, "speed", report)
    into_readme(HERE.parent / "README.md", "bench_speed", "\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:2] == [FIRST]:
        first(sys.argv[2])
    elif sys.argv[1:2] == [LARGE]:
        large(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
