"""The streaming density estimate against scikit-learn's batch estimates, on real data that comes with scikit-learn.

``python benchmarks/bench_applications.py`` writes results/applications.json and a table beside it. All rivals keep all
points. KernelDensity gets whitened points and the best bandwidth of a cross-validation on 2000 of them; GaussianMixture
the number of components, up to that of the stream, that wins one. It is fitted once at the end, and again after every
2000 points (the time of all fits, the score of the last).
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from gmr_metric import StreamingDensity
from measure import one_core
from sextet_common import files
from sklearn.datasets import load_breast_cancer, load_digits, load_sample_image
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

RESULTS = Path(__file__).resolve().parent / "results" / "applications.json"
EVERY = 2000  # points between two refits


def pixels(step: int) -> np.ndarray:
    """Return every so many pixels of a photograph, row after row, as RGB with the rounding undone at random."""
    values = load_sample_image("china.jpg").reshape(-1, 3)[::step]
    return values + np.random.default_rng(0).random(values.shape)


def data(n_pixels: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, shuffled points and held-out points."""
    digits = PCA(4, random_state=0).fit_transform(load_digits().data)
    sets = {
        f"{n_pixels} pixels, RGB": pixels(1),
        "digits, 4 principal axes": digits,
        "tumours, radius and texture": load_breast_cancer().data[:, :2],
    }
    for name, points in sets.items():
        np.random.default_rng(1).shuffle(points)
        held_out = min(len(points) // 3, 3000)
        yield name, points[held_out:][:n_pixels], points[:held_out]


def stream(points: np.ndarray, held_out: np.ndarray, components: int, **options: Any) -> tuple[float, float, float]:
    """Return the held-out log density, the seconds and the numbers kept."""
    start = time.process_time()
    density = StreamingDensity(components, **options)
    for chunk in np.array_split(points, max(1, len(points) // 100)):
        density.update(chunk)
    score = float(density.logpdf(held_out).mean())
    d = points.shape[1]
    return score, time.process_time() - start, components * (1 + d + d * d) + density.buffer * d


def kernel_density(points: np.ndarray, held_out: np.ndarray) -> tuple[float, float, float]:
    """Return the same of scikit-learn's estimate of all points."""
    start = time.process_time()
    d = points.shape[1]
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(points.T)))
    some = points[:2000] @ whitening.T
    scott = len(some) ** (-1 / (d + 4))
    search = GridSearchCV(KernelDensity(), {"bandwidth": scott * 2.0 ** np.arange(-4, 1.1, 0.5)}, cv=5).fit(some)
    bandwidth = search.best_params_["bandwidth"] / scott * len(points) ** (-1 / (d + 4))
    fitted = KernelDensity(bandwidth=bandwidth).fit(points @ whitening.T)
    score = fitted.score(held_out @ whitening.T) / len(held_out) + np.linalg.slogdet(whitening)[1]
    return float(score), time.process_time() - start, points.size


def refitted(points: np.ndarray, held_out: np.ndarray, components: int, every: int) -> tuple[float, float, float]:
    """Return the same of fits of all points so far, after every so many."""
    start = time.process_time()
    counts = [n for n in (2, 5, 10, 20, 50) if n <= components]
    search = GridSearchCV(GaussianMixture(random_state=0), {"n_components": counts}, cv=3).fit(points[:2000])
    for end in [*range(every, len(points), every), len(points)]:
        fitted = GaussianMixture(search.best_params_["n_components"], random_state=0).fit(points[:end])
    return float(fitted.score(held_out)), time.process_time() - start, points.size


def drift(components: int, n_pixels: int, half_life: float) -> dict[str, float]:
    """Return the mean log density of the next 500 pixels, before they are taken in, from the sky to the ground."""
    points = pixels(1)
    points = points[:: len(points) // n_pixels]
    scores: dict[str, float] = {}
    for name, forgetting in (("none", None), (f"half-life {half_life:g}", half_life)):
        density = StreamingDensity(components, forgetting=forgetting)
        taken = []
        for chunk in np.array_split(points, len(points) // 500):
            if density.n_seen:
                taken.append(float(density.logpdf(chunk).mean()))
            density.update(chunk)
        scores[name] = statistics.fmean(taken)
    return scores


def main(out: Path = RESULTS, components: int = 50, n_pixels: int = 10_000, rounds: int = 3) -> None:
    """Run the benchmark.

    Parameters
    ----------
    out
        JSON file; the table is written beside it, as Markdown.
    components
        Of the stream and of scikit-learn's mixture.
    n_pixels
        Number of pixels.
    rounds
        Number of interleaved runs; times are medians.
    """
    rows: list[dict[str, Any]] = []
    for name, points, held_out in data(n_pixels):
        rivals: dict[str, Callable[[], tuple[float, float, float]]] = {
            "StreamingDensity": lambda: stream(points, held_out, components),  # noqa: B023 - called in this iteration
            "StreamingDensity, runnalls": lambda: stream(points, held_out, components, method="runnalls"),  # noqa: B023
            "KernelDensity": lambda: kernel_density(points, held_out),  # noqa: B023
            "GaussianMixture, once": lambda: refitted(points, held_out, components, len(points)),  # noqa: B023
            f"GaussianMixture, every {EVERY}": lambda: refitted(points, held_out, components, EVERY),  # noqa: B023
        }
        runs: dict[str, list[tuple[float, float, float]]] = {rival: [] for rival in rivals}
        for _ in range(rounds):
            for rival, work in rivals.items():
                runs[rival].append(work())
        for rival, results in runs.items():
            seconds = statistics.median(result[1] for result in results)
            rows.append(
                {
                    "data": name,
                    "estimate": rival,
                    "log density": results[0][0],
                    "seconds": seconds,
                    "kept": results[0][2],
                }
            )
            print(rows[-1], flush=True)
    table = {
        "machine": platform.processor() or platform.machine(),
        "rows": rows,
        "drift": drift(components, n_pixels, 1000),
    }
    files.write_text(out, json.dumps(table, indent=1) + "\n")
    lines = ["| data | estimate | held-out log density | seconds | numbers kept |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r['data']} | {r['estimate']} | {r['log density']:.3f} | {r['seconds']:.2f} | {r['kept']:.0f} |"
        for r in rows
    ]
    lines += ["", "Next 500 pixels of a photograph from top to bottom, mean log density by forgetting:", ""]
    lines += [f"- {name}: {score:.3f}" for name, score in table["drift"].items()]
    files.write_text(out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    one_core()
    tyro.cli(main)
