"""Speed of a step at the papers' CIFAR shapes, compared with a reimplementation of the published loop.

``python benchmarks/bench_step.py [--data npz-jpeg:PATH/cifar10-jpeg]`` prints a table, writes results/step-DEVICE.json
and updates the table in README.md. Without --data: random pixels in the same shapes, which take as long.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from attention_matching import DistillConfig, Preprocessing
from attention_matching.distillation.config import Preset
from attention_matching.distillation.timing import Timing, time_steps
from published import PublishedLoop
from sextet_common import device, files
from sextet_common.benchmarks import into_readme
from sextet_common.data import ImageSet, load

HERE = Path(__file__).resolve().parent


def random_images() -> ImageSet:
    """Make random pixels in CIFAR-10's shapes, a tenth of the training set."""
    pixels = np.random.default_rng(0).random((5000, 3, 32, 32), dtype=np.float32)
    labels = np.arange(5000) % 10
    return ImageSet.of(pixels, labels, pixels[:10], labels[:10], source="random pixels")


def measured(
    data: ImageSet, preset: Preset, where: str, rounds: int, only: tuple[str, ...] | None
) -> dict[str, Timing]:
    """Time ours and the published loop."""
    config = DistillConfig(ipc=10, preset=preset, whitening="none", device=where)
    chosen = config.resolved(data)
    inputs = Preprocessing.fit(data)(data.train_images).to(device.pick(where))
    loop = PublishedLoop(inputs, data.train_labels, 10, norm=chosen.norm or "", power=chosen.power or 1)
    return time_steps(data, config, only=only, rounds=rounds, peers={"the published loop, stated again": loop})


def table(rows: dict[str, dict[str, Timing]]) -> str:
    """Set the medians and ratios out in Markdown."""
    lines = ["| preset | who | a step, median | speed |", "| --- | --- | --- | --- |"]
    for preset, timings in rows.items():
        slowest = next(iter(timings.values())).median
        for name, timing in timings.items():
            who = name if "published" in name else f"ours, {name}"
            lines.append(f"| {preset} | {who} | {timing.median:.3f} s | {slowest / timing.median:.2f} |")
    return "\n".join(lines)


def main(
    data: str = "",
    device_name: str = "auto",
    rounds: int = 5,
    presets: tuple[Literal["paper", "official"], ...] = ("paper", "official"),
    only: tuple[str, ...] | None = None,
    readme: bool = True,
) -> None:
    """Measure.

    Parameters
    ----------
    data
        The images, such as npz-jpeg:PREFIX; random pixels by default.
    device_name
        auto, cpu or cuda.
    rounds
        Timed rounds, after two warm-ups.
    presets
        Which settings.
    only
        Variants of our step; all by default.
    readme
        Put the table into the README.
    """
    images = load(data) if data else random_images()
    rows = {preset: measured(images, preset, device_name, rounds, only) for preset in presets}
    text = table(rows)
    print(text)
    where = device.pick(device_name).type
    report = {
        "machine": {**device.describe(), "threads": torch.get_num_threads()},
        "data": images.source.split(":")[0],
        "shapes": "10 classes x 64 real, ipc 10, ConvNet-3 of width 128, 32x32",
        "seconds": {preset: {n: t.seconds for n, t in timings.items()} for preset, timings in rows.items()},
    }
    (HERE / "results").mkdir(exist_ok=True)
    files.write_text(HERE / "results" / f"step-{where}.json", json.dumps(report, indent=1) + "\n")
    if readme:
        into_readme(HERE.parent / "README.md", f"bench_step {where}", text)


if __name__ == "__main__":
    tyro.cli(main)
