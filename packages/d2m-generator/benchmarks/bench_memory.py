"""Memory of one step of D2M on 1000 classes of 128 x 128 pixels: 100,000 synthetic images on disk, a small GAN.

Run it: ``python benchmarks/bench_memory.py``; about 5 minutes on one core, 5 GB in the temporary folder.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
import tyro
from d2m_generator import D2M, ConditionalGAN, D2MConfig, PoolConfig
from sextet_common.benchmarks import into_readme, machine, store
from sextet_common.data import ImageSet

HERE = Path(__file__).resolve().parent
CLASSES, EACH, SIDE = 1000, 100, 128


def resident() -> dict[str, float]:
    """Return the resident memory of this process in GB: all of it, and without pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) / 1e6 for name, key in (("all", "VmRSS"), ("own", "RssAnon"))}


def written(folder: Path) -> ImageSet:
    """Return a set on disk: noise, class by class, and a test image of each class."""
    random = np.random.default_rng(0)
    shape = (CLASSES * EACH, 3, SIDE, SIDE)
    pixels = np.lib.format.open_memmap(folder / "train.npy", mode="w+", dtype=np.uint8, shape=shape)
    noise = random.integers(256, size=(EACH, *shape[1:]), dtype=np.uint8)
    for label in range(CLASSES):
        pixels[label * EACH : (label + 1) * EACH] = np.roll(noise, label, axis=3)
    pixels.flush()
    del pixels
    images = np.load(folder / "train.npy", mmap_mode="r")
    labels = np.repeat(np.arange(CLASSES), EACH)
    return ImageSet.of(
        images, labels, np.array(images[::EACH]), labels[::EACH], tuple(map(str, range(CLASSES))), source="synthetic"
    )


def main(width: int = 8, real_batch: int = 4, images: int = 2, accumulate: int = 50) -> None:
    """Measure the largest resident memory while a step is taken.

    Parameters
    ----------
    width
        Channels of the GAN's last block.
    real_batch, images
        Real and generated images of a class.
    accumulate
        Parts into which the classes of the step are split.
    """
    torch.set_num_threads(1)
    highest, done = {"all": 0.0, "own": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for name, value in resident().items():
                highest[name] = max(highest[name], value)

    with tempfile.TemporaryDirectory() as place:
        data = written(Path(place))
        gan = ConditionalGAN(CLASSES, data.image_shape, width=width)
        config = D2MConfig(
            steps=1, images=images, real_batch=real_batch, accumulate=accumulate,
            pool=PoolConfig(networks=1, untrained=1.0, width=16),
        )  # fmt: skip
        began, watcher = time.perf_counter(), threading.Thread(target=watch)
        watcher.start()
        try:
            D2M(config).fit(gan, data)
        finally:
            done.set()
            watcher.join()
        report = {"seconds": time.perf_counter() - began, **highest}
    store(HERE, "memory", report)
    text = (
        f"One step on all {CLASSES} classes of {SIDE} x {SIDE} pixels, {CLASSES * EACH:,} images of 4.9 GB on disk as "
        f"bytes, a GAN of {width} channels, {real_batch} real and {images} generated images of a class, in "
        f"{accumulate} parts: at most **{highest['all']:.1f} GB resident**, of which {highest['own']:.1f} GB are the "
        "process's own and the rest pages of the file, which the system may drop.\n\n"
        f"`python benchmarks/bench_memory.py`, one thread, on {machine()}."
    )
    into_readme(HERE.parent / "README.md", "bench_memory", text)
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
