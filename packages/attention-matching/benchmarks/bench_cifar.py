"""The papers' main experiment: distill CIFAR-10, and train fresh networks on the result.

The papers' budget, for a GPU (each paper's row by one command)::

    python benchmarks/bench_cifar.py --data npz-jpeg:PATH/cifar10-jpeg --methods datadam
    python benchmarks/bench_cifar.py --data npz-jpeg:PATH/cifar10-jpeg --methods atom

A small budget, for two cores of a laptop; its figures are not comparable with the papers'::

    python benchmarks/bench_cifar.py --data npz-jpeg:PATH/cifar10-jpeg --budget small

Every distillation and every accuracy is saved in --out, and the same command resumes a stopped one. Prints a table,
writes results/cifar-BUDGET-DEVICE.json and updates the README's table.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from attention_matching import (
    DistillConfig,
    Distiller,
    EvaluateConfig,
    Preprocessing,
    evaluate,
    evaluate_random_real,
)
from attention_matching.distillation.config import Preset
from attention_matching.matching.losses import Method
from sextet_common import device, files
from sextet_common.benchmarks import into_readme
from sextet_common.data import ImageSet, load

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Budget:
    """Cost of a row."""

    ipc: tuple[int, ...]
    seeds: int
    """Distillations of each number of images per class."""
    steps: int | None
    """Steps of a distillation; None for the preset's."""
    width: int
    """Width of all networks."""
    networks: int
    """Fresh networks per distilled set."""
    epochs: int
    """Epochs of each fresh network."""


BUDGETS = {
    "paper": Budget(ipc=(1, 10, 50), seeds=3, steps=None, width=128, networks=5, epochs=1000),
    "small": Budget(ipc=(1,), seeds=3, steps=300, width=32, networks=3, epochs=300),
}


@dataclass(frozen=True)
class Cell:
    """Accuracies of one method at one number of images per class, of every network of every seed."""

    preset: str
    method: str
    ipc: int
    accuracies: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = statistics.fmean(self.accuracies), statistics.stdev(self.accuracies)
        return f"{100 * mean:.1f} ± {100 * std:.1f}"


def measured(
    data: ImageSet, preset: Preset, methods: tuple[Method, ...], budget: Budget, where: str, out: Path
) -> list[Cell]:
    """Distill and evaluate under one preset, beside random real images in the same preprocessing."""
    chosen = DistillConfig(preset=preset).resolved(data)
    preprocessing = Preprocessing.fit(data, chosen.whitening or "none")
    cells = []
    for ipc in budget.ipc:
        accuracies_of: dict[str, list[float]] = {name: [] for name in ("random real", *methods)}
        for seed in range(budget.seeds):
            training = EvaluateConfig(
                networks=budget.networks,
                epochs=budget.epochs,
                width=budget.width,
                norm=chosen.norm or "instance",
                seed=seed,
                device=where,
            )
            folder = out / preset / f"ipc-{ipc}-seed-{seed}"
            real = evaluate_random_real(data, ipc, training, folder / "random-real", preprocessing=preprocessing)
            accuracies_of["random real"] += real.accuracies
            for method in methods:
                config = DistillConfig(
                    ipc=ipc,
                    method=method,
                    preset=preset,
                    steps=budget.steps,
                    width=budget.width,
                    seed=seed,
                    device=where,
                )
                distilled = Distiller(config, preprocessing=preprocessing).fit(data, folder / method)
                accuracies = evaluate(distilled, data, training, folder / f"{method}-accuracy").accuracies
                accuracies_of[method] += accuracies
                print(
                    f"{preset}, {method}, ipc {ipc}, seed {seed}: {100 * statistics.fmean(accuracies):.1f} %",
                    flush=True,
                )
        cells += [Cell(preset, name, ipc, tuple(accuracies)) for name, accuracies in accuracies_of.items()]
    return cells


def table(cells: list[Cell]) -> str:
    """Return the accuracies as Markdown, with their ratio to random real images."""
    real = {(c.preset, c.ipc): statistics.fmean(c.accuracies) for c in cells if c.method == "random real"}
    lines = [
        "| preset | images per class | trained on | test accuracy, % | over random real |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        ratio = statistics.fmean(cell.accuracies) / real[cell.preset, cell.ipc]
        lines.append(f"| {cell.preset} | {cell.ipc} | {cell.method} | {cell} | {ratio:.2f} |")
    return "\n".join(lines)


def main(
    data: str,
    budget: Literal["paper", "small"] = "paper",
    methods: tuple[Method, ...] = ("dm", "datadam", "atom"),
    presets: tuple[Preset, ...] = ("paper", "official"),
    device_name: str = "auto",
    out: Path = Path("runs/cifar"),
    readme: bool = True,
) -> None:
    """Measure.

    Parameters
    ----------
    data
        CIFAR-10: npz-jpeg:PREFIX for the shared data, cifar10:PATH for torchvision's.
    budget
        paper, or small for a CPU: see BUDGETS.
    methods
        Distillation methods.
    presets
        Settings; DM runs under both, so that attention is credited only with its own gain.
    device_name
        auto, cpu or cuda.
    out
        Folder of the runs.
    readme
        Put the table into the README.
    """
    images = load(data)
    cells: list[Cell] = []
    for preset in presets:
        cells += measured(images, preset, methods, BUDGETS[budget], device_name, out / budget)
    print(table(cells))
    report = {
        "machine": device.describe(),
        "data": images.source.split(":")[0],
        "budget": asdict(BUDGETS[budget]),
        "cells": [asdict(cell) for cell in cells],
    }
    (HERE / "results").mkdir(exist_ok=True)
    path = HERE / "results" / f"cifar-{budget}-{device.pick(device_name).type}.json"
    files.write_text(path, json.dumps(report, indent=1) + "\n")
    if readme:
        into_readme(HERE.parent / "README.md", f"bench_cifar {budget}", table(cells))


if __name__ == "__main__":
    tyro.cli(main)
