"""Where distillation through subclasses pays: share of labels, size of the student, strength of the teacher, noise.

    python benchmarks/bench_sweep.py

One setting is varied at a time around 5 % of the labels of the digits; temperature and alpha of every method are those
that bench_methods.py chose on validation images (results/digits-semi.json). A finished point is not run again as long
as its folder in runs/ exists. Writes results/sweep.json and sweep.png, and the table into the README.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from bench_methods import DIGITS_SEMI, HERE
from sextet_common import figures
from sextet_common.benchmarks import into_readme, store
from sextet_common.seeding import generator
from subclass_kd import Comparison, SubclassSet, compare, load

METHODS = {
    "alone-subclass": "alone, subclass labels",
    "kd-semi": "KD, all images",
    "skd": "SKD, labelled images",
    "skd-semi": "SKD, all images",
    "pseudo": "pseudo-labels",
}
AXES = {
    "share": ("share of the labels", (0.02, 0.05, 0.1, 0.3)),
    "student_width": ("width of the student", (4, 8, 16, 32)),
    "teacher_epochs": ("passes of the teacher", (1, 3, 10, 31)),
    "noise": ("share of wrong labels", (0.0, 0.1, 0.2, 0.4)),
}
USUAL = {"share": 0.05, "student_width": 16, "teacher_epochs": 31, "noise": 0.0}


def noisy(data: SubclassSet, share: float) -> SubclassSet:
    """Return the set with a share of the training labels replaced by another subclass's, drawn at random."""
    draw, labels, count = generator(0, "noise"), data.train.labels.copy(), data.hierarchy.n_subclasses
    rows = draw.permutation(len(labels))[: round(share * len(labels))]
    labels[rows] = (labels[rows] + draw.integers(1, count, len(rows))) % count
    return dataclasses.replace(
        data, train=dataclasses.replace(data.train, labels=labels), source=f"{data.source}, {share:g} wrong"
    )


def main(seeds: int = 3, work: Path = Path("runs/bench_sweep")) -> None:
    """Measure.

    Parameters
    ----------
    seeds
        Seeds of each point.
    work
        Folder of the run folders.
    """
    torch.set_num_threads(1)  # the networks are small
    data = load("digits")
    chosen = json.loads((HERE / "results" / "digits-semi.json").read_text(encoding="utf-8"))["chosen"]
    config = dataclasses.replace(DIGITS_SEMI, methods=tuple(METHODS), seeds=seeds, tune=False)
    points: dict[str, dict[str, object]] = {}
    for axis, (_, values) in AXES.items():
        for value in values:
            setting = USUAL | {axis: value}
            name = "-".join(f"{key}-{setting[key]:g}" for key in USUAL)
            options = {key: setting[key] for key in USUAL if key != "noise"}
            varied = dataclasses.replace(config, **options)
            settled = {method: chosen[method] for method in METHODS}
            found = compare(noisy(data, setting["noise"]), varied, work / name, chosen=settled)
            points[name] = {"setting": setting, **found.as_dict()}
    store(HERE, "sweep", {"seeds": seeds, "points": points})
    write()


def write() -> None:
    """Write the measured points into the README."""
    saved = json.loads((HERE / "results" / "sweep.json").read_text(encoding="utf-8"))
    points = {json.dumps(p["setting"], sort_keys=True): Comparison.from_dict(p) for p in saved["points"].values()}
    read = {
        axis: [(value, points[json.dumps(USUAL | {axis: value}, sort_keys=True)]) for value in values]
        for axis, (_, values) in AXES.items()
    }
    picture(read)
    machine = ", ".join(f"{name} {value}" for name, value in saved["machine"].items())
    text = f"{table(read)}\n\n![Where subclasses pay](benchmarks/results/sweep.png)\n\n"
    into_readme(HERE.parent / "README.md", "bench_sweep", f"{text}`python benchmarks/bench_sweep.py` on {machine}.")


def table(read: dict[str, list[tuple[float, Comparison]]]) -> str:
    """Return the mean F1 of each point, and the paired differences of SKD on all images."""
    heads = ["teacher", *METHODS.values(), "SKD over alone", "SKD over KD"]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for axis, points in read.items():
        for value, found in points:
            cells = [f"{mean(found, method):.1f}" for method in ("teacher", *METHODS)]
            cells += [str(found.difference("skd-semi", to)) for to in ("alone-subclass", "kd-semi")]
            lines.append(f"| {AXES[axis][0]} {value:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(found: Comparison, method: str) -> float:
    """Return the mean F1 in per cent."""
    return 100 * float(np.mean([scores.f1 for scores in found.scores[method]]))


def picture(read: dict[str, list[tuple[float, Comparison]]]) -> None:
    """Plot the mean F1 over each setting, all on one scale, which leaves out the teacher of one pass."""
    with figures.figure_file(HERE / "results" / "sweep.png", (9.5, 6.4)) as figure:
        panels: Sequence = figure.subplots(2, 2, sharey=True).flat
        for panel, (axis, points) in zip(panels, read.items(), strict=True):
            for (method, name), colour in zip(METHODS.items(), figures.COLOURS, strict=False):
                means = [mean(found, method) for _, found in points]
                panel.plot(range(len(points)), means, "o-", color=colour, label=name)
            panel.plot(range(len(points)), [mean(f, "teacher") for _, f in points], "k:", label="teacher")
            panel.set_xticks(range(len(points)), [f"{value:g}" for value, _ in points])
            panel.set_xlabel(AXES[axis][0])
        for panel in (panels[0], panels[2]):
            panel.set_ylabel("F1, per cent")
        panels[0].set_ylim(78, 100.5)
        panels[0].legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    tyro.cli(main)
