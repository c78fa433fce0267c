"""Reduce the density of 569 tumours to six components, by every standard method, and draw the nearest.

Run by ``python3 tools/dev.py demo``; alone, with the extras plot and sklearn: ``python examples/demo.py --out demo``.
Writes result.json (what the page shows), picture.png and the reduced mixture.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import tyro
from gmr_metric import GaussianMixture, Reduction, distance, reduce
from gmr_metric.plotting import plot_reduction
from sextet_common import files
from sklearn.datasets import load_breast_cancer

METHODS = ("oggmr", "gmrc", "ctd", "runnalls", "west", "salmond", "prune")


def main(out: Path, components: int = 6, rounds: int = 3) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Output folder.
    components
        Number of components to reduce to.
    rounds
        Number of interleaved runs of each method; the seconds are the median.
    """
    density = GaussianMixture.from_kde(load_breast_cancer().data[:, :2])  # mean radius and mean texture of the nuclei
    reductions: dict[str, list[Reduction]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        for name, runs in reductions.items():
            runs.append(reduce(density, components, name))
    best = reductions["oggmr"][0]
    plot_reduction(best, out / "picture.png", ("mean radius of the nuclei", "mean texture"))
    best.mixture.save(out / "six.json")
    angles = {name: runs[0].distance for name, runs in reductions.items()}
    rows = [
        [
            name,
            f"{angles[name]:.3f} rad",
            f"{distance(density, runs[0].mixture, 'ise'):.1e}",
            f"{statistics.median(run.seconds for run in runs):.2g} s",
        ]
        for name, runs in reductions.items()
    ]
    result = {
        "title": "Six Gaussians for 569",
        "number": f"{angles['oggmr']:.3f} rad",
        "about": f"from the density of {len(density)} tumours; Runnalls' reduction is {angles['runnalls']:.3f} away",
        "sentence": (
            f"OGGMR's {components} components are {angles['oggmr']:.3f} rad from the density of {len(density)} "
            f"tumours, Runnalls' {angles['runnalls'] / angles['oggmr']:.1f} times as far, the heaviest alone "
            f"{angles['prune'] / angles['oggmr']:.0f} times; pi/2 would be no overlap at all."
        ),
        "columns": ["method", "angle to the original", "squared error", "seconds"],
        "rows": rows,
        "note": (
            "A kernel density estimate of two features of scikit-learn's 569 breast tumours, by Scott's rule. The "
            "angle is that of the densities in L2, in closed form. The picture: every tumour's component, and OGGMR's."
        ),
        "picture": "picture.png",
        "angles": angles,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
