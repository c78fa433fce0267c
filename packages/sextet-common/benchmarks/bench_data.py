"""Memory that loading image sets takes, beside what is usual: an ImageFolder's tensors in a list, and a float32 array.

``python benchmarks/bench_data.py`` prints a table, writes results/data.json and puts the table into README.md. Every
row is a child process that reports its peak (VmHWM) and its resident memory (VmRSS) once the data is loaded; the memory
of the bare imports is a row of its own. Where fewer than 110,000 images were read, the last column extrapolates the
growth over the imports, and with it fixed costs such as importing Pillow: an upper bound. The million images are a
cache entry that is written directly, most of it zeros: what is measured is the loading and 500 random batches of 512.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sextet_common import benchmarks, pixels

HERE = Path(__file__).resolve().parent
LARGE, MEDIUM, SMALL, MILLION, SHAPE = 110_000, 22_000, 5_500, 1_000_000, (3, 64, 64)
HEAD = """
import sys, time
import numpy as np
def report(seconds):
    lines = open("/proc/self/status").read().splitlines()
    mega = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Vm")}
    print(mega["VmHWM"], mega["VmRSS"], seconds)
path = sys.argv[1]
began = time.perf_counter()
"""
OURS = "from sextet_common import data\nfound = data.load(path)\n"
CONTESTANTS = {  # what runs, which input, and how many images it loads
    "imports: sextet_common.data": ("from sextet_common import data\n", "npz", 0),
    "imports: torch, torchvision": ("import torch, torchvision.datasets\n", "npz", 0),
    "npz, data.load": (OURS, "npz", LARGE),
    "npz, float32 arrays (as before)": (
        "with np.load(path) as file:\n"
        "    names = ('train_images', 'test_images')\n"
        "    found = [file[name].astype(np.float32) / np.float32(255) for name in names]\n",
        "medium",
        MEDIUM,
    ),
    "folder, data.load": (OURS, "folder", SMALL),
    "folder, data.load(cache=...), first": (OURS.replace("path", "path, cache=path + '-cache'"), "folder", SMALL),
    "folder, data.load(cache=...), again": (OURS.replace("path", "path, cache=path + '-cache'"), "folder", SMALL),
    "folder, torchvision ImageFolder, list of float tensors": (
        "import torchvision\nfrom torchvision.transforms import ToTensor\n"
        "found = list(torchvision.datasets.ImageFolder(path + '/train', ToTensor()))\n",
        "folder",
        SMALL,
    ),
    "a million from the cache, 500 batches of 512": (
        "from pathlib import Path\nfrom sextet_common import cache, data\n"
        "parts = cache.load(Path(path).parent, Path(path).name, None)\n"
        "found = data.ImageSet(*parts.train, *parts.test, parts.classes, *parts.statistics)\n"
        "rows = np.random.default_rng(0)\n"
        "for _ in range(500):\n    data.take(found.train_images, rows.integers(0, len(found.train_labels), 512))\n",
        "entry",
        MILLION,
    ),
}


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write an .npz, a folder of PNG files and a cache entry of a million images."""
    from PIL import Image

    rng = np.random.default_rng(0)
    labels = np.arange(LARGE) % 10
    images = np.empty((LARGE, *SHAPE), np.uint8)
    for start in range(0, LARGE, 1000):
        images[start : start + 1000] = rng.integers(0, 256, (1000, *SHAPE), dtype=np.uint8)
    for name, count in (("npz", LARGE), ("medium", MEDIUM)):
        test, stored, numbers = count // 11, images[:count], labels[:count]
        halves = {"train_images": stored[test:], "train_labels": numbers[test:]}
        np.savez(folder / f"{name}.npz", **halves, test_images=stored[:test], test_labels=numbers[:test])
    for number in range(SMALL):
        part = "test" if number < SMALL // 11 else "train"
        file = folder / "set" / part / str(labels[number]) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number].transpose(1, 2, 0)).save(file, compress_level=1)
    del images
    inputs = {name: folder / f"{name}.npz" for name in ("npz", "medium")}
    return {**inputs, "folder": folder / "set", "entry": write_million(folder / "entry")}


def write_million(entry: Path) -> Path:
    """Write a cache entry; most of its file is a hole that the disk need not hold, and that reads as zeros."""
    entry.mkdir()
    images = np.lib.format.open_memmap(entry / "images.npy", mode="w+", dtype=np.uint8, shape=(MILLION, *SHAPE))
    images[:1000] = 1
    labels = np.arange(MILLION) % 10
    np.save(entry / "labels.npy", labels)
    meta = {"classes": list("0123456789"), "notes": [], "train": MILLION - 10, "test": 10, "fingerprint": "0" * 64}
    meta |= {"mean": [0.5] * 3, "std": [0.2] * 3, "labels": pixels.fingerprint(labels)}
    (entry / "meta.json").write_text(json.dumps(meta))
    return entry


def measure(program: str, path: Path) -> tuple[float, float, float]:
    """Return peak and resident megabytes and the seconds of a program in a fresh interpreter."""
    code = HEAD + program + "report(time.perf_counter() - began)\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True, env=environment)
    peak, resident, seconds = map(float, output.split())
    return peak, resident, seconds


def main() -> None:
    """Measure, print and store."""
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        inputs = write_inputs(Path(name))
        print(f"inputs written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        for what, (program, kind, count) in CONTESTANTS.items():
            rows[what] = (*measure(program, inputs[kind]), count)
            print(what, rows[what], file=sys.stderr)
    base, torch_base = (rows[what] for what in list(rows)[:2])
    lines = [
        "| what | images | seconds | peak | resident | peak / resident at 110,000 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    report = {}
    for what, (peak, resident, seconds, count) in rows.items():
        start = (torch_base if "torchvision" in what else base)[1]
        large = [
            value if count == LARGE else start + (value - start) * LARGE / max(count, 1) for value in (peak, resident)
        ]
        gigabytes = [f"{value / 1000:.2f} GB" for value in (peak, resident, *large)]
        shown = f"{gigabytes[2]} / {gigabytes[3]}" if SMALL <= count <= LARGE else ""
        lines.append(f"| {what} | {count:,} | {seconds:.1f} | {gigabytes[0]} | {gigabytes[1]} | {shown} |")
        report[what] = {"images": count, "seconds": seconds, "peak_MB": peak, "resident_MB": resident}
        if shown:
            report[what] |= {"peak_MB_at_110000": large[0], "resident_MB_at_110000": large[1]}
    table = "\n".join(lines)
    print(table)
    benchmarks.store(HERE, "data", {"shape": SHAPE, "rows": report})
    benchmarks.into_readme(HERE.parent / "README.md", "bench_data", table)


if __name__ == "__main__":
    main()
