"""Reduce the density of 569 tumours to six components by every standard method, and a scene of splats to a tenth.

Run by ``python3 tools/dev.py demo``; alone, with the extras fast, plot and sklearn:
``python examples/demo.py --out demo``.
Writes result.json (what the page shows), the pictures and the reduced mixture.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import tyro
from gmr_metric import GaussianMixture, Reduction, distance, reduce
from gmr_metric.interop.splats import Splats, simplify
from gmr_metric.plotting import plot_reduction
from PIL import Image
from sextet_common import files
from sklearn.datasets import load_breast_cancer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "splats"))
from bench_splats import prune
from render import look_at, psnr, render
from scene import scene

METHODS = ("oggmr", "gmrc", "ctd", "runnalls", "west", "salmond", "prune")


def draw_splats(path: Path, whole: Splats, few: Splats) -> tuple[float, float]:
    """Draw a scene and its simplification side by side; return the latter's PSNR, and that of as many pruned splats."""
    camera = look_at(np.array([2.5, -4.4, 2.3]), np.array([0.1, 0.25, 0.62]), 480, 360, 47.0)
    pruned = prune(whole, len(few))
    original, simplified, cut = (render(splats, camera) for splats in (whole, few, pruned))
    panels = np.concatenate([original, np.ones((len(original), 12, 3)), simplified], axis=1)
    Image.fromarray((255 * panels + 0.5).astype(np.uint8)).save(path)
    return psnr(simplified, original), psnr(cut, original)


def main(out: Path, components: int = 6, rounds: int = 3, splats: int = 50_000) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Output folder.
    components
        Number of components to reduce to.
    rounds
        Number of interleaved runs of each method; the seconds are the median.
    splats
        Number of splats of the scene.
    """
    density = GaussianMixture.from_kde(load_breast_cancer().data[:, :2])  # mean radius and mean texture of the nuclei
    reductions: dict[str, list[Reduction]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        for name, runs in reductions.items():
            runs.append(reduce(density, components, name))
    best = reductions["oggmr"][0]
    plot_reduction(best, out / "picture.png", ("mean radius of the nuclei", "mean texture"))
    best.mixture.save(out / "six.json")
    whole = scene(splats)
    few = simplify(whole, 0.1)
    simplified, cut = draw_splats(out / "splats.png", whole, few)
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
            f"{angles['prune'] / angles['oggmr']:.0f} times; pi/2 would be no overlap at all. A scene of {splats:,} "
            f"Gaussian splats keeps {simplified:.1f} dB with a tenth of them, {cut:.1f} with the most visible tenth."
        ),
        "columns": ["method", "angle to the original", "squared error", "seconds"],
        "rows": rows,
        "note": (
            "A kernel density estimate of two features of scikit-learn's 569 breast tumours, by Scott's rule. The "
            "angle is that of the densities in L2, in closed form. The scene is synthetic."
        ),
        "picture": "picture.png",
        "pictures": {
            f"Every tumour's component, and OGGMR's {components}": "picture.png",
            f"{splats:,} splats, and {len(few):,} merged from them": "splats.png",
        },
        "angles": angles,
        "psnr": {"merged": simplified, "pruned": cut},
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
