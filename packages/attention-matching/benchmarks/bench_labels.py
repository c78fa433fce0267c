"""Kinds of images against kinds of labels, at equal numbers of images per class.

    OMP_NUM_THREADS=1 python benchmarks/bench_labels.py                                            # digits
    OMP_NUM_THREADS=1 python benchmarks/bench_labels.py --cifar npz-jpeg:PATH/cifar10-jpeg        # and CIFAR-10

Rows are random real images (another choice for every network), sets distilled by DM, DataDAM and ATOM, and patches that
a teacher chose (one per image, and 2 x 2). Columns are labels: hard, the teacher's, the teacher's of augmented views,
and learned ones. All networks are trained alike. Of CIFAR-10 every fifth image is used.
It also has a case at 64 pixels, for which every 25th of its training images is enlarged: it shows that the code path
works, not what real images of 64 pixels would give.

The budgets suit one thread: they are not the papers'. Every result is saved in --out, and the same command resumes.
Writes results/labels-CASE.json, and the table of all such files into results/labels.md and the README.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from attention_matching import (
    ComposeConfig,
    DistillConfig,
    DistilledSet,
    Distiller,
    EvaluateConfig,
    Preprocessing,
    accuracy,
    compose_patches,
    evaluate,
    evaluate_random_real,
    learned_labels_from,
    soft_labels_from,
    train_teacher,
    view_labels_from,
)
from attention_matching.images.held_out import held_out_rows
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store
from sextet_common.data import ImageSet, load
from torch.nn import functional

HERE = Path(__file__).resolve().parent
METHODS = ("dm", "datadam", "atom")
Column = Literal["hard", "teacher", "views", "learned"]
COLUMNS: dict[Column, Literal["hard", "soft", "views"]] = {
    "hard": "hard",
    "teacher": "soft",
    "views": "views",
    "learned": "soft",
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """Cost of a case."""

    ipc: tuple[int, ...]
    steps: int
    """Steps of the distillations; 0 leaves them out."""
    width: int
    teacher_epochs: int
    networks: int
    epochs: int
    sides: tuple[int, ...]
    """Patches per side of the composed images."""


BUDGETS = {
    "digits": Budget((1, 10), 150, 32, 60, 3, 200, (1,)),
    "cifar10": Budget((1,), 100, 32, 10, 3, 100, (1, 2)),
    "cifar10 at 64 pixels": Budget((1,), 0, 32, 10, 2, 100, (1, 2)),
}


def held_out(data: ImageSet) -> ImageSet:
    """Return the data with a fifth of the training images in place of the test images, to choose settings by."""
    taken = held_out_rows(data, 0.2, seed=7)
    images, labels = np.asarray(data.train_images), data.train_labels
    return ImageSet.of(images[~taken], labels[~taken], images[taken], labels[taken], data.classes, source="held out")


def part(data: ImageSet, every: int, factor: int = 1) -> ImageSet:
    """Return one of ``every`` training images and every fifth test image, ``factor`` times as large."""
    parts: list[np.ndarray] = []
    for images, labels, step in (
        (data.train_images, data.train_labels, every),
        (data.test_images, data.test_labels, 5),
    ):
        large = torch.from_numpy(np.array(images[::step])).float()
        if factor > 1:
            large = functional.interpolate(large, scale_factor=factor, mode="bilinear").round().clamp(0, 255)
        parts += [large.to(torch.uint8).numpy(), labels[::step]]
    return ImageSet.of(*parts, data.classes, source=f"{data.source}, 1 of {every}, {factor} times as large")


def measured(data: ImageSet, budget: Budget, out: Path) -> list[dict[str, Any]]:
    """Measure every kind of images with every kind of labels."""
    prepared = Preprocessing.fit(data)
    training = EvaluateConfig(networks=budget.networks, epochs=budget.epochs, width=budget.width)
    longer = dataclasses.replace(training, epochs=budget.teacher_epochs, batch=64)
    teacher = train_teacher(data, longer, prepared, out / "teacher.safetensors")
    test = prepared(np.asarray(data.test_images))
    print(f"teacher {100 * accuracy(teacher, test, torch.tensor(data.test_labels)):.1f} %", flush=True)
    label: dict[Column, Callable[[DistilledSet], DistilledSet] | None] = {
        "hard": None,
        "teacher": partial(soft_labels_from, data=data, teacher=teacher),
        "views": partial(view_labels_from, data=data, teacher=teacher),
        "learned": partial(learned_labels_from, data=data, config=training, images=2000),
    }
    sets: dict[tuple[str, int], DistilledSet] = {}
    if budget.steps:
        configs = [
            DistillConfig(method=method, ipc=ipc, steps=budget.steps, width=budget.width, whitening="none")
            for ipc in budget.ipc
            for method in METHODS
        ]
        results = Distiller.fit_many(configs, data, out / "distilled", preprocessing=prepared)
        sets |= {(config.method, config.ipc): each for config, each in zip(configs, results, strict=True)}
    for ipc in budget.ipc:
        for side in budget.sides:
            composed = ComposeConfig(ipc=ipc, side=side, views=1)
            folder = out / f"composed-{side}-{ipc}"
            name = f"patches, {side} x {side}"
            sets[name, ipc] = compose_patches(data, composed, folder, teacher=teacher, preprocessing=prepared)
    rows = []
    for ipc in budget.ipc:
        for column, kind in COLUMNS.items():
            config, add = dataclasses.replace(training, labels=kind), label[column]
            folder = out / f"random-{ipc}-{column}"
            real = evaluate_random_real(data, ipc, config, folder, preprocessing=prepared, label=add)
            rows.append({"ipc": ipc, "images": "random real", "labels": column, "accuracies": real.accuracies})
            for (name, each), made in sets.items():
                if each == ipc:
                    folder = out / f"{name.replace(', ', '-').replace(' ', '')}-{ipc}-{column}"
                    result = evaluate(made if add is None else add(made), data, config, folder)
                    rows.append({"ipc": ipc, "images": name, "labels": column, "accuracies": result.accuracies})
            print(f"ipc {ipc}, {column}: {time.process_time():.0f} s of processor time", flush=True)
    return rows


def table(cases: dict[str, list[dict[str, Any]]]) -> str:
    """Return the accuracies as Markdown: a line per kind of images, a column per kind of labels."""
    lines = [
        "| data | images per class | images | hard labels | teacher's | teacher's, of views | learned |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, rows in cases.items():
        for ipc in dict.fromkeys(row["ipc"] for row in rows):
            mine = [row for row in rows if row["ipc"] == ipc]
            for name in dict.fromkeys(row["images"] for row in mine):
                of = {row["labels"]: row["accuracies"] for row in mine if row["images"] == name}
                cells = [f"{100 * statistics.fmean(of[c]):.1f} ± {100 * statistics.stdev(of[c]):.1f}" for c in COLUMNS]
                lines.append(f"| {case} | {ipc} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    cifar: str | None = None,
    only: tuple[str, ...] | None = None,
    choose: bool = False,
    out: Path = Path("runs/labels"),
    readme: bool = True,
) -> None:
    """Measure.

    Parameters
    ----------
    cifar
        CIFAR-10: npz-jpeg:PREFIX, npz:PATH or cifar10:PATH; without it, only the digits are measured.
    only
        Cases: digits, cifar10, "cifar10 at 64 pixels".
    choose
        Test on held-out training images, to choose settings by; writes nothing but --out.
    out
        Folder of the runs.
    readme
        Put the table into the README.
    """
    sources: dict[str, Callable[[], ImageSet]] = {"digits": lambda: load("digits")}
    if cifar is not None:
        images = load(cifar)
        sources["cifar10"] = lambda: part(images, 5)
        sources["cifar10 at 64 pixels"] = lambda: part(images, 25, 2)
    cases: dict[str, list[dict[str, Any]]] = {}
    for name, read in sources.items():
        if only is None or name in only:
            data = held_out(read()) if choose else read()
            folder = out / ("chosen" if choose else "tested") / name.replace(" ", "-")
            cases[name] = measured(data, BUDGETS[name], folder)
    if choose:
        print(table(cases))
        return
    for name, rows in cases.items():
        report = {"case": name, "budget": dataclasses.asdict(BUDGETS[name]), "rows": rows}
        store(HERE, f"labels-{name.replace(' ', '-')}", report)
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (HERE / "results").glob("labels-*.json")]
    everything = {name: report["rows"] for name in BUDGETS for report in reports if report["case"] == name}
    print(table(everything))
    files.write_text(HERE / "results" / "labels.md", f"{machine()}\n\n{table(everything)}\n")
    if readme:
        into_readme(HERE.parent / "README.md", "bench_labels", table(everything))


if __name__ == "__main__":
    tyro.cli(main)
