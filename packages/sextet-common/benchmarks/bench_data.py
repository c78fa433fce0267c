"""Memory that loading image sets takes, beside what is usual: an ImageFolder's tensors in a list, and a float32 array.

``python benchmarks/bench_data.py`` prints a table, writes results/data.json and puts the table into README.md. Every
row is a child process that reports its peak (VmHWM) and its resident memory (VmRSS) once the data is loaded; the memory
of the bare imports is a row of its own. Where fewer than 110,000 images were read, the last column extrapolates the
growth between two sizes, the smaller one a quarter, so that fixed costs such as importing Pillow count once. The
million images are a cache entry that is written directly, most of it zeros: what is measured is the loading and 500
random batches of 512. With names of rows as arguments only these are measured, and the others stay as they were.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sextet_common import benchmarks, cache, checkpoint

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
        "npz",
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


def random_images(count: int) -> np.ndarray:
    """Return random bytes as images."""
    rng, images = np.random.default_rng(0), np.empty((count, *SHAPE), np.uint8)
    for start in range(0, count, 1000):
        block = images[start : start + 1000]
        block[:] = rng.integers(0, 256, block.shape, dtype=np.uint8)
    return images


def write_npz(path: Path, count: int) -> None:
    """Write an .npz file, a part of it test images."""
    images, labels, test = random_images(count), np.arange(count) % 10, count // 11
    halves = {"train_images": images[test:], "train_labels": labels[test:]}
    with path.open("wb") as file:  # by its name alone NumPy would add a suffix
        np.savez(file, **halves, test_images=images[:test], test_labels=labels[:test])


def write_folder(path: Path, count: int) -> None:
    """Write a folder of PNG files, a part of them test images."""
    from PIL import Image

    for number, image in enumerate(random_images(count)):
        file = path / ("test" if number < count // 11 else "train") / str(number % 10) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(file, compress_level=1)


def write_million(entry: Path, count: int = MILLION) -> None:
    """Write a cache entry; most of its file is a hole that the disk need not hold, and that reads as zeros."""
    entry.mkdir()
    images = np.lib.format.open_memmap(entry / cache.IMAGES, mode="w+", dtype=np.uint8, shape=(count, *SHAPE))
    images[:1000] = 1
    labels, moments = np.arange(count) % 10, np.full(3, 0.5, np.float32)
    arrays = {"train_labels": labels[:-10], "test_labels": labels[-10:], "mean": moments, "std": moments}
    meta = {"classes": list("0123456789"), "notes": [], "fingerprint": "0" * 64}
    checkpoint.save(entry / cache.REST, arrays, meta)


WRITERS: dict[str, Callable[[Path, int], None]] = {"npz": write_npz, "folder": write_folder, "entry": write_million}


def input_of(folder: Path, kind: str, count: int) -> Path:
    """Return the input of this kind and size, and write it where it is absent."""
    path = folder / f"{kind}-{count}{'.npz' if kind == 'npz' else ''}"
    if not path.exists():
        WRITERS[kind](path, count)
    return path


def measure(program: str, path: Path) -> tuple[float, float, float]:
    """Return peak and resident megabytes and the seconds of a program in a fresh interpreter."""
    code = HEAD + program + "report(time.perf_counter() - began)\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True, env=environment)
    peak, resident, seconds = map(float, output.split())
    return peak, resident, seconds


def row(folder: Path, program: str, kind: str, count: int) -> dict[str, float]:
    """Measure a program; extrapolate the growth between a quarter of its images and all to 110,000."""
    peak, resident, seconds = measure(program, input_of(folder, kind, count or LARGE))
    result = {"images": count, "seconds": seconds, "peak_MB": peak, "resident_MB": resident}
    if count == LARGE:
        result |= {"peak_MB_at_110000": peak, "resident_MB_at_110000": resident}
    elif 0 < count < LARGE:
        quarter = measure(program, input_of(folder, kind, count // 4))
        for name, whole, part in zip(("peak_MB", "resident_MB"), (peak, resident), quarter[:2], strict=True):
            slope = (whole - part) / (count - count // 4)
            result[f"{name}_at_110000"] = whole + slope * (LARGE - count)
    return result


def line(what: str, values: dict[str, float]) -> str:
    """Return a row of the table."""
    names = ("peak_MB", "resident_MB", "peak_MB_at_110000", "resident_MB_at_110000")
    shown = [f"{values[name] / 1000:.2f} GB" if name in values else "" for name in names]
    large = " / ".join(shown[2:]) if shown[2] else ""
    return f"| {what} | {values['images']:,.0f} | {values['seconds']:.1f} | {shown[0]} | {shown[1]} | {large} |"


def main(chosen: list[str]) -> None:
    """Measure, print and store."""
    stored = HERE / "results" / "data.json"
    report = json.loads(stored.read_text())["rows"] if chosen else {}
    with tempfile.TemporaryDirectory() as name:
        for what in chosen or CONTESTANTS:
            report[what] = row(Path(name), *CONTESTANTS[what])
            print(what, report[what], file=sys.stderr)
    head = "| what | images | seconds | peak | resident | peak / resident at 110,000 |"
    table = "\n".join(
        [head, "| --- | --- | --- | --- | --- | --- |", *(line(what, report[what]) for what in CONTESTANTS)]
    )
    print(table)
    benchmarks.store(HERE, "data", {"shape": SHAPE, "rows": report})
    benchmarks.into_readme(HERE.parent / "README.md", "bench_data", table)


if __name__ == "__main__":
    main(sys.argv[1:])
