"""The cost of an epoch of subclass distillation and of conventional distillation, from cached logits.

    python benchmarks/bench_cost.py

Student and batches are the same; only the objective differs. The objectives take turns, and the figures are medians
over the rounds, of the seconds and of the ratio within a round. The live teacher's epoch shows what the cache saves.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from sextet_common.benchmarks import into_readme, machine, store
from subclass_kd import (
    ClassKDLoss,
    CrossEntropy,
    DecoupledKDLoss,
    SubclassKDLoss,
    SubclassSet,
    TeacherLogits,
    TrainConfig,
    Views,
    build,
    distill,
    load,
)

HERE = Path(__file__).resolve().parent


def rows(data: SubclassSet, widths: tuple[int, int], rounds: int) -> dict[str, dict[str, float]]:
    """Time an epoch of each objective."""
    config = TrainConfig(epochs=1, views=Views(2), device="cpu")
    outputs = data.hierarchy.n_subclasses
    teacher = build("convnet-deep", data.input_shape, outputs, width=widths[0]).eval()
    objectives = {
        "student alone": (CrossEntropy(data.hierarchy, "class"), None),
        "conventional KD, cached logits": (ClassKDLoss(data.hierarchy), "cached"),
        "decoupled KD, cached logits": (DecoupledKDLoss(data.hierarchy), "cached"),
        "SKD, cached logits": (SubclassKDLoss(data.hierarchy), "cached"),
        "SKD, both weights set, cached logits": (SubclassKDLoss(data.hierarchy, within_weight=0.5), "cached"),
        "SKD, the teacher run for every batch": (SubclassKDLoss(data.hierarchy), "live"),
    }
    times: dict[str, list[float]] = {name: [] for name in objectives}
    with tempfile.TemporaryDirectory() as folder:
        cached = TeacherLogits.compute(teacher, data.train, config.views, Path(folder))
        for number in range(rounds + 1):
            for name, (objective, source) in objectives.items():
                student = build("convnet", data.input_shape, outputs, width=widths[1])
                given = {None: None, "cached": cached, "live": teacher}[source]
                began = time.perf_counter()
                distill(given, student, data, objective, replace(config, seed=number))
                times[name].append(time.perf_counter() - began)
    base = times["conventional KD, cached logits"]
    return {
        name: {
            "seconds": statistics.median(each[1:]),
            "ratio": statistics.median(a / b for a, b in zip(each[1:], base[1:], strict=True)),
        }
        for name, each in times.items()
    }


def main(rounds: int = 15) -> None:
    """Measure.

    Parameters
    ----------
    rounds
        Number of timed epochs of each objective.
    """
    torch.set_num_threads(1)
    cases = {
        "digits, student of width 4": rows(load("digits"), (32, 4), rounds),
        "digits, student of width 16": rows(load("digits"), (32, 16), rounds),
    }
    store(HERE, "cost", {"rounds": rounds, "cases": cases})
    lines = ["| | " + " | ".join(f"{case}: s an epoch | x of KD" for case in cases) + " |", "|---" * 5 + "|"]
    for name in next(iter(cases.values())):
        cells = " | ".join(f"{case[name]['seconds']:.3f} | {case[name]['ratio']:.2f}" for case in cases.values())
        lines.append(f"| {name} | {cells} |")
    into_readme(
        HERE.parent / "README.md",
        "bench_cost",
        "\n".join(lines) + f"\n\n`python benchmarks/bench_cost.py` on {machine()}, one thread.",
    )


if __name__ == "__main__":
    tyro.cli(main)
