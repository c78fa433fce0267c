"""Splats: images, density and processor time of reduced scenes, beside splat-transform and two trivial controls.

``python benchmarks/splats/bench_splats.py --peer "node .../splat-transform"`` prints a table and writes
results/splats.json and images/splats.png. Without --peer (may be repeated) only the controls run. All contestants read
and write the same .ply files in processes of their own, in turn; the time is the processor time of the process, reading
and writing included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gmr_metric.interop.splats import Splats
from render import Camera, density, look_at, psnr, render
from scene import scene
from sextet_common.benchmarks import store

HERE = Path(__file__).resolve().parent
LEVELS = ("30%", "10%", "3%")


def cameras(width: int = 320, height: int = 240) -> list[Camera]:
    """Return eight cameras around the scene, of different heights and distances."""
    target = np.array([0.0, 0.1, 0.5])
    turns = zip(np.linspace(-2.6, 0.9, 8), (2.4, 1.2, 1.8, 0.7, 3.2, 1.5, 2.0, 1.0), strict=True)
    return [look_at(np.array([4.8 * np.cos(t), 4.8 * np.sin(t), h]), target, width, height) for t, h in turns]


def points(splats: Splats, n: int = 4000) -> np.ndarray:
    """Return points near the splats, drawn from their field with doubled deviations."""
    draw = np.random.default_rng(0)
    chosen = draw.choice(len(splats), n, p=splats.to_mixture().weights)
    factors = np.linalg.cholesky(splats.covariances[chosen])
    return splats.positions[chosen] + 2 * np.einsum("nij,nj->ni", factors, draw.normal(size=(n, 3)))


def prune(splats: Splats, n: int) -> Splats:
    """Keep the splats with the largest opacity times footprint."""
    return _taken(splats, np.sort(np.argsort(-splats.opacities * splats.footprints)[:n]))


def voxels(splats: Splats, n: int) -> Splats:
    """Merge the splats of each cell of a grid, with cells so large that about n are left."""
    low, high = 1e-3, 3.0
    for _ in range(30):
        middle = np.sqrt(low * high)
        cells = np.floor((splats.positions - splats.positions.min(axis=0)) / middle).astype(np.int64)
        groups = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
        low, high = (middle, high) if groups.max() >= n else (low, middle)
    return splats.merged(groups)


def _taken(splats: Splats, kept: np.ndarray) -> Splats:
    arrays = (splats.positions, splats.rotations, splats.log_scales, splats.logits, splats.harmonics)
    return Splats(*(array[kept] for array in arrays))


def seconds(words: list[str]) -> float:
    """Run a command and return its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(counts: list[int], peers: dict[str, list[str]], rounds: int) -> list[dict[str, object]]:
    """Return a row for every scene, level and contestant."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            source = Path(folder, f"scene-{count}.ply")
            scene(count).save(source)
            original = Splats.load(source)
            images = [render(original, camera) for camera in cameras()]
            near = points(original)
            field = density(original, near)
            for level in LEVELS:
                jobs = {"gmr-metric": [sys.executable, "-m", "gmr_metric", "splats", "IN", "OUT", "--keep", level]}
                jobs |= {name: [word.replace("KEEP", level) for word in words] for name, words in peers.items()}
                times: dict[str, list[float]] = {name: [] for name in jobs}
                results: dict[str, Splats] = {}
                for _ in range(rounds):
                    for name, words in jobs.items():
                        out = Path(folder, "out.ply")
                        out.unlink(missing_ok=True)
                        files = {"IN": str(source), "OUT": str(out)}
                        times[name].append(seconds([files.get(word, word) for word in words]))
                        results[name] = Splats.load(out)
                n = round(float(level[:-1]) / 100 * len(original))
                results |= {"prune by opacity x footprint": prune(original, n), "voxel grid": voxels(original, n)}
                for name, result in results.items():
                    ratios = [psnr(render(result, c), image) for c, image in zip(cameras(), images, strict=True)]
                    error = float(np.linalg.norm(density(result, near) - field) / np.linalg.norm(field))
                    row = {"scene": len(original), "level": level, "who": name, "splats": len(result)}
                    time = statistics.median(times[name]) if name in times else None
                    rows.append({**row, "psnr_db": float(np.mean(ratios)), "density_error": error, "seconds": time})
                    print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, object]) -> str:
    """Return a row of the table."""
    time = "" if row["seconds"] is None else f"{row['seconds']:.2f} s"
    measured = f"{row['splats']} | {row['psnr_db']:.2f} dB | {row['density_error']:.3f} | {time}"
    return f"| {row['scene']}, {row['level']} | {row['who']} | {measured} |"


def picture(count: int) -> None:
    """Draw the scene at four levels side by side."""
    from gmr_metric.interop.splats import levels_of_detail
    from PIL import Image, ImageDraw, ImageFont

    levels = levels_of_detail(scene(count), [1.0, 0.3, 0.1, 0.03])
    camera = look_at(np.array([2.5, -4.4, 2.3]), np.array([0.1, 0.25, 0.62]), 400, 320, 47.0)
    whole = Image.new("RGB", (2 * 400 + 8, 2 * 348), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(17)
    for k, (level, name) in enumerate(zip(levels, ("100 %", "30 %", "10 %", "3 %"), strict=True)):
        left, top = (k % 2) * 408, (k // 2) * 348
        whole.paste(Image.fromarray((255 * render(level, camera) + 0.5).astype(np.uint8)), (left, top + 28))
        pen.text((left + 8, top + 5), f"{name}: {len(level):,} splats", "black", font)
    path = HERE.parents[1] / "images" / "splats.png"
    palette = whole.quantize(256, kmeans=2)
    whole.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="append", default=[], help="a splat-transform, with its interpreter")
    parser.add_argument("--counts", default="20000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    peers = {}
    for command in given.peer:
        words = shlex.split(command)
        version = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
        name = "splat-transform " + (version.stdout + version.stderr).split()[1].lstrip("v")
        modes = ("-F",) if name.split()[1].startswith("2.") else ("--decimate", "--decimate-adaptive")
        for mode in modes:
            peers[f"{name} {mode}"] = [*words, "-q", "-w", "-g", "cpu", "IN", mode, "KEEP", "OUT"]
    head = [
        "| scene, level | who | splats | images | density | processor time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(head))
    counts = [int(word) for word in given.counts.split(",")]
    rows = run(counts, peers, given.rounds)
    store(HERE.parent, "splats", {"peers": {k: json.dumps(v[-6:]) for k, v in peers.items()}, "rows": rows})
    picture(max(counts))


if __name__ == "__main__":
    main()
